"""The lower panels: a row per candidate with its latencies on the left, its file's size right."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torchopt2edge.report.figure.latency_axis import milliseconds
from torchopt2edge.report.figure.style import INK, MUTED, Look, literal
from torchopt2edge.report.text.numbers import interval, significant, times
from torchopt2edge.report.text.row_view import Line, clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEY = (
    "marker: median of the rounds   line: 95 % interval   ticks: every round   "
    "band: 5th to 95th percentile of the samples"
)


def latency(axes: Axes, table: Sequence[Line], look: Look) -> None:
    """Draw medians with intervals over the medians of the rounds and the spread of samples."""
    axes.set_title("Latency")
    _rows(axes, table)
    if all(line.get("latency_ms") is None for line in table):
        axes.set_xticks([])
    axes.grid(True, axis="x")
    milliseconds(axes, [value for line in table for value in _extent(line)])
    for line in table:
        _latency(axes, line, look)
        _values(axes, line)


def _values(axes: Axes, line: Line) -> None:
    """Write the numbers in two columns right of the panel."""
    if line.failed:
        return
    ends = line.get("latency_low_ms"), line.get("latency_high_ms")
    middle = interval(line.get("latency_ms"), *ends)
    ratio = times(line.ratio[0]) if line.ratio else ""
    for text, points, side in ((middle, 8, "left"), (ratio, 172, "right")):
        axes.annotate(
            text,
            (1, line.number),
            xycoords=axes.get_yaxis_transform(),
            xytext=(points, 0),
            textcoords="offset points",
            va="center",
            ha=side,
            fontsize=8.5,
            fontweight="bold" if line.winner or line.tied else "normal",
        )


def size(axes: Axes, table: Sequence[Line], look: Look) -> None:
    """Draw the files' sizes as bars from zero."""
    axes.set_title("File size")
    axes.set_xlabel("MB")
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.grid(True, axis="x")
    known = [(line, value) for line in table if (value := line.get("size_mb")) is not None]
    if not known:
        axes.set_xticks([])
    for line, value in known:
        axes.barh(
            line.number,
            value,
            height=0.55,
            color=look.colour(line),
            alpha=0.35 if line.out or line.failed else 0.85,
        )
        axes.annotate(
            significant(value),
            (value, line.number),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    axes.set_xlim(0, 1.25 * max((value for _, value in known), default=1.0) or 1.0)


def _rows(axes: Axes, table: Sequence[Line]) -> None:
    """Name the rows, with the numbers that crowded labels of the first panel refer to."""
    axes.set_yticks([line.number for line in table])
    names = axes.set_yticklabels(
        [f"{line.mark} {literal(line.name)}  {line.number:>2}" for line in table]
    )
    for name, line in zip(names, table, strict=True):
        name.set_color(MUTED if line.failed or line.out else INK)
        name.set_fontweight("bold" if line.winner or line.tied else "normal")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(1, len(table)) + 0.6, 0.4)


def _rounds(line: Line) -> list[float]:
    """Return the medians of the rounds in ms."""
    return [statistics.median(ns) / 1e6 for ns in line.row.latency_ns if ns]


def _band(line: Line) -> tuple[float, float] | None:
    """Return the 5th and 95th percentile of all samples in ms (nearest rank)."""
    samples = sorted(ns for each in line.row.latency_ns for ns in each)
    if not samples:
        return None
    last = len(samples) - 1
    return samples[round(0.05 * last)] / 1e6, samples[round(0.95 * last)] / 1e6


def _extent(line: Line) -> list[float]:
    if line.failed:
        return []
    known = [line.get(name) for name in ("latency_ms", "latency_low_ms", "latency_high_ms")]
    return [*(value for value in known if value is not None), *_rounds(line), *(_band(line) or ())]


def _latency(axes: Axes, line: Line, look: Look) -> None:
    middle, colour, y = line.get("latency_ms"), look.colour(line), line.number
    if line.failed or middle is None:
        text = f"failed: {line.err}" if line.failed else "not measured"
        axes.text(
            0.008,
            y,
            literal(clip(text, 78), 78),
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8.5,
            color=MUTED,
        )
        return
    band = _band(line)
    if band is not None:
        axes.hlines(y, *band, color=colour, linewidth=7, alpha=0.16, zorder=2)
    rounds = _rounds(line)
    axes.vlines(rounds, y - 0.2, y + 0.2, color=colour, linewidth=0.9, alpha=0.45, zorder=3)
    low, high = line.get("latency_low_ms"), line.get("latency_high_ms")
    if low is not None and high is not None:
        axes.hlines(y, low, high, color=INK, linewidth=1.6, zorder=4)
    axes.scatter(
        [middle],
        [y],
        s=26,
        marker=look.marker(line),
        facecolor="white" if line.out else colour,
        edgecolor=colour if line.out else "white",
        linewidth=1.1,
        zorder=5,
    )
