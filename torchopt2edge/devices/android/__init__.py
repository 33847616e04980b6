"""Android phones: their sensors, and how they are kept steady."""
