"""Statistics of timed rounds."""
