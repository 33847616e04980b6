"""``report.html``: the whole report in one file that opens from disk and asks for nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.html.sections import sections
from torchopt2edge.report.html.template import fill
from torchopt2edge.report.text.method import method
from torchopt2edge.report.text.row_view import Line, lines, plain
from torchopt2edge.report.text.verdict_text import headline, reasons
from torchopt2edge.types import Measurement, Verdict


def render(rows: Sequence[Measurement], verdict: Verdict, context: Mapping[str, Any]) -> str:
    """Return the page; ``context`` holds what ``context.json`` does."""
    table = lines(rows, verdict)
    said = headline(rows, verdict)
    return fill(
        said,
        title=plain(context["title"] or "torchopt2edge"),
        reasons=[plain(reason) for reason in reasons(said, verdict)],
        measured=_measured(table),
        sections=sections(table, verdict, context),
        footer="Every sample is in `rows.jsonl`, the verdict in `verdict.json`, beside this file.",
    )


def _measured(table: Sequence[Line]) -> str:
    """Return on one line where and how it was measured, "" when nothing was."""
    known = {what: plain(how) for what, how in method(table, {})}
    parts = [
        *(known[what] for what in ("device", "runtimes") if what in known),
        f"protocol {known['protocol']}" if "protocol" in known else "",
        f"{known['rounds']} rounds" if "rounds" in known else "",
    ]
    return " · ".join(part for part in parts if part)
