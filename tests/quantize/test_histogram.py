"""Histograms: exact integers, whatever the order, the partition and the growth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from torchopt2edge.quantize.histogram import BINS, Bins, Histogram

SIZES = st.floats(2.0**-60, 2.0**40, width=32)
VALUES = st.one_of(st.just(0.0), st.just(-0.0), SIZES, SIZES.map(lambda size: -size))
ARRAYS = hnp.arrays(np.float32, st.integers(1, 40), elements=VALUES)


def counted(*parts: np.ndarray) -> Histogram:
    """Count the parts one after the other."""
    made = Histogram()
    for part in parts:
        assert made.add(part) == (part.min(), part.max())
    return made


def same(one: Bins, other: Bins) -> bool:
    """Whether two histograms hold the same, to the last count."""
    plain = [(b.low, b.high, b.width, b.first, b.zeros, b.counts.tolist()) for b in (one, other)]
    return plain[0] == plain[1]


def by_hand(values: np.ndarray, width: float) -> dict[int, int]:
    """Count in integers of Python's, which are exact."""
    found: dict[int, int] = {}
    for value in values.tolist():
        at = math.floor(value / width)
        found[at] = found.get(at, 0) + 1
    return found


@given(ARRAYS)
@settings(max_examples=60, deadline=None)
def test_every_value_is_in_the_bin_that_covers_it(values: np.ndarray) -> None:
    bins = counted(values).bins()
    assert (bins.low, bins.high) == (values.min(), values.max())
    assert 1 <= len(bins.counts) <= BINS
    assert math.frexp(bins.width)[0] == 0.5, "a power of two"
    assert bins.zeros == (values == 0).sum()
    held = {bins.first + at: n for at, n in enumerate(bins.counts.tolist()) if n}
    assert held == by_hand(values, bins.width)


@given(st.lists(ARRAYS, min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_neither_order_nor_partition_matters(parts: list[np.ndarray], chance: object) -> None:
    whole = counted(np.concatenate(parts)).bins()
    shuffled = np.random.default_rng(len(parts)).permutation(np.concatenate(parts))
    chance.shuffle(parts)  # type: ignore[attr-defined]
    assert same(counted(*parts).bins(), whole)
    assert same(counted(shuffled).bins(), whole)
    merged = Histogram()
    for part in parts:
        merged.merge(counted(part))
    assert same(merged.bins(), whole)


@given(ARRAYS, st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_growing_adds_neighbours_in_pairs(values: np.ndarray, doublings: int) -> None:
    before = counted(values).bins()
    reach = np.float32(max(abs(before.low), abs(before.high), 1e-6) * 2.0**doublings)
    after = counted(values, np.array([reach])).bins()
    times = round(after.width / before.width)
    assert times >= 1
    paired: dict[int, int] = {}
    for at, number in enumerate(before.counts.tolist()):
        to = (before.first + at) // times
        paired[to] = paired.get(to, 0) + number
    last = math.floor(float(reach) / after.width)
    paired[last] = paired.get(last, 0) + 1
    held = {after.first + at: n for at, n in enumerate(after.counts.tolist()) if n}
    assert held == {at: n for at, n in paired.items() if n}


@pytest.mark.parametrize("clip", [False, True])
def test_long_arrays_are_counted_as_short_ones(clip: bool) -> None:
    values = np.random.default_rng(0).standard_normal(400_000).astype(np.float32)
    values = np.clip(values, 0, 2) if clip else values
    bins = counted(values).bins()
    codes = np.floor(values.astype(np.float64) / bins.width).astype(int) - bins.first
    assert (bins.counts == np.bincount(codes, minlength=len(bins.counts))).all()
    assert bins.zeros == (values == 0).sum()
    assert BINS / 2 < len(bins.counts) <= BINS, "as fine as the bins allow"
    assert same(counted(*np.split(values, 50)).bins(), bins)


def test_nothing_is_lost_between_far_ends() -> None:
    tiny, huge = np.full(3, 1e-30, np.float32), np.full(2, -3e38, np.float32)
    bins = counted(np.zeros(4, np.float32), tiny, huge).bins()
    assert bins.counts.sum() == 9
    assert bins.zeros == 4
    assert (bins.low, bins.high) == (float(huge[0]), float(tiny[0]))


def test_a_narrow_range_far_from_zero_has_no_bins_between_two_floats() -> None:
    values = np.nextafter(np.float32(1000), np.float32([2000, 0, 1000]))
    bins = counted(values).bins()
    assert bins.counts.sum() == 3
    assert len(bins.counts) <= 4


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_shows_in_the_extremes(odd: float) -> None:
    values = np.ones(300_000, np.float32)
    values[250_000] = odd
    assert not all(math.isfinite(end) for end in Histogram().add(values))


def test_an_empty_histogram_adds_nothing() -> None:
    full = counted(np.arange(5, dtype=np.float32))
    before = full.bins()
    full.merge(Histogram())
    assert same(full.bins(), before)
