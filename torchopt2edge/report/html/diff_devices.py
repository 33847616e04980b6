"""``against.html`` above several devices: two runs beside each other on all of them."""

from __future__ import annotations

from torchopt2edge.report.diff import text as diff_text
from torchopt2edge.report.diff.compare import Against
from torchopt2edge.report.diff.devices import Across
from torchopt2edge.report.diff.devices_text import LIMITS, about, headline, ratio, unsaid
from torchopt2edge.report.diff.text import PAGE
from torchopt2edge.report.html.blocks import Cell, Figure, Grid, Prose, Section, listed, section
from torchopt2edge.report.html.device_columns import beside, machines
from torchopt2edge.report.html.device_lanes import Abreast, Dot
from torchopt2edge.report.html.diff import RATIOS, right
from torchopt2edge.report.html.template import fill


def render_html(across: Across) -> str:
    """Return the page; equal input gives equal text, under the policy of a run's own page."""
    return fill(
        headline(across),
        title=diff_text.heading(across.titles),
        sections=_sections(across),
        footer="The comparison as data is in `against.json`, beside this file.",
        kind="comparison",
    )


def _sections(across: Across) -> list[Section | None]:
    strict = Prose("A strict check would fail on these too.") if across.strict else None
    pages = {one.device: f"{one.folder}/{PAGE}" for one, _ in across.compared}
    known = "What became of each device's files"
    ratio = "Latency on every device, after over before"
    return [
        section("beyond", "Beyond the limit", [listed(across.broken)]),
        section("strict", "Cannot be told", [strict, listed(across.strict)]),
        section("apart", "Not compared", [listed(unsaid(across))]),
        section("warnings", "Warnings", [listed(across.warnings)]),
        section("result", "Before and after", [_table(across)]),
        section("ratio", ratio, [_drawn(across, ratio)]),
        machines(about(across), known, "The comparison of each", pages),
        section("limits", "What this cannot tell", [listed(LIMITS)]),
    ]


def _table(across: Across) -> Grid:
    cells = {
        name: [_cell(found, name) for _, found in across.compared] for name in across.candidates
    }
    caption = (
        "Latency after over before, and what else changed. In parentheses: 95 % intervals. "
        "File sizes, memory and scores are in the comparison of each device."
    )
    return beside([one.device for one, _ in across.compared], cells, caption, None)


def _cell(found: Against, name: str) -> Cell:
    return Cell(ratio(found, name), under=diff_text.changed(found, name))


def _drawn(across: Across, title: str) -> Figure | None:
    dots = {
        name: [
            Dot(at, change.by, change.word == "cannot tell")
            for at, (_, found) in enumerate(across.compared)
            if (change := found.of(name, "latency_ms")) is not None and change.by is not None
        ]
        for name in across.candidates
    }
    limit = across.max_regression
    caption = f"{RATIOS} A hollow mark: it cannot be told.{right(limit)}"
    devices = [one.device for one, _ in across.compared]
    edge = None if limit is None else 1.0 + limit
    return Abreast(devices, dots, "latency, after over before", edge).figure(title, caption)
