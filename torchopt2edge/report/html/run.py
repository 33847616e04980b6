"""``report.html``: the whole report in one file that opens from disk and makes no request."""

from __future__ import annotations

from collections.abc import Sequence

from torchopt2edge.report.html.sections import sections
from torchopt2edge.report.html.template import fill
from torchopt2edge.report.run_report import RunReport
from torchopt2edge.report.text.method import method
from torchopt2edge.report.text.row_view import RowView, plain
from torchopt2edge.report.text.verdict_text import reasons


def render(report: RunReport) -> str:
    """Return the page of a run.

    Args:
        report: The run's content.

    Returns:
        The HTML; equal input gives equal text.
    """
    return fill(
        report.headline,
        title=plain(report.title or "torchopt2edge"),
        reasons=[plain(reason) for reason in reasons(report.headline, report.verdict)],
        measured=_measured(report.views),
        sections=sections(report),
        footer="Every sample is in `rows.jsonl`, the verdict in `verdict.json`, beside this file.",
    )


def _measured(views: Sequence[RowView]) -> str:
    """Return where and how it was measured on one line, "" when nothing was."""
    known = {what: plain(how) for what, how in method(views, {})}
    parts = [
        *(known[what] for what in ("device", "runtimes") if what in known),
        f"protocol {known['protocol']}" if "protocol" in known else "",
        f"{known['rounds']} rounds" if "rounds" in known else "",
    ]
    return " · ".join(part for part in parts if part)
