"""Scores of files on a task, and their parity with the model that they come from."""
