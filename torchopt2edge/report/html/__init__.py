"""The report as one HTML file: it opens from disk, makes no request, and prints."""
