"""Pruning, sparsity and distillation."""
