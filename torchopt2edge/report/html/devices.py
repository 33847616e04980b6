"""``report.html`` above several devices: all of them in one file that asks for nothing."""

from __future__ import annotations

import math

from torchopt2edge.report.devices.table import LIMITS, Column, Side, flips, headline, notes
from torchopt2edge.report.devices.text import about, failures, latency
from torchopt2edge.report.html.blocks import (
    Block,
    Cell,
    Code,
    Figure,
    Items,
    Prose,
    Section,
    listed,
    section,
)
from torchopt2edge.report.html.device_columns import beside, machines
from torchopt2edge.report.html.device_lanes import Abreast, Dot
from torchopt2edge.report.html.tables import standing
from torchopt2edge.report.html.template import fill
from torchopt2edge.report.text.numbers import times
from torchopt2edge.report.text.row_view import Line, plain


def render_html(side: Side) -> str:
    """Return the page; equal input gives equal text, under the policy of a run's own page."""
    return fill(
        headline(side),
        title=plain(side.title) or "torchopt2edge",
        reasons=flips(side),
        sections=_sections(side),
        footer="The devices as data are in `verdict.json`, beside this file; every sample is in "
        "`rows.jsonl` of each device's folder.",
    )


def _sections(side: Side) -> list[Section | None]:
    failed = Items(tuple(failures(side)))
    known = "What measured, and what it found"
    reports = {one.device: f"{one.folder}/report.html" for one in side.used}
    ratio = "Latency against the first of each device"
    return [
        section("warnings", "Worth knowing", [listed(notes(side))]),
        section(
            "result",
            "Latency of every file on every device",
            [_table(side), failed if failed.items else None],
        ),
        section("ratio", ratio, [_ratios(side, ratio)]),
        machines(about(side), known, "The report of each", reports),
        section("reproduce", "How to reproduce", [_command(side)]),
        section("limits", "What this cannot tell", [listed(LIMITS)]),
    ]


def _command(side: Side) -> Block | None:
    return Code("The run", plain(side.command)) if side.command else None


def _table(side: Side) -> Block | None:
    """Return one candidate a row and one device a column; how a file stands is said in words."""
    if not side.candidates:
        return Prose("No device measured anything.")
    known = [(column, column.lines) for column in side.columns]
    cells = {
        name: [_cell(column, lines.get(name)) for column, lines in known]
        for name in side.candidates
    }
    caption = "Median latency in milliseconds. In parentheses: 95 % intervals."
    return beside([column.title for column in side.columns], cells, caption, side.pick)


def _cell(column: Column, line: Line | None) -> Cell:
    if line is None:
        return Cell("", under="not made there" if column.verdict else "not used")
    if line.failed:
        return Cell("", under="✗ failed")
    out = "○ out" if line.out else ""
    return Cell(latency(line), under=out or standing(line).replace(" · Pareto set", ""))


def _ratios(side: Side, title: str) -> Figure | None:
    devices = [column.device for column in side.used]
    dots = {name: _dots(side, name) for name in side.candidates}
    drawn = Abreast(devices, dots, "latency over that of the device's first")
    return drawn.figure(
        title,
        "Marks are the ratios, bars their 95 % intervals. The dashed line at "
        f"{times(1.0)}: the device's winner, or the first of its tie. A hollow mark: out of the "
        "race there.",
    )


def _dots(side: Side, name: str) -> list[Dot]:
    found = []
    for at, column in enumerate(side.used):
        ratio = _ratio(column, name)
        if ratio is not None:
            out = name in (column.verdict.rejected if column.verdict else ())
            found.append(Dot(at, ratio, out))
    return found


def _ratio(column: Column, name: str) -> tuple[float, float, float] | None:
    """Return a ratio that can be drawn."""
    found = column.verdict.ratios.get(name) if column.verdict else None
    return found if found and all(math.isfinite(one) and one > 0 for one in found) else None
