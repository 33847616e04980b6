"""From values to pixels, with round ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torchopt2edge.report.text.numbers import MINUS

_STEPS = (1.0, 2.0, 5.0, 10.0)
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
        """Return the pixel of a value.

        Args:
            value: The value; one beyond an end goes to that end.

        Returns:
            The pixel.
        """
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Return round values between the ends.

        Args:
            most: About how many at most.

        Returns:
            The values, in order.
        """
        return _log_ticks(self, most) if self.log else _linear_ticks(self.low, self.high, most)


AxisFor = Callable[[float, float], Axis]
"""Makes an axis between two pixels."""


def padded(values: Sequence[float], start: float, end: float, room: float = 0.08) -> Axis:
    """Return an axis over values.

    Args:
        values: What it must hold, at least one.
        start: The pixel of its lower end.
        end: The pixel of its upper end.
        room: What it adds at both ends, as a share of the values' range.

    Returns:
        The axis.
    """
    low, high = min(values), max(values)
    gap = (high - low) or abs(high) * 0.02 or 1.0
    return Axis(low - room * gap, high + room * gap, start, end)


def from_zero(values: Sequence[float], start: float, end: float, room: float = 0.06) -> Axis:
    """Return an axis from zero, for lengths that are compared.

    Args:
        values: What it must hold; none is allowed.
        start: The pixel of zero.
        end: The pixel of its upper end.
        room: What it adds at its upper end, as a share of the largest value.

    Returns:
        The axis.
    """
    return Axis(0.0, (max((0.0, *values)) or 1.0) * (1 + room), start, end)


def zero_or_log(values: Sequence[float], start: float, end: float) -> Axis:
    """Return an axis from zero, or a logarithmic one where values span more than a factor of ten.

    Args:
        values: What it must hold; those of 0 or less do not count.
        start: The pixel of its lower end.
        end: The pixel of its upper end.

    Returns:
        The axis.
    """
    known = [value for value in values if value > 0]
    if not known or max(known) <= _LINEAR_UP_TO * min(known):
        return from_zero(known, start, end, 0.08)
    room = (max(known) / min(known)) ** 0.06
    return Axis(min(known) / room, max(known) * room, start, end, log=True)


def tick_text(value: float) -> str:
    """Return the text of a tick.

    Args:
        value: Its value.

    Returns:
        The shortest text, with a real minus sign.
    """
    return f"{value:g}".replace("-", MINUS)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / max(1, most)
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * unit for unit in _STEPS if scale * unit >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def _log_ticks(axis: Axis, most: int) -> list[float]:
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    for units in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{unit * 10.0**power:.6g}") for power in powers for unit in units]
        ticks = [value for value in ticks if axis.low <= value <= axis.high]
        if len(ticks) <= most:
            break
    return ticks[:: max(1, math.ceil(len(ticks) / most))]
