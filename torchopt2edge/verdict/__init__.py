"""Which candidate is chosen, which ones are excluded, and why."""
