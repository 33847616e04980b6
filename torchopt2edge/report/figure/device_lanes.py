"""One lane per candidate with a mark for every device: where the order changes, marks cross."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchopt2edge.report.figure.axis import Axis, padded, zero_or_log
from torchopt2edge.report.figure.canvas import Canvas
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.lanes import IntervalMark, Lane, LaneChart
from torchopt2edge.report.figure.legend import LegendEntry
from torchopt2edge.report.text.numbers import times_interval
from torchopt2edge.report.text.row_view import plain
from torchopt2edge.stats.rounds import Interval

_STEP = 14.0  # from one device's mark to the next within a lane
_STYLES = (  # (marker, colour): a shape beside each colour; further devices begin again
    ("circle", "c-blue"),
    ("square", "c-vermillion"),
    ("diamond", "c-green"),
    ("triangle-up", "c-purple"),
    ("triangle-down", "c-orange"),
    ("plus", "c-sky"),
    ("cross", "c-grey"),
)


@dataclass(frozen=True)
class DeviceMark:
    """A ratio of one candidate on one device.

    Attributes:
        device: The device's position in `DeviceLanes.devices`.
        ratio: The ratio with its interval.
        hollow: Whether only its outline is drawn.
    """

    device: int
    ratio: Interval
    hollow: bool = False


@dataclass(frozen=True)
class DeviceLanes:
    """A chart of ratios on several devices.

    Attributes:
        key: The figure's key.
        title: What it shows.
        devices: The devices' names.
        marks: The marks of every candidate.
        axis_title: What the axis counts.
        caption: What the marks mean.
        limit: A ratio at which a line is drawn, besides the dashed one at 1.
    """

    key: str
    title: str
    devices: Sequence[str]
    marks: Mapping[str, Sequence[DeviceMark]]
    axis_title: str
    caption: str
    limit: float | None = None

    def figure(self) -> Figure | None:
        """Draw it, or return None where there is no mark."""
        known = {plain(name): marks for name, marks in self.marks.items() if marks}
        if not known:
            return None
        ends = [end for marks in known.values() for mark in marks for end in mark.ratio]
        limit = [] if self.limit is None else [self.limit]
        scale = padded if max(ends) < 10 * min(ends) else zero_or_log
        height = 12 + _STEP * len(self.devices)
        return LaneChart(
            self.key,
            self.title,
            [self._lane(name, marks) for name, marks in known.items()],
            lambda left, right: scale([1.0, *limit, *ends], left, right),
            self.axis_title,
            guides=[(1.0, "dashed"), *((edge, "axis") for edge in limit)],
            legend=[self._entry(at, name) for at, name in enumerate(self.devices)],
            height=(height, height),
            caption=self.caption,
        ).figure()

    def _text(self, marks: Sequence[DeviceMark]) -> str:
        return ", ".join(
            f"{plain(self.devices[mark.device])} {times_interval(mark.ratio)}" for mark in marks
        )

    def _entry(self, at: int, name: str) -> LegendEntry:
        marker, colour = _STYLES[at % len(_STYLES)]
        return LegendEntry(plain(name), f"mark {colour}", marker)

    def _lane(self, name: str, marks: Sequence[DeviceMark]) -> Lane:
        def draw(canvas: Canvas, axis: Axis, y: float) -> None:
            for mark in marks:
                value, low, high = mark.ratio
                marker, colour = _STYLES[mark.device % len(_STYLES)]
                height = y + _STEP * (mark.device - (len(self.devices) - 1) / 2)
                drawn = IntervalMark(value, (low, high), marker, colour, mark.hollow)
                drawn.draw(canvas, axis, height)

        return Lane(name, draw, text=self._text(marks))
