"""The run over time: each candidate's rounds, and how much of its speed it keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from torchopt2edge.report.figure.axis import Axis, padded
from torchopt2edge.report.figure.canvas import Canvas, Point
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.lanes import Lane, LaneChart, candidate_lane
from torchopt2edge.report.figure.rounds import (
    has_clock,
    mean_times,
    median_times,
    onset_on_axis,
    round_starts,
)
from torchopt2edge.report.figure.style import CandidateStyle
from torchopt2edge.report.text.facts import finite_number, mapping
from torchopt2edge.report.text.numbers import fixed, signed
from torchopt2edge.report.text.row_view import RowView

_MOST_POINTS = 400  # that a lane has room for
_MOST_BEADS = 60
_LEAST_SPAN = 1.0  # per cent; a smaller variation is not stretched to the lane's height
_RANGE_ROOM = 38.0  # for the two ends of a lane's range, left of it
_ROUNDS_CAPTION = (
    "The median of every round against the candidate's own median, in the order in which they were "
    "measured. What rises in all lanes at once is the machine; what rises in one is the candidate. "
    "The number is the last third of the rounds against the first."
)
_SUSTAINED_CAPTION = (
    "Throughput of every round against that of the candidate's first minute. A dashed line marks "
    "where it began to fall for good; the number is what is left in the last minute."
)
_SENSORS = (("temperature_c", "temperature, °C"), ("clock_mhz", "clock, MHz"))


@dataclass(frozen=True)
class _Series:
    """One lane's curve over time.

    ``texts`` stand at the top and the bottom of its ``range``; ``base`` is where a horizontal line
    is, ``onset`` where a vertical one.
    """

    points: tuple[Point, ...]
    colour: str
    range: tuple[float, float]
    texts: tuple[str, str]
    base: float | None = None
    onset: float | None = None

    def draw(self, canvas: Canvas, axis: Axis, y: float) -> None:
        top = y - 20
        upward = Axis(*self.range, top + 40, top)
        for text, height in zip(self.texts, (top + 6, top + 44), strict=True):
            if text:
                canvas.text(axis.start - 6, height, text, "small muted end")
        if self.base is not None:
            height = upward.at(self.base)
            canvas.path([(axis.start, height), (axis.end, height)], "baseline")
        if self.onset is not None:
            x = axis.at(self.onset)
            canvas.path([(x, top), (x, top + 40)], "dashed")
        curve = [(axis.at(x), upward.at(value)) for x, value in self.points]
        canvas.path(curve, f"curve {self.colour}")
        if len(curve) <= _MOST_BEADS:
            canvas.dots(curve, f"beads {self.colour}")


def rounds_chart(views: Sequence[RowView], style: CandidateStyle) -> Figure | None:
    """Draw the rounds of every candidate over time.

    Args:
        views: The run's rows.
        style: Their colours and markers.

    Returns:
        The figure, or None where no candidate has two rounds.
    """
    known = [(view, points) for view in views if len(points := _deviations(view)) > 1]
    if not known:
        return None
    values = [value for _, points in known for _, value in points]
    low, high = min(-_LEAST_SPAN, *values), max(_LEAST_SPAN, *values)
    places = 0 if high - low >= 20 else 1
    texts = (f"{signed(high, places)} %", f"{signed(low, places)} %")
    series = [
        _Series(points, style.colour(view), (low, high), texts if not at else ("", ""), 0.0)
        for at, (view, points) in enumerate(known)  # the range of every lane is the same
    ]
    lanes = [
        candidate_lane(view, _drift(points), each.draw)
        for (view, points), each in zip(known, series, strict=True)
    ]
    return _chart(
        "rounds",
        "Rounds over time",
        lanes,
        series,
        [view for view, _ in known],
        _ROUNDS_CAPTION,
        "Last third of the rounds against the first: ",
    )


def sustained_chart(views: Sequence[RowView], style: CandidateStyle) -> Figure | None:
    """Draw how much of its speed each candidate keeps in a sustained run, and the sensors.

    Args:
        views: The run's rows.
        style: Their colours and markers.

    Returns:
        The figure, or None where no row is of a sustained run.
    """
    speeds = [(view, points) for view in views if len(points := _speeds(view)) > 1]
    if not speeds:
        return None
    values = [value for _, points in speeds for _, value in points]
    low, high = min(90.0, *values), max(102.0, *values)
    texts = (f"{fixed(high, 0)} %", f"{fixed(low, 0)} %")
    series = [
        _Series(
            points,
            style.colour(view),
            (low, high),
            texts if not at else ("", ""),
            100.0,
            _onset(view),
        )
        for at, (view, points) in enumerate(speeds)
    ]
    known = [view for view, _ in speeds]
    lanes = [
        candidate_lane(view, _kept_text(view), each.draw)
        for view, each in zip(known, series, strict=True)
    ]
    sensors = _sensor_series(known)
    lanes += [Lane(name, each.draw, note) for name, note, each in sensors]
    series += [each for _, _, each in sensors]
    return _chart("sustained", "Sustained speed", lanes, series, known, _SUSTAINED_CAPTION, "")


def _chart(
    key: str,
    title: str,
    lanes: Sequence[Lane],
    series: Sequence[_Series],
    views: Sequence[RowView],
    caption: str,
    lead: str,
) -> Figure:
    times = [x for each in series for x, _ in each.points]
    return LaneChart(
        key,
        title,
        lanes,
        lambda left, right: padded(times, left, right, 0.0),
        "seconds since the run began" if all(map(has_clock, views)) else "round",
        height=(50.0, 50.0),
        indent=_RANGE_ROOM,
        caption=caption,
        lead=lead,
    ).figure()


def _deviations(view: RowView) -> tuple[Point, ...]:
    """Return the rounds' medians over time, in per cent from the candidate's own median."""
    points = median_times(view)
    middle = median(value for _, value in points) if points else 0.0
    return _thinned([(x, 100 * (value / middle - 1)) for x, value in points]) if middle > 0 else ()


def _thinned(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return medians of neighbours where there are more points than room."""
    size = max(1, math.ceil(len(points) / _MOST_POINTS))
    if size == 1:
        return tuple(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return tuple((median(x for x, _ in each), median(y for _, y in each)) for each in groups)


def _drift(points: Sequence[Point]) -> str:
    third = len(points) // 3
    if not third:
        return ""
    first, last = (median(value for _, value in part) for part in (points[:third], points[-third:]))
    return f"{signed(100 * ((100 + last) / (100 + first) - 1), 1)} %"


def _sustained(view: RowView) -> Mapping[str, object]:
    return {} if view.failed else mapping(view.row.facts.get("sustained"))


def _speeds(view: RowView) -> tuple[Point, ...]:
    """Return the throughput of every round over time, in per cent of the first minute's."""
    facts = _sustained(view)
    points = [(x, ms) for x, ms in mean_times(view) if ms > 0] if facts else []
    first = finite_number(facts.get("first_minute_ms"))
    if first is None and points:
        first = median(ms for x, ms in points if x <= points[0][0] + 60.0)
    return _thinned([(x, 100 * first / ms) for x, ms in points]) if first else ()


def _kept_text(view: RowView) -> str:
    kept = finite_number(_sustained(view).get("kept"))
    onset = finite_number(_sustained(view).get("onset_s"))
    parts = [
        "" if kept is None else f"keeps {fixed(kept, 0)} %",
        "" if onset is None else f"falls after {fixed(onset, 0)} s",
    ]
    return ", ".join(part for part in parts if part)


def _onset(view: RowView) -> float | None:
    seconds = finite_number(_sustained(view).get("onset_s"))
    return None if seconds is None else onset_on_axis(view, seconds)


def _sensor_series(views: Sequence[RowView]) -> list[tuple[str, str, _Series]]:
    """Return (name, note, series) of each sensor with readings; the candidates share a machine."""
    lanes = []
    for key, title in _SENSORS:
        points = sorted(point for view in views for point in _readings(view, key))
        if len(points) < 2 or points[0][0] == points[-1][0]:
            continue
        values = [value for _, value in points]
        low, high = min(values), max(values)
        room = 0.02 * ((high - low) or 1.0)
        texts = (fixed(high, 0), fixed(low, 0) if low < high else "")
        note = f"{texts[1]} to {texts[0]}" if texts[1] else texts[0]
        merged = _thinned(list(dict(points).items()))  # one value for each moment
        lanes.append((title, note, _Series(merged, "plain", (low - room, high + room), texts)))
    return lanes


def _readings(view: RowView, name: str) -> list[Point]:
    """Return a sensor's readings: the device's own second by second, else those of each round."""
    watched = view.row.facts.get("watched")
    if isinstance(watched, Mapping) and name in watched:
        pairs = zip(watched["at_s"], watched[name], strict=False)
        return _numbers((at, value) for at, value in pairs)
    readings = view.row.facts.get("sensors") or ()
    rounds = view.row.latency_ns
    if len(readings) != len(rounds):
        return []
    pairs = zip(readings, rounds, strict=True)
    values = [mapping(reading).get(name) for reading, samples in pairs if samples]
    return _numbers(zip(round_starts(view), values, strict=True))


def _numbers(pairs: Iterable[tuple[object, object]]) -> list[Point]:
    """Return the pairs of which both are finite numbers."""
    known = [(finite_number(x), finite_number(y)) for x, y in pairs]
    return [(x, y) for x, y in known if x is not None and y is not None]
