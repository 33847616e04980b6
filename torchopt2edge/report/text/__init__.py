"""The words and numbers of a report."""
