"""The training loop that every training stage uses."""
