"""The distribution of every candidate's samples: its shape, its quartiles, and the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchopt2edge.report.figure.axis import Axis
from torchopt2edge.report.figure.canvas import Canvas, Point
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.lanes import LaneChart, candidate_lane
from torchopt2edge.report.figure.style import CandidateStyle
from torchopt2edge.report.text.numbers import significant
from torchopt2edge.report.text.row_view import RowView

_MOST_DOTS = 260  # samples drawn of each candidate, evenly over the time of the run
_LEAST_SAMPLES = 60  # fewer samples have no shape
_HEIGHT = 54.0
_NOTES_TITLE = "median / p90 / p99 ms"
_GOLDEN = 0.6180339887  # its multiples fill a strip evenly, and the same way each time
_CAPTION = (
    "All samples of each candidate, against its own median: the curve is their density, the bar "
    "holds the middle half, the line nine tenths, the dots are up to {dots} samples spread evenly "
    "over the run. A percentile that so few samples cannot support is left out.{beyond}"
)
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Samples:
    """The samples of one candidate in per cent of their median, in the order of measuring."""

    view: RowView
    deviation: Values
    colour: str

    def percentiles(self, *percents: float) -> list[float]:
        return [float(x) for x in np.percentile(self.deviation, percents)]

    def draw(self, canvas: Canvas, axis: Axis, y: float) -> None:
        if self.deviation.size >= _LEAST_SAMPLES:
            canvas.path(self._density(axis, y), f"area {self.colour}", closed=True)
        canvas.dots(self._dots(axis, y + 11), f"dots {self.colour}")
        self._box(canvas, axis, y + 4)

    def _density(self, axis: Axis, foot: float) -> list[Point]:
        """Return the outline of a smoothed histogram, 24 pixels high over ``foot``."""
        bins = max(40, round((axis.end - axis.start) / 4))
        counts, edges = np.histogram(self.deviation, bins, (axis.low, axis.high))
        smooth = np.convolve(counts, (0.25, 0.5, 0.25), mode="same")
        heights = 24.0 * smooth / (smooth.max() or 1.0)
        middles = (edges[:-1] + edges[1:]) / 2
        used = np.flatnonzero(heights > 0.15)
        if not used.size:
            return [(axis.start, foot)]
        inside = range(int(used[0]), int(used[-1]) + 1)
        outline = [(axis.at(float(middles[i])), foot - float(heights[i])) for i in inside]
        return [(outline[0][0] - 2, foot), *outline, (outline[-1][0] + 2, foot)]

    def _dots(self, axis: Axis, top: float) -> list[Point]:
        values = self.deviation[:: max(1, -(-self.deviation.size // _MOST_DOTS))]
        inside = [float(value) for value in values if axis.low <= value <= axis.high]
        return [(axis.at(x), top + 9.0 * (i * _GOLDEN % 1.0)) for i, x in enumerate(inside)]

    def _box(self, canvas: Canvas, axis: Axis, y: float) -> None:
        low, first, middle, third, high = map(axis.at, self.percentiles(5, 25, 50, 75, 95))
        canvas.path([(low, y), (high, y)], f"whisker {self.colour}")
        canvas.rect(first, y - 2.5, (max(1.5, third - first), 5), f"bar {self.colour}")
        canvas.path([(middle, y - 4.5), (middle, y + 4.5)], "middle")


def distribution_chart(views: Sequence[RowView], style: CandidateStyle) -> Figure | None:
    """Draw the distributions of the latencies.

    Args:
        views: The run's rows.
        style: Their colours and markers.

    Returns:
        The figure, or None where no sample was kept.
    """
    known = [each for view in views if (each := _samples(view, style)) is not None]
    if not known:
        return None
    low = min(-2.0, *(each.percentiles(0.5)[0] for each in known))
    high = max(4.0, *(each.percentiles(99)[0] for each in known))
    room = 0.03 * (high - low)
    low, high = max(-100.0, low - room), min(300.0, high + room)
    outside = sum(int((each.deviation > high).sum()) for each in known)
    total = sum(each.deviation.size for each in known)
    beyond = f" {outside} of {total} samples lie beyond the right edge." if outside else ""
    return LaneChart(
        "distribution",
        "Distribution of the latencies",
        [candidate_lane(each.view, _note(each.view), each.draw) for each in known],
        lambda left, right: Axis(low, high, left, right),
        "slower than its own median by (%)",
        notes_title=_NOTES_TITLE,
        guides=[(0.0, "axis")],
        height=(_HEIGHT, _HEIGHT),
        caption=_CAPTION.format(dots=_MOST_DOTS, beyond=beyond),
        lead=f"{_NOTES_TITLE}: ",
    ).figure()


def _samples(view: RowView, style: CandidateStyle) -> _Samples | None:
    samples = [ns for each in view.row.latency_ns for ns in each]
    middle = float(np.median(samples)) if samples else 0.0
    if view.failed or middle <= 0:
        return None
    values = np.asarray(samples, dtype=np.float64)
    return _Samples(view, 100.0 * (values / middle - 1.0), style.colour(view))


def _note(view: RowView) -> str:
    names = ("latency_ms", "p90_ms", "p99_ms")
    return " / ".join(significant(view.value(name)) or "–" for name in names)
