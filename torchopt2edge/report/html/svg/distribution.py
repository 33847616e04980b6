"""Every sample's latency: the shape of the distribution, its quartiles, and the samples in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchopt2edge.report.figure.style import Look
from torchopt2edge.report.html.blocks import Figure, figure
from torchopt2edge.report.html.svg.axis import Axis
from torchopt2edge.report.html.svg.canvas import Canvas, Point
from torchopt2edge.report.html.svg.lanes import Sheet, lane, tone
from torchopt2edge.report.text.numbers import significant
from torchopt2edge.report.text.row_view import Line

_SHOWN = 260  # samples drawn of each candidate, evenly over the time of the run
_LEAST = 60  # fewer samples have no shape
_TALL = 54.0
_HEAD = "median / p90 / p99 ms"
_GOLDEN = 0.6180339887  # its multiples fill a strip evenly, and the same way each time
_CAPTION = (
    "All samples of each candidate, against its own median: the hill is their density, the bar "
    "holds the middle half, the line nine tenths, the dots are {shown} samples spread evenly over "
    "the run. A percentile that so few samples cannot support is left out.{beyond}"
)
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Cloud:
    line: Line
    deviation: Values  # in per cent of the candidate's own median, in the order of measuring
    unit: str  # the class of its colour

    def quantiles(self, *percents: float) -> list[float]:
        return [float(x) for x in np.percentile(self.deviation, percents)]


def distributions(table: Sequence[Line], look: Look) -> Figure | None:
    """Return the latencies' distributions, None when no sample was kept."""
    clouds = [cloud for line in table if (cloud := _cloud(line, look)) is not None]
    if not clouds:
        return None
    low = min(-2.0, *(cloud.quantiles(0.5)[0] for cloud in clouds))
    high = max(4.0, *(cloud.quantiles(99)[0] for cloud in clouds))
    room = 0.03 * (high - low)
    edge = (max(-100.0, low - room), min(300.0, high + room))
    said = "; ".join(f"{cloud.line.name} {_numbers(cloud.line)}" for cloud in clouds)

    def draw(wide: bool) -> Canvas:
        return _draw(clouds, edge, wide)

    gone = sum(int((cloud.deviation > edge[1]).sum()) for cloud in clouds)
    total = sum(cloud.deviation.size for cloud in clouds)
    beyond = f" {gone} of {total} samples lie beyond the right edge." if gone else ""
    caption = _CAPTION.format(shown=f"up to {_SHOWN}", beyond=beyond)
    return figure("spread", "Distribution of the latencies", f"{_HEAD}: {said}", draw, caption)


def _cloud(line: Line, look: Look) -> _Cloud | None:
    samples = [ns for each in line.row.latency_ns for ns in each]
    middle = float(np.median(samples)) if samples else 0.0
    if line.failed or middle <= 0:
        return None
    values = np.asarray(samples, dtype=np.float64)
    return _Cloud(line, 100.0 * (values / middle - 1.0), tone(look, line))


def _numbers(line: Line) -> str:
    found = [significant(line.get(name)) or "–" for name in ("latency_ms", "p90_ms", "p99_ms")]
    return " / ".join(found)


def _draw(clouds: Sequence[_Cloud], edge: tuple[float, float], wide: bool) -> Canvas:
    lanes = [lane(cloud.line, _numbers(cloud.line)) for cloud in clouds]
    sheet = Sheet.of(lanes, wide, _TALL, _HEAD)
    axis = Axis(*edge, sheet.left, sheet.right)
    canvas = sheet.canvas(axis, "slower than its own median by (%)", _HEAD)
    sheet.rule(canvas, axis.at(0), "axis")
    for at, cloud in enumerate(clouds):
        middle = sheet.middle(at)
        if cloud.deviation.size >= _LEAST:
            canvas.path(_hill(cloud, axis, middle), f"area {cloud.unit}", closed=True)
        canvas.dots(_rain(cloud, axis, middle + 11), f"dots {cloud.unit}")
        _box(canvas, cloud, axis, middle + 4)
    return canvas


def _hill(cloud: _Cloud, axis: Axis, foot: float) -> list[Point]:
    """Return the outline of a smoothed histogram, 24 pixels high over ``foot``."""
    bins = max(40, round((axis.end - axis.start) / 4))
    counts, edges = np.histogram(cloud.deviation, bins, (axis.low, axis.high))
    smooth = np.convolve(counts, (0.25, 0.5, 0.25), mode="same")
    heights = 24.0 * smooth / (smooth.max() or 1.0)
    middles = (edges[:-1] + edges[1:]) / 2
    used = np.flatnonzero(heights > 0.15)
    if not used.size:
        return [(axis.start, foot)]
    first, last = int(used[0]), int(used[-1])
    hill = [(axis.at(float(middles[i])), foot - float(heights[i])) for i in range(first, last + 1)]
    return [(hill[0][0] - 2, foot), *hill, (hill[-1][0] + 2, foot)]


def _rain(cloud: _Cloud, axis: Axis, top: float) -> list[Point]:
    values = cloud.deviation[:: max(1, -(-cloud.deviation.size // _SHOWN))]
    inside = [float(value) for value in values if axis.low <= value <= axis.high]
    return [(axis.at(x), top + 9.0 * (i * _GOLDEN % 1.0)) for i, x in enumerate(inside)]


def _box(canvas: Canvas, cloud: _Cloud, axis: Axis, y: float) -> None:
    low, first, middle, third, high = map(axis.at, cloud.quantiles(5, 25, 50, 75, 95))
    canvas.path([(low, y), (high, y)], f"whisk {cloud.unit}")
    canvas.rect(first, y - 2.5, (max(1.5, third - first), 5), f"bar {cloud.unit}")
    canvas.path([(middle, y - 4.5), (middle, y + 4.5)], "middle")
