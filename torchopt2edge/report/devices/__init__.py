"""One run per device, side by side."""
