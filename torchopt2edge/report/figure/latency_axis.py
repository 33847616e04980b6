"""The axis of latencies: linear from zero, logarithmic where a factor of ten would hide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def milliseconds(axes: Axes, values: Sequence[float]) -> None:
    """Set the x axis for latencies in milliseconds, and say when it is logarithmic."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    positive = [value for value in values if value > 0]
    if not positive:
        axes.set_xlabel("latency (ms)")
        return
    low, high = min(positive), max(positive)
    if high <= 10 * low:
        axes.set_xlim(0, high * 1.08)
        axes.set_xlabel("latency (ms)")
        return
    axes.set_xscale("log")
    room = (high / low) ** 0.06
    axes.set_xlim(low / room, high * room)
    axes.set_xlabel("latency (ms, logarithmic)")
    axes.xaxis.set_major_locator(LogLocator(subs=_subs(high / low)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _subs(span: float) -> tuple[float, ...]:
    """Return where a decade gets its ticks: the shorter the axis, the more."""
    return (1.0, 2.0, 3.0, 5.0) if span < 50 else (1.0, 2.0, 5.0) if span < 2000 else (1.0,)
