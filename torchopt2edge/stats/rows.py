"""What the rows of a run say: their task metric, its loss against the reference, their latency."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torchopt2edge.types import Measurement


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
        """What the metric is counted in: points of per cent, unless its name says dB."""
        return " dB" if self.metric.endswith("_db") else " points"

    @property
    def points(self) -> float:
        """The loss; negative when the row is better than the reference."""
        return self.reference - self.own


def metric_of(rows: Iterable[Measurement], name: str | None = None) -> str | None:
    """Return the name of the task metric that these rows have a value of; NaN is none.

    With ``name`` it is that one or None.
    """
    for row in rows:
        own = name or row.facts.get("metric")
        if isinstance(own, str) and math.isfinite(row.metrics.get(own, math.nan)):
            return own
    return None


def drop_of(row: Measurement, reference: Measurement) -> Drop | None:
    """Return the loss against the reference, or None when one of the two has no value."""
    metric = metric_of([reference])
    if metric is None or metric_of([row], metric) is None:
        return None
    own, best = row.metrics[metric], reference.metrics[metric]
    if row is reference:
        return Drop(metric, own, best, 0.0, 0.0)
    if "drop_low" in row.metrics and "drop_high" in row.metrics:
        return Drop(metric, own, best, row.metrics["drop_low"], row.metrics["drop_high"])
    spread = math.hypot(_half_width(row, metric), _half_width(reference, metric))
    return Drop(metric, own, best, best - own - spread, best - own + spread)


def _half_width(row: Measurement, metric: str) -> float:
    low, high = row.metrics.get(f"{metric}_low"), row.metrics.get(f"{metric}_high")
    return 0.0 if low is None or high is None else (high - low) / 2.0


def speed_ms(row: Measurement) -> float:
    """Return the latency that decides: of all rounds, or of the warm ones under ``sustained``."""
    import numpy as np

    from torchopt2edge.stats import rounds as round_stats

    warm = round_stats.settled(row.latency_ns, row.facts.get("order"))
    if warm is row.latency_ns:
        return row.metrics.get("latency_ms", math.nan)
    return float(np.median(round_stats.round_medians(warm))) / 1e6


def reference_row(rows: Sequence[Measurement]) -> str | None:
    """Name the row that accuracy is held against: the first PyTorch row, else the first fp32."""
    measured = [row for row in rows if row.err is None]
    order = sorted(measured, key=lambda row: (row.backend != "torch", row.scheme != "fp32"))
    good = [row for row in order if row.scheme == "fp32"]
    return good[0].candidate if good else None


def task_metric(rows: Sequence[Measurement]) -> str:
    """Return the name of the run's task metric, "" when none was measured."""
    for row in rows:
        name = row.facts.get("metric")
        if isinstance(name, str) and name in row.metrics:
            return name
    return ""


def reference(rows: Sequence[Measurement]) -> Measurement | None:
    """Return the row that drops are counted from: the one that says so, else PyTorch's first."""
    sound = [row for row in rows if row.err is None]
    said = [row for row in sound if row.facts.get("reference") is True]
    return next(iter(said or [row for row in sound if row.backend == "torch"]), None)
