"""The run over its time: each candidate's rounds, and how much of its speed it keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from torchopt2edge.report.figure.style import Look
from torchopt2edge.report.html.blocks import Figure, figure
from torchopt2edge.report.html.facts import number
from torchopt2edge.report.html.svg.axis import Axis, span
from torchopt2edge.report.html.svg.canvas import Canvas, Point
from torchopt2edge.report.html.svg.lanes import Lane, Sheet, lane, tone
from torchopt2edge.report.text.numbers import fixed, signed
from torchopt2edge.report.text.row_view import Line

_MOST = 400  # points a lane has room for
_LEAST_SPAN = 1.0  # per cent; a smaller wobble is not blown up to the lane's height
_TRACES = (
    "The median of every round against the candidate's own median, in the order in which they were "
    "measured. What rises in all lanes at once is the machine; what rises in one is the candidate. "
    "The number is the last third of the rounds against the first."
)
_SUSTAINED = (
    "Throughput of every round against that of the candidate's first minute. A dashed line marks "
    "where it began to fall for good; the number is what is left in the last minute."
)
_SENSORS = (("temperature_c", "temperature, °C"), ("clock_mhz", "clock, MHz"))


@dataclass(frozen=True)
class _Series:
    """One lane: points (time, value), the value's range and its dotted line, when there is one."""

    lane: Lane
    points: tuple[Point, ...]
    unit: str
    range: tuple[float, float]
    texts: tuple[str, str]  # of the top and the bottom of its range
    base: float | None = None
    onset: float | None = None


def traces(table: Sequence[Line], look: Look) -> Figure | None:
    """Return the rounds of every candidate, None where none has two."""
    known = [(line, points) for line in table if len(points := _deviations(line)) > 1]
    if not known:
        return None
    values = [y for _, points in known for _, y in points]
    low, high = min(-_LEAST_SPAN, *values), max(_LEAST_SPAN, *values)
    places = 0 if high - low >= 20 else 1
    texts = f"{signed(high, places)} %", f"{signed(low, places)} %"
    series = [
        _Series(lane(line, _drift(points)), points, tone(look, line), (low, high), texts, 0.0)
        for line, points in known
    ]
    said = "Last third of the rounds against the first: " + "; ".join(
        f"{line.name} {_drift(points)}" for line, points in known
    )
    title = _axis_title([line for line, _ in known])
    return figure(
        "traces", "Rounds over time", said, lambda wide: _draw(series, title, wide), _TRACES
    )


def sustained(table: Sequence[Line], look: Look) -> Figure | None:
    """Return the curve of a sustained run, None where no row is of one."""
    known = [line for line in table if _kept(line) and len(_speeds(line)) > 1]
    if not known:
        return None
    speeds = {line.number: _speeds(line) for line in known}
    values = [y for points in speeds.values() for _, y in points]
    low, high = min(90.0, *values), max(102.0, *values)
    texts = f"{fixed(high, 0)} %", f"{fixed(low, 0)} %"
    series = [
        _Series(
            lane(line, _said(line)),
            speeds[line.number],
            tone(look, line),
            (low, high),
            texts,
            100.0,
            _onset(line),
        )
        for line in known
    ]
    series += _sensors(known)
    said = "; ".join(f"{line.name} {_said(line)}" for line in known)
    title = _axis_title(known)
    return figure(
        "sustained", "Sustained speed", said, lambda wide: _draw(series, title, wide), _SUSTAINED
    )


def _draw(series: Sequence[_Series], title: str, wide: bool) -> Canvas:
    sheet = Sheet.of([one.lane for one in series], wide, 50.0)
    times = [x for one in series for x, _ in one.points]
    axis = span(times, sheet.left + 38, sheet.right, 0.0)
    canvas = sheet.canvas(axis, title)
    for at, one in enumerate(series):
        top = sheet.middle(at) - 20
        upward = Axis(*one.range, top + 40, top)
        if not at or one.texts != series[at - 1].texts:  # the next lane's range is the same
            for text, y in zip(one.texts, (top + 6, top + 44), strict=True):
                if text:
                    canvas.text(axis.start - 6, y, text, "small muted end")
        if one.base is not None:
            y = upward.at(one.base)
            canvas.path([(axis.start, y), (axis.end, y)], "base")
        if one.onset is not None:
            x = axis.at(one.onset)
            canvas.path([(x, top), (x, top + 40)], "onset")
        line = [(axis.at(x), upward.at(y)) for x, y in one.points]
        canvas.path(line, f"trace {one.unit}")
        if len(line) <= 60:
            canvas.dots(line, f"beads {one.unit}")
    return canvas


def _times(line: Line) -> list[float]:
    """Return when each round with samples began, or its number where no clock says."""
    rounds = line.row.latency_ns
    began = line.row.facts.get("began_s")
    known = began if isinstance(began, list) and len(began) == len(rounds) else None
    found = [number(one) for one in known] if known else []
    if known is None or None in found:
        found = [float(at) for at in range(1, len(rounds) + 1)]
    return [at for at, each in zip(found, rounds, strict=True) if each and at is not None]


def _axis_title(table: Sequence[Line]) -> str:
    timed = all(_times(line) and line.row.facts.get("began_s") for line in table)
    return "seconds since the run began" if timed else "round"


def _medians(line: Line) -> list[Point]:
    found = [median(each) / 1e6 for each in line.row.latency_ns if each]
    return [] if line.failed else list(zip(_times(line), found, strict=True))


def _means(line: Line) -> list[Point]:
    """Return milliseconds per inference, stalls included: what throughput is made of."""
    found = [sum(each) / len(each) / 1e6 for each in line.row.latency_ns if each]
    return [] if line.failed else list(zip(_times(line), found, strict=True))


def _deviations(line: Line) -> tuple[Point, ...]:
    points = _medians(line)
    middle = median(y for _, y in points) if points else 0.0
    return _thinned([(x, 100 * (y / middle - 1)) for x, y in points]) if middle > 0 else ()


def _thinned(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return medians of neighbours where there are more points than room."""
    size = max(1, math.ceil(len(points) / _MOST))
    if size == 1:
        return tuple(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return tuple((median(x for x, _ in each), median(y for _, y in each)) for each in groups)


def _drift(points: Sequence[Point]) -> str:
    third = len(points) // 3
    if not third:
        return ""
    first, last = (median(y for _, y in part) for part in (points[:third], points[-third:]))
    return f"{signed(100 * ((100 + last) / (100 + first) - 1), 1)} %"


def _kept(line: Line) -> Mapping[str, object]:
    found = line.row.facts.get("sustained")
    return found if isinstance(found, Mapping) and not line.failed else {}


def _speeds(line: Line) -> tuple[Point, ...]:
    points = [(x, y) for x, y in _means(line) if y > 0]
    first = number(_kept(line).get("first_minute_ms"))
    if first is None and points:
        first = median(y for x, y in points if x <= points[0][0] + 60.0)
    return _thinned([(x, 100 * first / y) for x, y in points]) if first else ()


def _said(line: Line) -> str:
    kept = number(_kept(line).get("kept"))
    onset = number(_kept(line).get("onset_s"))
    said = "" if kept is None else f"keeps {fixed(kept, 0)} %"
    return said if onset is None else f"{said}, falls after {fixed(onset, 0)} s".lstrip(", ")


def _onset(line: Line) -> float | None:
    """Return where the fall lies on the axis: the fact counts the candidate's own timed seconds."""
    left = number(_kept(line).get("onset_s"))
    if left is None:
        return None
    timed = [sum(each) / 1e9 for each in line.row.latency_ns if each]
    known = bool(line.row.facts.get("began_s"))
    for began, lasted in zip(_times(line), timed, strict=True):
        if left <= lasted:
            return began + (left if known else 0.0)
        left -= lasted
    return None


def _sensors(table: Sequence[Line]) -> list[_Series]:
    """Return a lane for every sensor that gave numbers; the candidates shared the machine."""
    found = []
    for name, title in _SENSORS:
        points = sorted(point for line in table for point in _sensed(line, name))
        steps = [x for x, _ in points]
        if len(points) < 2 or steps[0] == steps[-1]:
            continue
        values = [y for _, y in points]
        ends = (min(values), max(values))
        gap = (ends[1] - ends[0]) or 1.0
        texts = fixed(ends[1], 0), fixed(ends[0], 0) if ends[0] < ends[1] else ""
        limits = (ends[0] - 0.02 * gap, ends[1] + 0.02 * gap)
        note = f"{texts[1]} to {texts[0]}" if texts[1] else texts[0]
        found.append(_Series(Lane(title, note), _merged(points), "plain", limits, texts))
    return found


def _merged(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return one value for each moment."""
    return _thinned(list(dict(points).items()))


def _sensed(line: Line, name: str) -> list[Point]:
    """Return what the device's own watch saw second by second, else what each round's end shows."""
    watched = line.row.facts.get("watched")
    if isinstance(watched, Mapping) and name in watched:
        seen = [
            (number(at), number(one))
            for at, one in zip(watched["at_s"], watched[name], strict=False)
        ]
        return [(x, y) for x, y in seen if x is not None and y is not None]
    readings = line.row.facts.get("sensors") or ()
    rounds = line.row.latency_ns
    if len(readings) != len(rounds):
        return []
    shown = [one for one, each in zip(readings, rounds, strict=True) if each]
    values = [number(one.get(name)) if isinstance(one, Mapping) else None for one in shown]
    return [(x, y) for x, y in zip(_times(line), values, strict=True) if y is not None]
