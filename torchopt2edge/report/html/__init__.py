"""The report as one HTML file: it opens from disk, asks for nothing, and prints."""
