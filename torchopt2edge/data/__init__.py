"""Data sets, one file each, and what the stages and the comparison do with any of them."""

from torchopt2edge.data.dataset import DataSet, Samples, Split, check_disjoint, loader

__all__ = ["DataSet", "Samples", "Split", "check_disjoint", "loader"]
