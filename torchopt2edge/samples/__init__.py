"""Sample sets on disk: what calibrates, what is compared."""
