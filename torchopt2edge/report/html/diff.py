"""``against.html``: two runs beside each other in one file that asks for nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torchopt2edge.report.diff.compare import Against, Change, share
from torchopt2edge.report.diff.text import (
    LIMITS,
    cells,
    difference,
    heading,
    headline,
    ratio,
    winners,
)
from torchopt2edge.report.html.blocks import (
    Cell,
    Figure,
    Grid,
    Prose,
    Section,
    figure,
    listed,
    section,
)
from torchopt2edge.report.html.svg.axis import Axis, span
from torchopt2edge.report.html.svg.canvas import Canvas
from torchopt2edge.report.html.svg.lanes import Lane, Sheet
from torchopt2edge.report.html.template import fill
from torchopt2edge.report.text.row_view import is_share, metric_title, plain

_TALL = 26.0
_FURTHEST = 4.0  # an interval is drawn no further than so many times the largest change
_LOOKS = {  # marker and class: a shape beside each colour
    "slower": (">", "mark cd55e00"),
    "worse": ("<", "mark cd55e00"),
    "faster": ("<", "mark c0072b2"),
    "better": (">", "mark c0072b2"),
    "same": ("o", "mark c4d4d4d"),
    "cannot tell": ("D", "mark hollow c4d4d4d"),
}

RATIOS = "Marks are the ratios, bars their 95 % intervals. The dashed line at 1: no change."
"""What is said under a drawing of latencies, after over before."""


def render_html(against: Against) -> str:
    """Return the page; equal input gives equal text, under the policy of the run's own page."""
    return fill(
        headline(against),
        title=heading(against.titles),
        measured=winners(against),
        sections=_sections(against),
        footer="The comparison as data is in `against.json`, beside this file.",
        kind="comparison",
    )


def _sections(against: Against) -> list[Section | None]:
    strict = Prose("A strict check would fail on these too.") if against.strict else None
    return [
        section("warnings", "Warnings", [listed(against.warnings)]),
        section("beyond", "Beyond the limit", [listed(against.broken)]),
        section("strict", "Cannot be told", [strict, listed(against.strict)]),
        section("result", "Before and after", [_table(against), Prose(against.method)]),
        section("latency", "Latency, after over before", _latency(against)),
        section("accuracy", "Task metric, after minus before", _quality(against)),
        section("limits", "What this cannot tell", [listed(LIMITS)]),
    ]


def _table(against: Against) -> Grid:
    head, *body = cells(against)
    rows = tuple(tuple(Cell(text, head=not i) for i, text in enumerate(row)) for row in body)
    caption = "Every candidate of the two runs. In parentheses: 95 % intervals."
    text = frozenset({0, len(head) - 1})
    return Grid("result-table", caption, tuple(head), rows, text, sortable=True)


def _latency(against: Against) -> tuple[Figure, ...]:
    known = [one for one in against.changes if one.metric == "latency_ms" and _drawn(one)]
    limit = against.max_regression
    edges = [] if limit is None else [1.0 + limit]
    caption = f"{RATIOS}{right(limit)}"
    return _lanes(known, ratio, ("ratio", "Latency, after over before"), (1.0, edges), caption)


def right(limit: float | None) -> str:
    """Say what the line is that stands right of no change, behind `RATIOS`."""
    return "" if limit is None else f" The line to its right: the limit of {share(limit)}."


def _quality(against: Against) -> tuple[Figure, ...]:
    every = [one for one in against.changes if one.kind == "difference" and _drawn(one)]
    metric, limit = every[0].metric if every else "", against.max_regression
    known = [one for one in every if one.metric == metric]
    points = is_share(metric)
    edges = [-100.0 * limit] if points and limit is not None else []
    title = f"{metric_title(metric)}, after minus before{' (points)' if points else ''}"
    caption = "Marks are the differences, bars their 95 % intervals. The dashed line: no change."
    if edges:
        caption += f" The line to its left: the limit of {share(limit or 0.0)}, in points."
    return _lanes(known, difference, ("difference", title), (0.0, edges), caption)


def _drawn(change: Change) -> bool:
    return change.by is not None and math.isfinite(change.by[0])


def _lanes(
    known: Sequence[Change],
    note: Callable[[Change], str],
    title: tuple[str, str],
    lines: tuple[float, Sequence[float]],
    caption: str,
) -> tuple[Figure, ...]:
    """Draw one lane a change; ``title`` is (key, words), ``lines`` where none and the limit are."""
    if not known:
        return ()
    neutral, edges = lines

    def draw(wide: bool) -> Canvas:
        lanes = [Lane(plain(one.candidate), note(one)) for one in known]
        sheet = Sheet.of(lanes, wide, _TALL)
        axis = span([neutral, *edges, *_ends(known, neutral)], sheet.left, sheet.right)
        canvas = sheet.canvas(axis, title[1])
        sheet.rule(canvas, axis.at(neutral), "onset")
        for edge in edges:
            sheet.rule(canvas, axis.at(edge), "axis")
        for at, one in enumerate(known):
            _mark(canvas, axis, sheet.middle(at), one)
        return canvas

    said = "; ".join(f"{plain(one.candidate)} {note(one)}, {one.word}" for one in known)
    return (figure(title[0], title[1], said, draw, caption),)


def _ends(known: Sequence[Change], neutral: float) -> list[float]:
    """Return what the axis must hold: every value, and the interval's ends within reason."""
    values = [one.by[0] for one in known if one.by]
    least = 0.05 if neutral else 1.0
    reach = _FURTHEST * max(least, *(abs(value - neutral) for value in values))
    ends = [end for one in known if one.by for end in one.by[1:] if math.isfinite(end)]
    return [*values, *(min(max(end, neutral - reach), neutral + reach) for end in ends)]


def _mark(canvas: Canvas, axis: Axis, y: float, change: Change) -> None:
    value, low, high = change.by or (0.0, 0.0, 0.0)
    marker, kind = _LOOKS[change.word]
    if low < high and math.isfinite(high - low):
        canvas.path([(axis.at(low), y), (axis.at(high), y)], f"whisk {kind.split()[-1]}")
    canvas.mark(marker, axis.at(value), y, 5.0, kind)
