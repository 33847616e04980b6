"""What may be concluded from rounds: medians, paired ratios with intervals, percentiles, trends.

The unit of statistics is the round. Samples inside a round share the weather of that round, so
pooling them makes intervals far too narrow: in a simulated 3 % drift two equal files that were
run one after the other differed "clearly" in 71 to 76 % of runs, in turns in 5 to 7 %.

It lies beside `types` because the harness, the verdict and the reports all conclude by it. What
scipy.stats would do in a line is written out here where it takes few: its import alone costs more
processor time than what the harness does beside a measurement. It is the oracle of the tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Interval = tuple[float, float, float]
Vector = np.ndarray[tuple[int], np.dtype[np.float64]]

LEAST_ROUNDS = 5
"""Fewer rounds carry no 95 % interval: the extremes of five values hold their median in 93.8 %."""

# MLPerf LoadGen's early-stopping bound: fewer samples cannot support that percentile; one in
# between asks for as many as the next one up, one beyond the last is refused.
_LEAST_SAMPLES = {50.0: 1, 90.0: 64, 99.0: 459}
_RESAMPLES = 4999


def round_medians(rounds: Sequence[Sequence[int]]) -> Vector:
    """Return the median of each round, in the rounds' unit."""
    return np.array([np.median(one) for one in rounds], dtype=np.float64)


def median_interval(values: Sequence[float] | Vector) -> Interval:
    """Return the median of per-round values and its 95 % bootstrap interval.

    A percentile interval expanded for small samples, which alone would be too narrow (Hesterberg
    2015, "What Teachers Should Know about the Bootstrap", section 5.3). With fewer than
    `LEAST_ROUNDS` values it is (median, -inf, inf): nothing is known of the spread.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("no values, no median")
    middle = float(np.median(data))
    if data.size < LEAST_ROUNDS:
        return middle, -math.inf, math.inf
    if np.ptp(data) == 0.0:
        return middle, middle, middle
    rng = np.random.default_rng(0)  # the same rows give the same verdict
    drawn = data[rng.integers(0, data.size, (_RESAMPLES, data.size))]
    tail = (1.0 - _expanded(data.size)) / 2.0
    low, high = np.quantile(np.median(drawn, axis=1), [tail, 1.0 - tail])
    return middle, float(low), float(high)


def _expanded(count: int) -> float:
    """Return the nominal level whose percentile interval covers 95 % with so few values."""
    from scipy.special import ndtr, stdtrit

    stretch = stdtrit(count - 1, 0.975) * math.sqrt(count / (count - 1))
    return float(1.0 - 2.0 * ndtr(-stretch))


def paired_ratio(above: Sequence[Sequence[int]], below: Sequence[Sequence[int]]) -> Interval:
    """Return how much slower ``above`` is than ``below``: median per-round ratio, low, high.

    Rounds are paired by position: the n-th of both ran beside each other. Under `LEAST_ROUNDS`
    common rounds it is (ratio, 0, inf).
    """
    count = min(len(above), len(below))
    logs = np.log(round_medians(above[:count]) / round_medians(below[:count]))
    middle, low, high = median_interval(logs)
    return math.exp(middle), math.exp(low), math.exp(high) if high < math.inf else math.inf


def percentile(samples: Sequence[int] | Vector, percent: float) -> float | None:
    """Return the nearest-rank percentile, or None when so few samples cannot support it."""
    known = [least for at, least in _LEAST_SAMPLES.items() if at >= percent]
    if not len(samples) or not known or len(samples) < min(known):
        return None
    rank = max(1, math.ceil(len(samples) * percent / 100.0))
    return float(np.partition(np.asarray(samples), rank - 1)[rank - 1])


def percentile_interval(rounds: Sequence[Sequence[int]], percent: float) -> Interval | None:
    """Return the nearest-rank percentile of all samples with its 95 % interval, or None.

    The interval is that of order statistics: exact whatever the distribution. It speaks of the
    weather that these rounds had; what a rarer round would add to the tail, no number of
    inferences in so few rounds can tell. None where `percentile` refuses.
    """
    pooled = np.sort(np.concatenate([np.asarray(one, np.float64) for one in (*rounds, ())]))
    middle = percentile(pooled, percent)
    if middle is None:
        return None
    low, high = (_successes(at, pooled.size, percent / 100.0) for at in (0.025, 0.975))
    top = float(pooled[high]) if high < pooled.size else math.inf
    return middle, float(pooled[max(0, low - 1)]), top


def _successes(quantile: float, trials: int, chance: float) -> int:
    """Return a quantile of the binomial distribution, looked for around the normal one's."""
    from scipy.special import bdtr, ndtri

    spread = math.sqrt(trials * chance * (1.0 - chance))
    guess, room = trials * chance + float(ndtri(quantile)) * spread, spread + 5.0
    near = np.arange(max(0, math.floor(guess - room)), min(trials, math.ceil(guess + room)) + 1)
    return int(near[np.argmax(bdtr(near, trials, chance) >= quantile)])


def drift(medians: Sequence[float] | Vector) -> Interval:
    """Return the relative change from the first to the last round, and its 99 % interval.

    Theil–Sen, so that one bad round bends nothing, with the interval of Sen (1968, eq. 2.6);
    (0, -inf, inf) under `LEAST_ROUNDS` rounds.
    """
    data = np.asarray(medians, dtype=np.float64)
    if data.size < LEAST_ROUNDS:
        return 0.0, -math.inf, math.inf
    from scipy.special import ndtri

    count = data.size
    first, second = np.triu_indices(count, 1)
    slopes = np.sort((data[second] - data[first]) / (second - first))
    equal = np.unique(data, return_counts=True)[1]
    ties = float((equal * (equal - 1) * (2 * equal + 5)).sum())
    sigma = math.sqrt((count * (count - 1) * (2 * count + 5) - ties) / 18.0)
    reach = float(ndtri(0.995)) * sigma
    low = slopes[max(round((slopes.size - reach) / 2.0) - 1, 0)]
    high = slopes[min(round((slopes.size + reach) / 2.0), slopes.size - 1)]
    scale = (count - 1) / float(np.median(data))
    return float(np.median(slopes)) * scale, float(low) * scale, float(high) * scale


def lost_throughput(rounds: Sequence[Sequence[int]]) -> float:
    """Return the greatest share of its own speed, 0 to 1, that a window of rounds lost.

    A window is a quarter of the rounds; its throughput is inferences per second spent in them,
    compared with the 75th percentile of all windows'. Throughput and not the median, because a
    quota that stops a process for 80 % of the time leaves the median alone (measured: 15000 to
    4000 per second, p50 unmoved at 40 µs).
    """
    speeds = _throughput(rounds)
    return max(0.0, 1.0 - float(speeds.min()) / float(np.percentile(speeds, 75)))


def stalled(rounds: Sequence[Sequence[int]]) -> float:
    """Return the share of the timed seconds, 0 to 1, that typical inferences do not explain.

    It sees a quota that was there from beginning to end, where no window differs from another.
    """
    flat = np.concatenate([np.asarray(one, dtype=np.float64) for one in rounds])
    return max(0.0, 1.0 - float(np.median(flat)) * flat.size / float(flat.sum()))


def _throughput(rounds: Sequence[Sequence[int]]) -> Vector:
    width = max(3, len(rounds) // 4)
    counts = np.array([len(one) for one in rounds], dtype=np.float64)
    spent = np.array([float(sum(one)) for one in rounds], dtype=np.float64)
    window = np.ones(min(width, len(rounds)))
    return np.convolve(counts, window, "valid") / np.convolve(spent, window, "valid")


def is_flat(medians: Sequence[float], window: int = 5, tolerance: float = 0.02) -> bool:
    """Whether the last ``window`` medians have no slope beyond ``tolerance`` of their median."""
    if len(medians) < window:
        return False
    last = np.asarray(medians[-window:], dtype=np.float64)
    slope = float(np.polyfit(np.arange(window), last, 1)[0])
    return abs(slope) * (window - 1) <= tolerance * float(np.median(last))
