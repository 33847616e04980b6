"""Which rows hold the constraints, where the evidence is too thin, and which trade well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchopt2edge.stats.rows import drop_of, metric_value, speed_ms, task_metric
from torchopt2edge.types import BASELINE, Constraints, Measurement

_LIMITS = (("max_size_mb", "size_mb", "size"), ("max_memory_mb", "memory_mb", "peak memory"))


@dataclass(frozen=True)
class Breach:
    """One reason why a row is out; ``excess`` is how far beyond the limit, relative to it."""

    sentence: str
    excess: float = math.inf


def breaches(
    row: Measurement,
    constraints: Constraints,
    reference: Measurement | None,
    rows: Sequence[Measurement],
) -> list[Breach]:
    """Return every reason why a measured row cannot be shipped; none when it is admissible."""
    if row.backend == BASELINE:
        return [Breach("baseline, not a file for the device")]
    found = [_over_latency(row, constraints.max_latency_ms)]
    found += [
        _over(getattr(constraints, field), row.metrics.get(metric), what, "MB")
        for field, metric, what in _LIMITS
    ]
    found.append(_drop_breach(row, constraints.max_drop, reference, rows))
    return [breach for breach in found if breach is not None]


def doubts(
    admissible: Sequence[Measurement], constraints: Constraints, reference: Measurement | None
) -> list[str]:
    """Return sentences on constraints that hold, but not beyond the interval, or unchecked."""
    limit = constraints.max_drop
    if limit is None or not admissible:
        return []
    if reference is None or not task_metric([reference]):
        unknown = "there is no reference row" if reference is None else "no metric was evaluated"
        return [f"max_drop was not checked: {unknown}"]
    sentences = []
    for row in admissible:
        drop = drop_of(row, reference)
        if drop is not None and drop.high > limit:
            way = "rises" if drop.points < 0 else "drops"
            sentences.append(
                f"{row.candidate}: {drop.metric} {way} by {abs(drop.points):.2f}{drop.unit}, "
                f"within the limit of {limit:g}, but the interval{_evidence(row)} reaches a drop "
                f"of {drop.high:.2f}: evaluate on more samples to be sure"
            )
    return sentences


def _over_latency(row: Measurement, limit: float | None) -> Breach | None:
    """Hold a phone to the limit when it is warm, not by the minutes before."""
    warm = row.facts.get("order") == "blocks"
    return _over(limit, speed_ms(row), "latency when warm" if warm else "latency", "ms")


def _over(limit: float | None, value: float | None, what: str, unit: str) -> Breach | None:
    if limit is None:
        return None
    if value is None or math.isnan(value):
        return Breach(
            f"{what} was not measured, so the limit of {limit:g} {unit} is not known to hold"
        )
    if value <= limit:
        return None
    return Breach(
        f"{what} {value:.4g} {unit} is above the limit of {limit:g} {unit}", _excess(value, limit)
    )


def _drop_breach(
    row: Measurement,
    limit: float | None,
    reference: Measurement | None,
    rows: Sequence[Measurement],
) -> Breach | None:
    if limit is None or reference is None or not task_metric(rows):
        return None  # `doubts` says that it was not checked
    drop = drop_of(row, reference)
    if drop is None:
        lacking = row if task_metric([reference]) else reference
        return Breach(
            f"the drop is unknown: {task_metric(rows)} was not evaluated for {lacking.candidate}"
        )
    if drop.points <= limit + 1e-9:
        return None
    sentence = (
        f"{drop.metric} drops by {drop.points:.2f}{drop.unit} "
        f"({drop.reference:.2f} → {drop.own:.2f}), the limit is {limit:g}"
    )
    if drop.low <= limit:
        sentence += (
            f", though the interval{_evidence(row)} ({drop.low:.2f} to {drop.high:.2f}) cannot "
            "tell it from the limit: evaluate on more samples"
        )
    return Breach(sentence, _excess(drop.points, limit))


def _evidence(row: Measurement) -> str:
    count = row.facts.get("n_eval")
    return f" of {count} samples" if count else ""


def _excess(value: float, limit: float) -> float:
    return (value - limit) / max(abs(limit), 0.1)


@dataclass(frozen=True)
class _Aim:
    metric: str
    sign: float


_AIMS = (_Aim("size_mb", 1.0), _Aim("memory_mb", 1.0), _Aim("energy_mj", 1.0))


def pareto(admissible: Sequence[Measurement], pace: Mapping[str, float]) -> tuple[str, ...]:
    """Return the files that no other beats in everything that all of them have measured.

    ``pace`` is by id what stands for latency, the smaller the faster.
    """
    task = task_metric(admissible)
    aims = [*_AIMS, *([_Aim(task, -1.0)] if task else [])]
    aims = [aim for aim in aims if all(_has(row, aim.metric) for row in admissible)]
    points = [
        (pace[row.candidate], *(aim.sign * row.metrics[aim.metric] for aim in aims))
        for row in admissible
    ]
    return tuple(
        row.candidate
        for row, point in zip(admissible, points, strict=True)
        if not any(_dominates(other, point) for other in points)
    )


def _has(row: Measurement, metric: str) -> bool:
    return metric_value(row, metric) is not None


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
