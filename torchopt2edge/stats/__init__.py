"""Statistics of timed rounds and of paired scores."""
