"""``against.html``: a comparison of two runs in one file that makes no request."""

from __future__ import annotations

from collections.abc import Mapping

from torchopt2edge.report.diff.compare import RunDiff
from torchopt2edge.report.diff.figures import ACCURACY, LATENCY
from torchopt2edge.report.diff.text import LIMITS, cells, heading, headline, winners
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.html.blocks import Cell, Paragraph, Section, Table, item_list, section
from torchopt2edge.report.html.template import fill

STRICT = "A strict check would fail on these too."
"""What stands over the findings that may break a limit."""


def render_html(diff: RunDiff, figures: Mapping[str, Figure]) -> str:
    """Return the page.

    Args:
        diff: The comparison.
        figures: Its figures by their keys.

    Returns:
        The HTML; equal input gives equal text.
    """
    return fill(
        headline(diff),
        title=heading(diff.titles),
        measured=winners(diff),
        sections=_sections(diff, figures),
        footer="The comparison as data is in `against.json`, beside this file.",
        kind="comparison",
    )


def _sections(diff: RunDiff, figures: Mapping[str, Figure]) -> list[Section | None]:
    strict = Paragraph(STRICT) if diff.strict else None
    return [
        section("warnings", "Warnings", [item_list(diff.warnings)]),
        section("broken", "Beyond the limit", [item_list(diff.broken)]),
        section("strict", "Inconclusive", [strict, item_list(diff.strict)]),
        section("result", "Before and after", [_table(diff), Paragraph(diff.method)]),
        section("latency", "Latency, after over before", [figures.get(LATENCY)]),
        section("accuracy", "Task metric, after minus before", [figures.get(ACCURACY)]),
        section("limits", "Limits of this comparison", [item_list(LIMITS)]),
    ]


def _table(diff: RunDiff) -> Table:
    head, *body = cells(diff)
    rows = tuple(tuple(Cell(text, head=not i) for i, text in enumerate(row)) for row in body)
    caption = "Every candidate of the two runs. In parentheses: 95 % intervals."
    text = frozenset({0, len(head) - 1})
    return Table("result-table", caption, tuple(head), rows, text, sortable=True)
