"""``against.html`` above several devices: two runs beside each other on all of them."""

from __future__ import annotations

from torchopt2edge.report import against_words
from torchopt2edge.report.across import Across
from torchopt2edge.report.across_words import LIMITS, about, headline, ratio, unsaid
from torchopt2edge.report.against import Against, share
from torchopt2edge.report.against_words import PAGE
from torchopt2edge.report.line import plain
from torchopt2edge.report.page.abreast import Abreast, Dot
from torchopt2edge.report.page.block import (
    Cell,
    Figure,
    Grid,
    Links,
    Prose,
    Section,
    filled,
    grid,
    listed,
    section,
)
from torchopt2edge.report.page.fill import fill


def render_html(across: Across) -> str:
    """Return the page; equal input gives equal text, under the policy of a run's own page."""
    return fill(
        headline(across),
        title=" → ".join(plain(title) or "torchopt2edge" for title in across.titles),
        sections=_sections(across),
        footer="The comparison as data is in `against.json`, beside this file.",
        kind="comparison",
    )


def _sections(across: Across) -> list[Section]:
    strict = Prose("A strict check would fail on these too.") if across.strict else None
    machines = grid("devices-table", "What became of each device's files", filled(about(across)), 3)
    pages = tuple((plain(one.device), f"{one.folder}/{PAGE}") for one, _ in across.compared)
    ratio = "Latency on every device, after over before"
    every = [
        section("beyond", "Beyond the limit", [listed(across.broken)]),
        section("strict", "Cannot be told", [strict, listed(across.strict)]),
        section("apart", "Not compared", [listed(unsaid(across))]),
        section("warnings", "Warnings", [listed(across.warnings)]),
        section("result", "Before and after", [_table(across)]),
        section("ratio", ratio, [_drawn(across, ratio)]),
        section("devices", "Devices", [machines, Links("The comparison of each", pages)]),
        section("limits", "What this cannot tell", [listed(LIMITS)]),
    ]
    return [one for one in every if one is not None]


def _table(across: Across) -> Grid:
    rows = tuple(
        (Cell(plain(name), head=True), *(_cell(found, name) for _, found in across.compared))
        for name in across.candidates
    )
    head = ("candidate", *(plain(one.device) for one, _ in across.compared))
    caption = (
        "Latency after over before, and what else changed. In parentheses: 95 % intervals. "
        "File sizes, memory and scores are in the comparison of each device."
    )
    return Grid("result-table", caption, head, rows, sortable=True)


def _cell(found: Against, name: str) -> Cell:
    return Cell(ratio(found, name), under=against_words.changed(found, name))


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
    caption = (
        "Marks are the ratios, bars their 95 % intervals. The dashed line at 1: no change. A "
        "hollow mark: it cannot be told."
    )
    if limit is not None:
        caption += f" The line to its right: the limit of {share(limit)}."
    devices = [one.device for one, _ in across.compared]
    edge = None if limit is None else 1.0 + limit
    return Abreast(devices, dots, "latency, after over before", edge).figure(title, caption)
