"""Differences of two candidates that were scored on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def student_interval(values: Array) -> tuple[float, float, float]:
    """Return the mean of values and the ends of its 95 % interval (Student's t)."""
    from scipy.stats import sem, t

    middle = float(values.mean())
    if len(values) < 2:
        return middle, middle, middle
    half = float(sem(values)) * float(t.ppf(0.975, len(values) - 1))
    return middle, middle - half, middle + half


def paired(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, float]:
    """Return ``drop`` with its 95 % interval of two rows' facts; {} when they hold no scores.

    In points of hits (`paired_drop`), or in the metric's own unit: the mean difference of the
    samples' scores, with Student's interval of those differences.
    """
    if "correct" in reference and "correct" in candidate:
        return paired_drop(reference["correct"], candidate["correct"])
    if "scores" not in reference or "scores" not in candidate:
        return {}
    gap = np.asarray(reference["scores"]) - np.asarray(candidate["scores"])
    middle, low, high = student_interval(gap)
    return {"drop": middle, "drop_low": low, "drop_high": high}


def paired_drop(reference: str, candidate: str) -> dict[str, float]:
    """Return ``drop`` with its 95 % interval, in points, of hits scored on the same samples.

    Both are strings of 0 and 1. The interval is Wald's for paired proportions with half a
    sample added to each cell (Agresti and Min 2005): far narrower than the difference of two
    separate intervals, since most samples are hit or missed by both.
    ``mcnemar_p`` is the p-value of the exact test.
    """
    lost = sum(a == "1" and b == "0" for a, b in zip(reference, candidate, strict=True))
    won = sum(a == "0" and b == "1" for a, b in zip(reference, candidate, strict=True))
    count = len(reference)
    b, c, n = lost + 0.5, won + 0.5, count + 2.0
    half = 1.96 * float(np.sqrt(b + c - (b - c) ** 2 / n)) / n
    middle = (b - c) / n
    return {
        "mcnemar_p": mcnemar_p(lost, won),
        "drop": 100.0 * (lost - won) / count,
        "drop_low": 100.0 * (middle - half),
        "drop_high": 100.0 * (middle + half),
    }


def mcnemar_p(lost: int, won: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: how often chance alone differs so much.

    Args:
        lost: the number of samples on which the first of two candidates alone is better.
        won: the number of samples on which the second alone is better. Samples on which both are
            equal do not count (McNemar 1947; for scores that are no hits, the sign test).

    Returns:
        0 to 1; 1 when the two never differ.

    Example:
        >>> round(mcnemar_p(9, 1), 3)
        0.021
    """
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0
