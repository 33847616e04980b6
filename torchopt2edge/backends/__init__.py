"""One package per runtime. A backend lowers the shared float graph to its file, and opens it."""
