"""Scores of files on a task, and their parity with the model they were made from."""
