"""What must lie on a device before anything is measured there."""
