"""What may be concluded from rounds: medians, paired ratios with intervals, percentiles, trends.

The unit of statistics is the round. Samples inside a round share the noise of that round, so
pooling them makes intervals far too narrow: in a simulated 3 % drift two equal files that were
run one after the other differed "clearly" in 71 to 76 % of runs, in turns in 5 to 7 %.

It lies beside `types` because the harness, the verdict and the reports all conclude by it. What
scipy.stats would do in a line is written out here where it takes few: its import alone costs more
processor time than what the harness does beside a measurement. It is the oracle of the tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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


def has_times(rounds: Sequence[Sequence[int]]) -> bool:
    """Whether every round has a median above zero, without which nothing can be divided."""
    return all(len(one) and np.median(one) > 0 for one in rounds)


def median_interval(values: Sequence[float] | Vector) -> Interval:
    """Return the median of per-round values and its 95 % bootstrap interval.

    A percentile interval expanded for small samples, which alone would be too narrow (Hesterberg
    2015, "What Teachers Should Know about the Bootstrap", section 5.3), and by `stretch` where
    neighbouring rounds hang together. With fewer than `LEAST_ROUNDS` values it is
    (median, -inf, inf): nothing is known of the spread.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("no values, no median")
    middle = float(np.median(data))
    if data.size < LEAST_ROUNDS:
        return middle, -math.inf, math.inf
    if np.ptp(data) == 0.0:
        return middle, middle, middle
    low, high = _ends(_medians_of(data, np.random.default_rng(0)), data.size)
    by = stretch(data)
    # No interval of a median reaches beyond the values themselves.
    low, high = middle - by * (middle - low), middle + by * (high - middle)
    return middle, max(low, float(data.min())), min(high, float(data.max()))


def median_shift(before: Vector, after: Vector) -> Interval:
    """Return by how much the median moved, with its 95 % interval; the values are not paired.

    As `median_interval`, with the resamples of either side drawn on their own, expanded for the
    smaller of the two.
    """
    middle = float(np.median(after) - np.median(before))
    count = min(before.size, after.size)
    if count < LEAST_ROUNDS:
        return middle, -math.inf, math.inf
    rng = np.random.default_rng(0)  # the same runs give the same answer
    first, second = _medians_of(before, rng), _medians_of(after, rng)
    low, high = _ends(second - first, count)
    by = max(stretch(before), stretch(after))
    return middle, middle - by * (middle - low), middle + by * (high - middle)


def stretch(values: Vector) -> float:
    """Return how much wider an interval is where neighbouring values are alike, at least 1.

    Values that hang together count for fewer: an autoregressive series of coefficient r has the
    spread of (1 - r) / (1 + r) as many independent ones (Bayley and Hammersley 1946). The
    coefficient is that of ranks, which one outlier does not hide, and what chance alone gives one
    series of twenty is not counted.
    """
    ranks = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(ranks[2])
    own = (ends - (ranks[2] - 1) / 2.0)[ranks[1]]  # equal values share their mean rank
    own = own - own.mean()
    whole = float(own @ own)
    alike = float(own[1:] @ own[:-1]) / whole if whole else 0.0
    if alike <= 1.645 / math.sqrt(values.size):
        return 1.0
    return math.sqrt((1.0 + alike) / (1.0 - alike))


def _medians_of(data: Vector, rng: np.random.Generator) -> Vector:
    drawn = data[rng.integers(0, data.size, (_RESAMPLES, data.size))]
    return np.asarray(np.median(drawn, axis=1))


def _ends(medians: Vector, count: int) -> tuple[float, float]:
    tail = (1.0 - _expanded(count)) / 2.0
    low, high = np.quantile(medians, [tail, 1.0 - tail])
    return float(low), float(high)


def _expanded(count: int) -> float:
    """Return the nominal level whose percentile interval covers 95 % with so few values."""
    from scipy.special import ndtr, stdtrit

    stretch = stdtrit(count - 1, 0.975) * math.sqrt(count / (count - 1))
    return float(1.0 - 2.0 * ndtr(-stretch))


def settled(rounds: Sequence[list[int]], order: object) -> Sequence[list[int]]:
    """Return the rounds that count: all, or the warm half where each file ran on its own."""
    return rounds[len(rounds) // 2 :] if order == "blocks" else rounds


def paired_ratio(
    above: Sequence[Sequence[int]], below: Sequence[Sequence[int]], step_ns: float = 0.0
) -> Interval:
    """Return how much slower ``above`` is than ``below``: median per-round ratio, low, high.

    Rounds are paired by position: the n-th of both ran beside each other. The interval holds what
    a clock of that ``step_ns`` cannot tell (`blur`). Under `LEAST_ROUNDS` common rounds it is
    (ratio, 0, inf).
    """
    count = min(len(above), len(below))
    first, second = round_medians(above[:count]), round_medians(below[:count])
    middle, low, high = median_interval(np.log(first / second))
    room = blur(step_ns, first, second)
    top = math.exp(high + room) if high < math.inf else math.inf
    return math.exp(middle), math.exp(low - room), top


def clock_step(facts: Mapping[str, object]) -> float:
    """Return the nanoseconds of one step of the clock that a row was timed with, 0 if unknown."""
    step = facts.get("timer_resolution_ns")
    return float(step) if isinstance(step, int | float) and math.isfinite(step) else 0.0


def blur(step_ns: float, *files: Vector) -> float:
    """Return by how much (logarithm) a coarse clock alone may move a ratio of files' medians.

    A median of times that were rounded to steps is off by up to half a step, in every round
    alike, so that rounds which all agree prove nothing.
    """
    if not step_ns > 0.0:
        return 0.0
    return sum(math.log1p(step_ns / 2.0 / float(np.median(medians))) for medians in files)


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
    noise that these rounds had; what a rarer round would add to the tail, no number of
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

    A window is a quarter of the rounds; its throughput is that of its middle round, in inferences
    per second spent, compared with the 75th percentile of all windows'. Throughput and not the
    median, because a quota that stops a process for 80 % of the time leaves the median alone
    (measured: 15000 to 4000 per second, p50 unmoved at 40 µs); the middle round, because one long
    stop is no loss of speed, whatever its length.
    """
    speeds = np.array([len(one) / float(sum(one)) for one in rounds], dtype=np.float64)
    width = min(max(3, speeds.size // 4), speeds.size)
    middle = np.median(np.lib.stride_tricks.sliding_window_view(speeds, width), axis=1)
    return max(0.0, 1.0 - float(middle.min()) / float(np.percentile(middle, 75)))


def stalled(rounds: Sequence[Sequence[int]]) -> float:
    """Return the share of a middle round's time, 0 to 1, that typical inferences do not explain.

    It sees a quota that was there from beginning to end, where no window differs from another.
    """
    typical = float(np.median(np.concatenate([np.asarray(one, np.float64) for one in rounds])))
    shares = [1.0 - typical * len(one) / float(sum(one)) for one in rounds]
    return max(0.0, float(np.median(shares)))


def is_flat(medians: Sequence[float], window: int = 5, tolerance: float = 0.02) -> bool:
    """Whether the last ``window`` medians have no slope beyond ``tolerance`` of their median."""
    if len(medians) < window:
        return False
    last = np.asarray(medians[-window:], dtype=np.float64)
    slope = float(np.polyfit(np.arange(window), last, 1)[0])
    return abs(slope) * (window - 1) <= tolerance * float(np.median(last))
