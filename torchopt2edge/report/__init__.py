"""The report: what a run measured, for a terminal, a pull request and a later reading."""

from __future__ import annotations

from torchopt2edge.report.console import show
from torchopt2edge.report.folder import read, write
from torchopt2edge.report.words import headline

__all__ = ["headline", "read", "show", "write"]
