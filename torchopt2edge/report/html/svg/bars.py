"""Lanes of one number a candidate: dots with intervals, bars, and bars of several parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torchopt2edge.report.figure.points import least_shown
from torchopt2edge.report.figure.style import Look
from torchopt2edge.report.html.blocks import Figure, figure
from torchopt2edge.report.html.svg.axis import Axis, from_zero, span
from torchopt2edge.report.html.svg.canvas import Canvas, width_of
from torchopt2edge.report.html.svg.lanes import Sheet, ends, finite, lane, tone
from torchopt2edge.report.text.numbers import interval, significant, spread
from torchopt2edge.report.text.row_view import Line, is_share, metric_title

_TALL = 26.0
PHASES = (
    ("library_ms", "library load"),
    ("import_ms", "import"),
    ("load_ms", "session creation"),
    ("first_ms", "first inference"),
)


def quality(table: Sequence[Line], look: Look) -> Figure | None:
    """Return the task metric with its intervals, None where nothing was evaluated."""
    metric = table[0].metric if table else ""
    known = [line for line in table if not line.failed and finite(line, metric) is not None]
    if not known:
        return None
    unit = " (%)" if is_share(metric) else ""
    title = f"{metric_title(metric)}{unit}"

    floor = least_shown([finite(line, metric) or 0.0 for line in known]) if unit else -math.inf

    def _seen(line: Line) -> bool:
        return (finite(line, metric) or 0.0) >= floor

    def note(line: Line) -> str:
        pair = line.get(f"{metric}_low"), line.get(f"{metric}_high")
        return spread(line.get(metric), *pair, line.places)

    def draw(wide: bool) -> Canvas:
        sheet = Sheet.of([lane(line, note(line)) for line in known], wide, _TALL)
        values = [v for line in known if _seen(line) for v in _whole(line, metric)]
        axis = span(values, sheet.left, sheet.right)
        if is_share(metric):
            axis = Axis(max(0.0, axis.low), min(100.4, axis.high), axis.start, axis.end)
        canvas = sheet.canvas(axis, title)
        base = next((finite(line, metric) for line in known if line.reference), None)
        if base is not None:
            sheet.rule(canvas, axis.at(base), "onset")
        for at, line in enumerate(known):
            y, colour = sheet.middle(at), tone(look, line)
            kind = f"mark {'hollow ' if line.out else ''}{colour}"
            if not _seen(line):
                canvas.mark("<", sheet.left + 7, y, 5.0, kind)
                continue
            pair = ends(line, f"{metric}_low", f"{metric}_high")
            if pair:
                canvas.path([(axis.at(pair[0]), y), (axis.at(pair[1]), y)], f"whisk {colour}")
            canvas.mark(look.marker(line), axis.at(finite(line, metric) or 0.0), y, 5.0, kind)
        return canvas

    said = "; ".join(f"{line.name} {note(line)}" for line in known)
    caption = (
        "Marks are the values, bars their 95 % intervals; the dashed line is the reference. An "
        "arrow: the value lies further left."
    )
    return figure("quality", f"{metric_title(metric)} of every candidate", said, draw, caption)


def _whole(line: Line, metric: str) -> list[float]:
    found = (finite(line, name) for name in (metric, f"{metric}_low", f"{metric}_high"))
    return [value for value in found if value is not None]


def amounts(table: Sequence[Line], look: Look, key: str, title: str, inner: str = "") -> Figure:
    """Return bars from zero of the metric ``key``; ``inner`` is a part of it, drawn within."""
    known = [line for line in table if not line.failed and finite(line, key) is not None]

    def note(line: Line) -> str:
        pair = line.get(key.replace("_mj", "_low_mj")), line.get(key.replace("_mj", "_high_mj"))
        whole = interval(line.get(key), *pair) if key == "energy_mj" else significant(line.get(key))
        part = significant(line.get(inner)) if inner else ""
        return f"{whole} / {part}" if part else whole

    head = "file / gzip" if inner and any(line.get(inner) is not None for line in known) else ""

    def draw(wide: bool) -> Canvas:
        sheet = Sheet.of([lane(line, note(line)) for line in known], wide, _TALL, head)
        values = [finite(line, key) or 0.0 for line in known]
        axis = from_zero(values, sheet.left, sheet.right)
        canvas = sheet.canvas(axis, title, head)
        for at, line in enumerate(known):
            y, colour = sheet.middle(at), tone(look, line)
            part = finite(line, inner) if inner else None
            faint = "pale" if part is not None else ""
            width = axis.at(finite(line, key) or 0.0) - axis.start
            canvas.rect(axis.start, y - 7, (width, 14), f"bar {faint} {colour}".replace("  ", " "))
            if part is not None:
                canvas.rect(axis.start, y - 7, (axis.at(part) - axis.start, 14), f"bar {colour}")
        return canvas

    said = "; ".join(f"{line.name} {note(line)}" for line in known)
    caption = "Pale: the file. Full: what is left of it under gzip." if head else ""
    return figure(key.partition("_")[0], title, said, draw, caption)


def startup(table: Sequence[Line]) -> Figure | None:
    """Return what passes before the first answer, None where no part of it was measured.

    PyTorch's own import is seconds; beside it nothing else could be seen, so it is left out.
    """
    timed = [line for line in table if not line.failed and _parts(line)]
    files = [line for line in timed if line.row.backend != "torch"]
    shown = files or timed
    if not shown:
        return None
    phases = [i for i, (name, _) in enumerate(PHASES) if any(finite(x, name) for x in shown)]

    def total(line: Line) -> str:
        return f"{significant(sum(value for _, value in _parts(line)))} ms"

    def draw(wide: bool) -> Canvas:
        key = 24.0 if wide else 44.0
        sheet = Sheet.of([lane(line, total(line)) for line in shown], wide, _TALL, key=key)
        values = [sum(value for _, value in _parts(line)) for line in shown]
        axis = from_zero(values, sheet.left, sheet.right)
        canvas = sheet.canvas(axis, "milliseconds from nothing to the first answer")
        _key(canvas, phases, lambda i: f"bar ph{i}", sheet.left if wide else 2.0)
        for at, line in enumerate(shown):
            _stack(canvas, axis, sheet.middle(at), _parts(line))
        return canvas

    said = "; ".join(f"{line.name} {total(line)}" for line in shown)
    left = " PyTorch is in the table only." if len(shown) < len(timed) else ""
    caption = f"The process starts cold; the parts follow each other from left to right.{left}"
    return figure("startup", "Time to the first answer", said, draw, caption)


def _parts(line: Line) -> list[tuple[int, float]]:
    found = [(i, finite(line, name)) for i, (name, _) in enumerate(PHASES)]
    return [(i, value) for i, value in found if value is not None and value >= 0]


def _stack(canvas: Canvas, axis: Axis, y: float, parts: Sequence[tuple[int, float]]) -> None:
    done = 0.0
    for i, value in parts:
        x = axis.at(done)
        canvas.rect(x, y - 7, (axis.at(done + value) - x, 14), f"bar part ph{i}")
        done += value


def _key(canvas: Canvas, phases: Sequence[int], kind: Callable[[int], str], left: float) -> None:
    x, y = left, 12.0
    for i in phases:
        name = PHASES[i][1]
        wide = width_of(name) + 28
        if x + wide > canvas.width:
            x, y = left, y + 18
        canvas.rect(x, y - 9, (10, 10), kind(i))
        canvas.text(x + 15, y, name, "muted")
        x += wide


def steady(table: Sequence[Line]) -> list[list[str]]:
    """Return the cells of the start-up table: each part and the steady state; header first."""
    sound = [line for line in table if not line.failed and _parts(line)]
    names = (*PHASES, ("latency_ms", "steady state"))
    head = ["candidate", *(f"{title} ms" for _, title in names)]
    rows = [[line.name, *(significant(line.get(name)) for name, _ in names)] for line in sound]
    return [head, *rows]
