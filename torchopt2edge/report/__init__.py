"""The report of a run: console, markdown, HTML, figures, and the comparison of two runs."""

from __future__ import annotations

from torchopt2edge.report.console import show
from torchopt2edge.report.run_folder import read, write
from torchopt2edge.report.text.verdict_text import headline

__all__ = ["headline", "read", "show", "write"]
