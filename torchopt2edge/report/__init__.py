"""The report of a run: console, markdown, HTML, figures, and the comparison of two runs."""

from __future__ import annotations

from collections.abc import Sequence

from torchopt2edge.report.console import show
from torchopt2edge.report.run_folder import read, write
from torchopt2edge.types import Measurement, Verdict

__all__ = ["headline", "read", "show", "write"]


def headline(rows: Sequence[Measurement], verdict: Verdict) -> str:
    """Return the one sentence of a run to read first.

    Args:
        rows: The run's rows.
        verdict: The verdict over them.

    Returns:
        Which file to ship and by how much it wins, that there is a tie, or why there is no winner.
    """
    from torchopt2edge.report.text import verdict_text
    from torchopt2edge.report.text.row_view import row_views

    return verdict_text.headline(row_views(rows, verdict), verdict)
