"""Histograms that grow with the data: exact counts, whatever the order and the partition.

A bin is ``[i * 2**k, (i + 1) * 2**k)`` for an integer i: the edges lie on one absolute grid, and
the next coarser grid is had by adding neighbours in pairs. The exponent k follows from the exact
minimum and maximum alone, so that counting the parts and merging them gives the same integers as
counting all at once, and memory does not grow with the data.

H1. k is the least for which the range fits into `BINS` bins, no finer than the float32 spacing of
    the greatest magnitude and than 2**-100.
H2. Dividing by a power of two is exact in float32, so a count is exact as well; only a value so
    small that the quotient underflows is taken for zero.
H3. Exact zeros are counted apart too: a rectifier makes many, and every integer grid holds zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Bounds = tuple[float, float]

OBSERVERS = ("minmax", "ema", "percentile", "mse", "entropy")
"""How a range may be found; ``ema`` is the only one that depends on the samples' order."""

BINS = 8192
EMPTY: Bounds = (math.inf, -math.inf)
_PIECE = 1 << 18  # values at a time: their codes stay in a core's cache
_LONG = 1 << 15  # from here on two tables pay
_TURNS = np.tile(np.array([0, BINS], np.int32), _PIECE // 2)
_FINEST = -100


@dataclass(frozen=True)
class Bins:
    """What a histogram holds, cut to its range: for searching.

    ``counts`` int64 [n ≤ `BINS`]; bin i covers ``[(first + i) * width, (first + i + 1) * width)``
    in real units; ``low`` and ``high`` are the exact extremes, ``zeros`` how many values are 0.
    """

    low: float
    high: float
    width: float
    first: int
    counts: Array
    zeros: int

    @property
    def edges(self) -> Array:
        """The edges of the bins, float64 [n + 1], in real units."""
        return (self.first + np.arange(len(self.counts) + 1)) * self.width


class Histogram:
    """The values seen so far: exact extremes and at most `BINS` counts."""

    def __init__(self) -> None:
        self.low, self.high = EMPTY
        self.zeros = 0
        self._counts = np.zeros(BINS, np.int64)
        self._first = self._exponent = 0

    def add(self, values: Array) -> Bounds:
        """Count float32 values and return their extremes.

        Where one is not finite the extremes are not either, and nothing is counted from there on.
        """
        low, high = EMPTY
        flat = values.reshape(-1)
        for at in range(0, flat.size, _PIECE):
            piece = flat[at : at + _PIECE]
            bounds = extremes(piece)
            low, high = min(low, bounds[0]), max(high, bounds[1])
            if not (math.isfinite(bounds[0]) and math.isfinite(bounds[1])):
                return bounds
            self._reach(bounds)
            found = _count(piece, self._exponent, self._first, bounds[0] < 0.0)
            self._counts[: len(found)] += found
            self.zeros += piece.size - int(np.count_nonzero(piece != 0.0))
        return low, high

    def merge(self, other: Histogram) -> None:
        """Take in all that another has counted."""
        if other.low > other.high:
            return
        self._reach((other.low, other.high))
        seen = other.bins()
        self.zeros += seen.zeros
        _lay(seen.counts, seen.first, self._exponent - other._exponent, self._counts, self._first)

    def bins(self) -> Bins:
        """Return what was counted."""
        width = math.ldexp(1.0, self._exponent)
        start = math.floor(self.low / width) if self.low <= self.high else self._first
        stop = math.floor(self.high / width) + 1 if self.low <= self.high else start
        counts = self._counts[start - self._first : stop - self._first].copy()
        return Bins(self.low, self.high, width, start, counts, self.zeros)

    def _reach(self, bounds: Bounds) -> None:
        """Make room for a range, in coarser bins when it takes them."""
        low, high = min(self.low, bounds[0]), max(self.high, bounds[1])
        if (low, high) == (self.low, self.high):
            return
        exponent = _exponent(low, high)
        width = math.ldexp(1.0, exponent)
        start, stop = math.floor(low / width), math.floor(high / width) + 1
        fits = self._first <= start and stop <= self._first + BINS
        if exponent != self._exponent or not fits:
            slack = BINS - (stop - start)  # so that the next growth needs no move
            first = 0 if 0 <= start and stop <= BINS else start - slack // 2
            counts = np.zeros(BINS, np.int64)
            if self.low <= self.high:
                seen = self.bins()
                _lay(seen.counts, seen.first, exponent - self._exponent, counts, first)
            self._counts, self._first, self._exponent = counts, first, exponent
        self.low, self.high = low, high


def extremes(values: Array) -> Bounds:
    """Return (min, max); numpy's carry a NaN through, where ONNX Runtime's step over it."""
    return float(values.min()), float(values.max())


def _exponent(low: float, high: float) -> int:
    """Return k of rule H1."""
    magnitude = max(abs(low), abs(high))
    least = max(_FINEST, math.frexp(magnitude)[1] - 23 if magnitude else _FINEST)
    exponent = max(least, math.frexp((high - low) / BINS)[1] - 1 if high > low else least)
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= BINS:
        exponent += 1
    return exponent


def _count(values: Array, exponent: int, first: int, signed: bool) -> Array:
    """Count how many values lie in each bin from ``first`` on."""
    import torch  # its bincount takes int32 as it is, in half the time of numpy's

    scale, whole = np.float32(math.ldexp(1.0, -exponent)), np.empty(len(values), np.int32)
    if signed or first:
        codes = np.floor(values * scale)
        np.subtract(codes, np.float32(first), out=whole, dtype=np.float32, casting="unsafe")
    else:
        np.multiply(values, scale, out=whole, dtype=np.float32, casting="unsafe")
    if signed or len(whole) < _LONG:
        return np.asarray(torch.bincount(torch.from_numpy(whole)).numpy())
    # A rectifier's zeros all fall into one bin, and an addition there waits for the one before:
    # values take turns between two tables.
    whole += _TURNS[: len(whole)]
    found = torch.bincount(torch.from_numpy(whole), minlength=2 * BINS).numpy()
    return np.asarray(found[:BINS] + found[BINS:])


def _lay(counts: Array, first: int, doublings: int, onto: Array, origin: int) -> None:
    """Add bins from ``first`` on to those of a grid that is so many doublings coarser."""
    coarse = (first + np.arange(len(counts))) >> min(doublings, 62)
    starts = np.flatnonzero(np.diff(coarse, prepend=coarse[0] - 1))
    at = int(coarse[0]) - origin
    onto[at : at + len(starts)] += np.add.reduceat(counts, starts)
