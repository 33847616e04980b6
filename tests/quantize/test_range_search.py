"""Searches against slow ones over the same candidates, which look at every bin."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from torchopt2edge.quantize.histogram import Bins, Histogram
from torchopt2edge.quantize.range_search import (
    BINS_PER_STEP,
    STEPS,
    ends,
    entropy,
    intervals,
    mse,
    percentile,
)

SEARCHES = (percentile, mse, entropy)


def drawn(kind: str, count: int = 60_000) -> np.ndarray:
    """Return float32 values of a kind that networks show."""
    chance = np.random.default_rng(len(kind))
    normal = chance.standard_normal(count)
    made = {
        "normal": normal,
        "rectified": np.maximum(normal, 0),
        "rectified, clipped": np.clip(3 * normal, 0, 6),
        "mirrored": np.minimum(normal, 0),
        "heavy": chance.standard_t(3, count),
        "skewed": chance.gamma(1.0, 1.0, count) - 0.28,
        "one outlier": np.append(normal, 60.0),
        "one low outlier": np.append(np.maximum(normal, 0), -9.0),
        "sigmoid": 1 / (1 + np.exp(-normal)),
        "far": 100 + normal,
        "hard swish": normal * np.clip(normal / 2 + 0.5, 0, 1),
        "few": normal[:30],
    }[kind]
    return np.asarray(made, np.float32)


KINDS = (
    "normal",
    "rectified",
    "rectified, clipped",
    "mirrored",
    "heavy",
    "skewed",
    "one outlier",
    "one low outlier",
    "sigmoid",
    "far",
    "hard swish",
    "few",
)


def histogram(values: np.ndarray) -> Bins:
    """Count all values."""
    made = Histogram()
    made.add(values)
    return made.bins()


def without_zeros(bins: Bins) -> np.ndarray:
    """Return the counts of what is not exactly zero."""
    counts = bins.counts.astype(np.float64)
    if bins.zeros:
        counts[-bins.first] -= bins.zeros
    return counts


def squared_error(bins: Bins, low: float, high: float) -> float:
    """Integrate the error of one candidate over every bin, one stretch after the other."""
    step = (max(high, 0.0) - min(low, 0.0)) / STEPS
    zero = round(-min(low, 0.0) / step)
    low, high = -zero * step, (STEPS - zero) * step
    inner, outer = max(-step / 2, low), min(step / 2, high)
    edges = np.clip(bins.edges, bins.low, bins.high)
    total = 0.0
    for count, start, stop in zip(without_zeros(bins), edges[:-1], edges[1:], strict=True):
        cuts = [start, *(c for c in sorted({low, high, inner, outer}) if start < c < stop), stop]
        for a, b in itertools.pairwise(cuts):
            share = count * ((b - a) / (stop - start) if stop > start else 1.0)
            middle = (a + b) / 2
            spread = (b - a) ** 2 / 12  # the mean of (x - c)² over [a, b] is (m - c)² + this
            if middle < low or middle > high:
                total += share * ((middle - (low if middle < low else high)) ** 2 + spread)
            elif inner <= middle <= outer:
                total += share * (middle**2 + spread)
            else:
                total += share * step**2 / 12
    return total


def divergence(bins: Bins, start: int, stop: int) -> float:
    """Build the two distributions of one candidate and compare them bin by bin."""
    counts = without_zeros(bins)
    inside = counts[start:stop].copy()
    reference = inside.copy()
    reference[0] += counts[:start].sum()
    reference[-1] += counts[stop:].sum()
    marks = [round((stop - start) * (step / STEPS)) for step in range(STEPS + 1)]
    quantized = np.zeros_like(inside)
    total = 0.0
    for step, (a, b) in enumerate(itertools.pairwise(marks)):
        filled, held = reference[a:b] > 0, inside[a:b].sum()
        if step in (0, STEPS - 1) and filled.any():
            held = max(held, 1.0)
        quantized[a:b][filled] = held / max(filled.sum(), 1)
        total += held
    at = reference > 0
    p, q = reference[at] / counts.sum(), quantized[at] / total
    return float((p * np.log(p / q)).sum())


def thinned(bins: Bins) -> Bins:
    """Return the same in a sixteenth of the bins: the slow search takes its time."""
    group = 16
    before = bins.first % group
    padded = np.pad(bins.counts, (before, -(before + len(bins.counts)) % group))
    counts = padded.reshape(-1, group).sum(1)
    first = (bins.first - before) // group
    return Bins(bins.low, bins.high, bins.width * group, first, counts, bins.zeros)


@pytest.mark.parametrize("kind", ["normal", "rectified, clipped", "skewed", "one low outlier"])
def test_mse_finds_what_an_exhaustive_search_finds(kind: str) -> None:
    bins = thinned(histogram(drawn(kind, 4000)))
    lows, highs = ends(bins)
    lows, highs = lows[::3], highs[::3]  # every third on the slow side
    found = {(a, b): squared_error(bins, a, b) for a in lows for b in highs}
    fast = squared_error(bins, *mse(bins))
    assert fast <= min(found.values()) * (1 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_mse_of_one_side_is_the_exhaustive_one(kind: str) -> None:
    bins = thinned(histogram(drawn(kind, 4000)))
    low, high = mse(bins)
    lows, highs = ends(bins)
    by_high = [squared_error(bins, low, float(each)) for each in highs]
    by_low = [squared_error(bins, float(each), high) for each in lows]
    assert float(highs[int(np.argmin(by_high))]) == high
    assert float(lows[int(np.argmin(by_low))]) == low


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_finds_what_an_exhaustive_search_finds(kind: str) -> None:
    bins = histogram(drawn(kind))
    pairs = list(zip(*(each.tolist() for each in intervals(bins)), strict=True))
    slow = [divergence(bins, *pair) for pair in pairs]
    start, stop = pairs[int(np.argmin(slow))]
    low, high = float(bins.edges[start]), float(bins.edges[stop])
    assert entropy(bins) == (max(bins.low, low), min(bins.high, high))


@given(
    hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-64, 64, width=16)),
    st.floats(0, 0.4),
)
@settings(max_examples=80, deadline=None)
def test_percentiles_are_within_a_bin_of_the_exact_ones(values: np.ndarray, tail: float) -> None:
    bins = histogram(values)
    low, high = percentile(bins, tail)
    ordered, cut = np.sort(values), int(len(values) * tail)
    assert 0 <= ordered[cut] - low <= bins.width
    assert 0 <= high - ordered[len(values) - cut - 1] <= bins.width


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("search", SEARCHES)
def test_no_search_leaves_the_extremes(
    search: Callable[..., tuple[float, float]], kind: str
) -> None:
    values = drawn(kind)
    low, high = search(histogram(values))
    assert values.min() <= low <= high <= values.max()
    if values.min() >= 0 and search is not percentile:
        assert low == values.min(), "a side without values keeps its end"
    if values.max() == 0:
        assert high == 0


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-30, -2e38])
def test_a_constant_keeps_its_range(
    search: Callable[..., tuple[float, float]], value: float
) -> None:
    value = float(np.float32(value))
    assert search(histogram(np.full(50, value, np.float32))) == (value, value)


@pytest.mark.parametrize(("search", "factor"), [(percentile, 8), (mse, 1), (entropy, 3)])
def test_an_outlier_is_clipped(search: Callable[..., tuple[float, float]], factor: float) -> None:
    low, high = search(histogram(drawn("one outlier")))
    assert high < 60 / factor
    assert -6 < low < -2


def quantization_error(values: np.ndarray, low: float, high: float) -> float:
    """Quantize for real: 255 steps, a zero point that is an integer."""
    least, most = min(low, 0.0), max(high, 0.0)
    step = (most - least) / STEPS
    zero = round(-least / step)
    codes = np.clip(np.round(values.astype(np.float64) / step) + zero, 0, STEPS)
    return float(((codes - zero) * step - values).__pow__(2).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_right_about_the_error_of_real_quantization(kind: str) -> None:
    values = drawn(kind)
    bins = histogram(values)
    best = quantization_error(values, *mse(bins))
    assert best <= quantization_error(values, bins.low, bins.high) * 1.1
    shares = (0.95, 0.8, 0.6, 0.4, 0.2)
    others = [
        quantization_error(values, bins.low * a, bins.high * b) for a in shares for b in shares
    ]
    assert best <= min(others) * 1.1


def test_entropy_never_has_too_few_bins_to_a_step() -> None:
    starts, stops = intervals(histogram(drawn("heavy")))
    assert ((stops - starts) >= BINS_PER_STEP * STEPS).all()
    assert (np.diff(stops - starts) <= 0).all(), "from the widest on"
    assert stops[0] - starts[0] == len(histogram(drawn("heavy")).counts)
