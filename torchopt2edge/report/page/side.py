"""``report.html`` above several devices: all of them in one file that asks for nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torchopt2edge.report.line import Line, plain
from torchopt2edge.report.number import times, times_between
from torchopt2edge.report.page.axis import Axis, positive, span
from torchopt2edge.report.page.block import (
    Block,
    Cell,
    Code,
    Figure,
    Grid,
    Items,
    Prose,
    Section,
    figure,
    filled,
    grid,
)
from torchopt2edge.report.page.fill import fill
from torchopt2edge.report.page.sheet import Lane, Sheet
from torchopt2edge.report.page.svg import Canvas, fit, width_of
from torchopt2edge.report.page.table import standing
from torchopt2edge.report.side import LIMITS, Column, Side, flips, headline, notes
from torchopt2edge.report.side_page import about, failures, latency

_STEP = 14.0  # from one device's mark to the next within a lane
_LOOKS = (  # a shape beside each colour; further devices begin anew
    ("o", "c0072b2"),
    ("s", "cd55e00"),
    ("D", "c009e73"),
    ("^", "ccc79a7"),
    ("v", "ce69f00"),
    ("P", "c56b4e9"),
    ("X", "c4d4d4d"),
)


def render_html(side: Side) -> str:
    """Return the page; equal input gives equal text, under the policy of a run's own page."""
    return fill(
        "side.html.jinja",
        headline(side),
        title=plain(side.title) or "torchopt2edge",
        reasons=flips(side),
        measured="",
        reports=[(plain(column.device), column.folder) for column in side.used],
        sections=_sections(side),
    )


def _sections(side: Side) -> list[Section]:
    failed = Items(tuple(failures(side)))
    result: list[Block | None] = [_table(side), failed if failed.items else None]
    machines = grid("devices-table", "What measured, and what it found", filled(about(side)), 3)
    every = [
        _section("warnings", "Worth knowing", [_listed(notes(side))]),
        _section("result", "Latency of every file on every device", result),
        _section("ratio", "Latency against the first of each device", [*_ratios(side)]),
        _section("devices", "Devices", [machines]),
        _section("reproduce", "How to reproduce", [_command(side)]),
        _section("limits", "What this cannot tell", [_listed(LIMITS)]),
    ]
    return [section for section in every if section.blocks]


def _section(key: str, title: str, blocks: Sequence[Block | None]) -> Section:
    return Section(key, title, tuple(block for block in blocks if block is not None))


def _listed(said: Sequence[str]) -> Block | None:
    return Items(tuple(("", plain(one)) for one in said)) if said else None


def _command(side: Side) -> Block | None:
    return Code("The run", plain(side.command)) if side.command else None


def _table(side: Side) -> Block | None:
    """Return one candidate a row and one device a column; how a file stands is said in words."""
    if not side.candidates:
        return Prose("No device measured anything.")
    known = [(column, column.lines) for column in side.columns]
    rows = tuple(
        (Cell(plain(name), head=True), *(_cell(column, table.get(name)) for column, table in known))
        for name in side.candidates
    )
    head = ("candidate", *(column.title for column in side.columns))
    caption = "Median latency in milliseconds. In parentheses: 95 % intervals."
    tones = tuple("won" if name == side.pick else "" for name in side.candidates)
    return Grid("result-table", caption, head, rows, frozenset({0}), tones, sortable=True)


def _cell(column: Column, line: Line | None) -> Cell:
    if line is None:
        return Cell("", under="not made there" if column.verdict else "not used")
    if line.failed:
        return Cell("", under="✗ failed")
    out = "○ out" if line.out else ""
    return Cell(latency(line), under=out or standing(line).replace(" · Pareto set", ""))


@dataclass(frozen=True)
class _Dot:
    """One file on one device: its latency over that of the device's first."""

    device: int
    ratio: tuple[float, float, float]
    out: bool


def _ratios(side: Side) -> tuple[Figure, ...]:
    """Draw a lane a candidate with a mark a device: a turned order is lanes that cross."""
    named = [(name, _dots(side, name)) for name in side.candidates]
    known = [(name, dots) for name, dots in named if dots]
    if not known:
        return ()
    devices = [column.device for column in side.used]

    def draw(wide: bool) -> Canvas:
        keys = _places(devices, wide)
        lanes = [Lane(plain(name)) for name, _ in known]
        tall = 12 + _STEP * len(devices)
        sheet = Sheet.of(lanes, wide, tall, key=keys[-1][1] + 12)
        ends = [end for _, dots in known for dot in dots for end in dot.ratio]
        scale = span if max(ends) < 10 * min(ends) else positive
        axis = scale([1.0, *ends], sheet.left, sheet.right)
        canvas = sheet.canvas(axis, "latency over that of the device's first")
        sheet.rule(canvas, axis.at(1.0), "onset")
        for at, (x, y) in enumerate(keys):
            marker, colour = _LOOKS[at % len(_LOOKS)]
            canvas.mark(marker, x + 6, y - 4, 5.0, f"mark {colour}")
            canvas.text(x + 16, y, fit(devices[at], canvas.width - x - 18), "", devices[at])
        for at, (_, dots) in enumerate(known):
            for dot in dots:
                y = sheet.middle(at) + _STEP * (dot.device - (len(devices) - 1) / 2)
                _mark(canvas, axis, y, dot)
        return canvas

    said = "; ".join(
        f"{plain(name)}: "
        + ", ".join(f"{plain(devices[dot.device])} {times_between(dot.ratio)}" for dot in dots)
        for name, dots in known
    )
    caption = (
        "Marks are the ratios, bars their 95 % intervals. The dashed line at "
        f"{times(1.0)}: the device's winner, or the first of its tie. A hollow mark: out of the "
        "race there."
    )
    return (figure("ratio", "Latency against the first of each device", said, draw, caption),)


def _dots(side: Side, name: str) -> list[_Dot]:
    found = []
    for at, column in enumerate(side.used):
        ratio = _ratio(column, name)
        if ratio is not None:
            out = name in (column.verdict.rejected if column.verdict else ())
            found.append(_Dot(at, ratio, out))
    return found


def _ratio(column: Column, name: str) -> tuple[float, float, float] | None:
    """Return a ratio that can be drawn."""
    found = column.verdict.ratios.get(name) if column.verdict else None
    return found if found and all(math.isfinite(one) and one > 0 for one in found) else None


def _places(devices: Sequence[str], wide: bool) -> list[tuple[float, float]]:
    """Return where each device's key goes; one that finds no room begins a new line."""
    most = 880.0 if wide else 332.0
    x, y, found = 2.0, 12.0, list[tuple[float, float]]()
    for device in devices:
        width = width_of(plain(device)) + 34
        if x > 2 and x + width > most:
            x, y = 2.0, y + 18
        found.append((x, y))
        x += width
    return found


def _mark(canvas: Canvas, axis: Axis, y: float, dot: _Dot) -> None:
    value, low, high = dot.ratio
    marker, colour = _LOOKS[dot.device % len(_LOOKS)]
    if low < high:
        canvas.path([(axis.at(low), y), (axis.at(high), y)], f"whisk {colour}")
    canvas.mark(marker, axis.at(value), y, 5.0, f"mark {'hollow ' if dot.out else ''}{colour}")
