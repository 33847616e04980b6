"""Questions about measurement rows that several packages ask, each with one answer here.

A metric counts where its value is finite: NaN and infinity are no results of an evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from torchopt2edge.types import BASELINE, Measurement


@dataclass(frozen=True)
class Drop:
    """How many points of the task metric a row loses to the reference, with a 95 % interval.

    ``low`` and ``high`` are the row's own paired ``drop_low`` and ``drop_high`` where it has
    them; else they follow from the two marginal intervals as if these were independent, which
    is wider than the truth.
    """

    metric: str
    own: float
    reference: float
    low: float
    high: float

    @property
    def unit(self) -> str:
        """The unit behind a number of this metric: dB if its name ends so, else points."""
        return " dB" if self.metric.endswith("_db") else " points"

    @property
    def points(self) -> float:
        """The loss; negative when the row is better than the reference."""
        return self.reference - self.own


def metric_value(row: Measurement, name: str) -> float | None:
    """Return one metric of a row.

    Args:
        row: The row.
        name: The metric's name, as in ``row.metrics``.

    Returns:
        The value, or None where it was not measured or is not finite.
    """
    value = row.metrics.get(name)
    return float(value) if value is not None and math.isfinite(value) else None


def task_metric(rows: Iterable[Measurement]) -> str:
    """Return the name of the task metric of a run.

    Args:
        rows: The run's rows.

    Returns:
        The ``metric`` fact of the first row that has a finite value of it, "" without any.
    """
    for row in rows:
        name = row.facts.get("metric")
        if isinstance(name, str) and metric_value(row, name) is not None:
            return name
    return ""


def reference_row(rows: Sequence[Measurement]) -> Measurement | None:
    """Return the row that losses of the task metric are counted from.

    It is the row whose facts say ``reference``; where no row says so, the first PyTorch row in
    fp32, else the first row in fp32. Failed rows and rows of vendor tools never are.

    Args:
        rows: The run's rows.

    Returns:
        The row, or None without any.
    """
    sound = [row for row in rows if row.err is None and "checks" not in row.facts]
    marked = [row for row in sound if row.facts.get("reference") is True]
    floats = [row for row in sound if row.scheme == "fp32"]
    baseline = [row for row in floats if row.backend == BASELINE]
    return next(iter([*marked, *baseline, *floats]), None)


def half_width(row: Measurement, metric: str) -> float | None:
    """Return half the width of a metric's 95 % interval.

    Args:
        row: The row.
        metric: The metric, whose ends are ``{metric}_low`` and ``{metric}_high``.

    Returns:
        Half the width in the metric's unit, or None where an end is not known.
    """
    low, high = metric_value(row, f"{metric}_low"), metric_value(row, f"{metric}_high")
    return None if low is None or high is None else (high - low) / 2.0


def drop_of(row: Measurement, reference: Measurement) -> Drop | None:
    """Return the loss of the task metric against the reference.

    Args:
        row: The row that may have lost.
        reference: The reference row; its task metric is the one compared.

    Returns:
        The loss, or None when one of the two rows has no finite value.
    """
    metric = task_metric([reference])
    own, best = metric_value(row, metric), metric_value(reference, metric)
    if own is None or best is None:
        return None
    if row is reference:
        return Drop(metric, own, best, 0.0, 0.0)
    low, high = row.metrics.get("drop_low"), row.metrics.get("drop_high")
    if low is not None and high is not None:
        return Drop(metric, own, best, low, high)
    half = math.hypot(half_width(row, metric) or 0.0, half_width(reference, metric) or 0.0)
    return Drop(metric, own, best, best - own - half, best - own + half)


def speed_ms(row: Measurement) -> float:
    """Return the latency that decides.

    Args:
        row: A measured row.

    Returns:
        Milliseconds: the row's own ``latency_ms``, or where each file ran on its own
        (``order: blocks``) the median of the warm rounds; NaN where nothing was timed.
    """
    # The import brings numpy, which the command line does not need.
    from torchopt2edge.stats import rounds as round_stats

    warm = round_stats.settled(row.latency_ns, row.facts.get("order"))
    if warm is row.latency_ns:
        return row.metrics.get("latency_ms", math.nan)
    return median(round_stats.round_medians(warm).tolist()) / 1e6
