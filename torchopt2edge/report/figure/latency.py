"""Latency of every candidate on one axis: median, interval, rounds, and spread of the samples."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from torchopt2edge.report.figure.axis import Axis, zero_or_log
from torchopt2edge.report.figure.canvas import Canvas
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.lanes import LaneChart, candidate_lane
from torchopt2edge.report.figure.style import CandidateStyle
from torchopt2edge.report.text.numbers import interval, significant, times
from torchopt2edge.report.text.row_view import RowView

_MOST_ROUNDS = 120  # drawn of each candidate, evenly over the run
_CAPTION = (
    "Mark: median of the rounds. Dark line: its 95 % interval. Ticks: the rounds. Band: the 5th "
    "to the 95th percentile of the samples. Ratio: latency against the winner's, or the fastest's "
    "where there is none."
)


@dataclass(frozen=True)
class _LatencyMarks:
    """What is drawn of one candidate, in milliseconds."""

    median: float
    ends: tuple[float, float] | None
    rounds: tuple[float, ...]
    band: tuple[float, float] | None
    marker: str
    colour: str
    hollow: bool

    @property
    def extent(self) -> tuple[float, ...]:
        """Every value that the axis must hold."""
        return self.median, *(self.ends or ()), *self.rounds, *(self.band or ())

    def draw(self, canvas: Canvas, axis: Axis, y: float) -> None:
        """Draw them in a lane."""
        if self.band:
            left, right = map(axis.at, self.band)
            canvas.rect(left, y - 5, (right - left, 10), f"band {self.colour}")
        if self.rounds:
            xs = map(axis.at, self.rounds)
            canvas.dashes([((x, y - 6), (x, y + 6)) for x in xs], f"tick {self.colour}")
        if self.ends:
            low, high = map(axis.at, self.ends)
            canvas.path([(low, y), (high, y)], "middle")
        kind = f"mark {'hollow ' if self.hollow else ''}{self.colour}"
        canvas.mark(self.marker, axis.at(self.median), y, 4.5, kind)


def latency_chart(views: Sequence[RowView], style: CandidateStyle) -> Figure | None:
    """Draw the latencies.

    Args:
        views: The run's rows.
        style: Their colours and markers.

    Returns:
        The figure, or None where nothing was timed.
    """
    known = [(view, marks) for view in views if (marks := _marks(view, style)) is not None]
    if not known:
        return None
    values = [value for _, marks in known for value in marks.extent]
    log = zero_or_log(values, 0.0, 1.0).log
    return LaneChart(
        "latency",
        "Latency",
        [candidate_lane(view, _note(view), marks.draw, _short(view)) for view, marks in known],
        lambda left, right: zero_or_log(values, left, right),
        "latency (ms, logarithmic)" if log else "latency (ms)",
        notes_title="median ms · ratio",
        caption=_CAPTION,
    ).figure()


def _marks(view: RowView, style: CandidateStyle) -> _LatencyMarks | None:
    median = view.finite("latency_ms")
    if view.failed or median is None:
        return None
    rounds = [statistics.median(ns) / 1e6 for ns in view.row.latency_ns if ns]
    return _LatencyMarks(
        median,
        view.finite_ends("latency_ms"),
        tuple(rounds[:: max(1, -(-len(rounds) // _MOST_ROUNDS))]),
        _band(view),
        style.marker(view),
        style.colour(view),
        view.rejected,
    )


def _band(view: RowView) -> tuple[float, float] | None:
    """Return the 5th and 95th percentile of all samples in milliseconds (nearest rank)."""
    samples = sorted(ns for each in view.row.latency_ns for ns in each)
    if not samples:
        return None
    last = len(samples) - 1
    return samples[round(0.05 * last)] / 1e6, samples[round(0.95 * last)] / 1e6


def _note(view: RowView) -> str:
    return _with_ratio(view, interval(view.value("latency_ms"), *view.ends("latency_ms")))


def _short(view: RowView) -> str:
    return _with_ratio(view, significant(view.value("latency_ms")))


def _with_ratio(view: RowView, text: str) -> str:
    return f"{text} · {times(view.ratio[0])}" if view.ratio else text
