"""From values to pixels, with ticks that people read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torchopt2edge.report.text.numbers import MINUS

_ROUND = (1.0, 2.0, 5.0, 10.0)
_LINEAR_UP_TO = 10.0


@dataclass(frozen=True)
class Axis:
    """The values ``low`` to ``high`` on the pixels ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of a value; one beyond the ends goes to the end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Return at most about ``most`` round values within the ends."""
        return _decades(self, most) if self.log else _steps(self.low, self.high, most)


def span(values: Sequence[float], start: float, end: float, room: float = 0.08) -> Axis:
    """Return an axis over the values with some room at both ends."""
    low, high = min(values), max(values)
    gap = (high - low) or abs(high) * 0.02 or 1.0
    return Axis(low - room * gap, high + room * gap, start, end)


def from_zero(values: Sequence[float], start: float, end: float, room: float = 0.06) -> Axis:
    """Return an axis from zero, for lengths that are compared."""
    return Axis(0.0, (max((0.0, *values)) or 1.0) * (1 + room), start, end)


def positive(values: Sequence[float], start: float, end: float) -> Axis:
    """Return an axis from zero, or a logarithmic one where a factor of ten would hide."""
    known = [value for value in values if value > 0]
    if not known or max(known) <= _LINEAR_UP_TO * min(known):
        return from_zero(known, start, end, 0.08)
    room = (max(known) / min(known)) ** 0.06
    return Axis(min(known) / room, max(known) * room, start, end, log=True)


def label(value: float) -> str:
    """Return the text of a tick."""
    return f"{value:g}".replace("-", MINUS)


def _steps(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / max(1, most)
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * unit for unit in _ROUND if scale * unit >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def _decades(axis: Axis, most: int) -> list[float]:
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    for units in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        found = [float(f"{unit * 10.0**power:.6g}") for power in powers for unit in units]
        found = [value for value in found if axis.low <= value <= axis.high]
        if len(found) <= most:
            break
    return found[:: max(1, math.ceil(len(found) / most))]
