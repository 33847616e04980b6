"""Where to clip: searches over a histogram that cost the same however much it has counted.

Every candidate is judged by sums over stretches of bins, which are differences of prefix sums.
The candidates step inwards from the exact extremes, which are never left; a side on which there
are no values keeps its end. All searches take zero as representable, since both runtimes' grids
hold it, and count on `STEPS` steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from torchopt2edge.quantize.histogram import Bins, Bounds

Array = np.ndarray[Any, Any]

STEPS = 255
TAIL = 1e-4
"""The share of the values that ``percentile`` cuts off on each side: the 99.99th percentile."""
BINS_PER_STEP = 4
"""No interval of ``entropy`` has fewer: in the limit any distribution diverges from none."""
INWARDS = 0.93 ** np.arange(64)
"""The candidates of ``mse`` as shares of an extreme, down to 1/97."""
SHRINKING = 0.98 ** np.arange(128)
"""The candidates of ``entropy``, down to 1/13."""


def percentile(bins: Bins, tail: float = TAIL) -> Bounds:
    """Cut off a share ``tail`` of the values on each side, to within one bin of the exact one."""
    cumulated = np.cumsum(bins.counts)
    total = int(cumulated[-1])
    cut = int(total * tail)
    low = int(np.searchsorted(cumulated, cut, side="right"))
    high = int(np.searchsorted(cumulated, total - cut, side="left"))
    edges = bins.edges
    return max(bins.low, float(edges[low])), min(bins.high, float(edges[high + 1]))


def mse(bins: Bins) -> Bounds:
    """Take the (low, high) with the least expected squared error of a value.

    The error of what is clipped is its squared distance to the end of the grid, which the zero
    point's rounding shifts by up to half a step; of what lies within half a step of zero, the
    value itself squared; of the rest step² / 12; of an exact zero none (the model of a uniform
    quantizer in Banner et al. 2019, "Post training 4-bit quantization", made right around zero).
    Both ends are searched at once, values are spread evenly within a bin, and among equals the
    widest wins.
    """
    if bins.low == bins.high:
        return bins.low, bins.high
    lows, highs = ends(bins)
    least, most = np.minimum(lows, 0.0)[:, None], np.maximum(highs, 0.0)[None, :]
    step = (most - least) / STEPS
    zero = np.rint(-least / step)
    left, right = -zero * step, (STEPS - zero) * step
    moments = _Moments.of(bins)
    below, above = moments.upto(left), moments.upto(right)
    near = moments.upto(np.minimum(step / 2, right)) - moments.upto(np.maximum(-step / 2, left))
    cost = _clipped(below, left) + _clipped(moments.total - above, right)
    cost = cost + near[2] + step**2 / 12 * (above[0] - below[0] - near[0])
    row, column = np.unravel_index(int(np.argmin(cost)), cost.shape)
    return float(lows[row]), float(highs[column])


def entropy(bins: Bins) -> Bounds:
    """Take the interval whose quantized distribution diverges least from the whole one's.

    Kullback and Leibler's divergence as in TensorRT's calibration (Migacz 2017, "8-bit inference
    with TensorRT"): what is clipped is added to the outermost bins of the reference, and a step
    spreads its count over those of its bins that are not empty, an outermost one at least one
    value. An interval is [-t, t] cut to
    the extremes, so that the shorter side stays whole until t reaches it, and a rectifier's low
    end is zero throughout; exact zeros do not count, for they cost nothing. Among equals the
    widest wins; a histogram with too few bins for a choice keeps its extremes.
    """
    starts, stops = intervals(bins)
    counts = _without_zeros(bins)
    if len(starts) < 2 or not counts.any():
        return bins.low, bins.high
    best = int(np.argmin(_divergence(counts, starts, stops)))
    edges = bins.edges
    low, high = float(edges[starts[best]]), float(edges[stops[best]])
    return max(bins.low, low), min(bins.high, high)


def ends(bins: Bins) -> tuple[Array, Array]:
    """Return the candidates of ``mse``: lows and highs, float64, from the outermost inwards."""
    lows, highs = np.array([bins.low]), np.array([bins.high])
    if bins.low < 0.0:
        snapped = np.floor(bins.low * INWARDS / bins.width) * bins.width
        lows = np.unique(np.maximum(snapped, bins.low))
    if bins.high > 0.0:
        snapped = np.ceil(bins.high * INWARDS / bins.width) * bins.width
        highs = np.unique(np.minimum(snapped, bins.high))[::-1]
    return lows, highs


def intervals(bins: Bins) -> tuple[Array, Array]:
    """Return the candidates of ``entropy`` as first bins and last bins + 1, widest first."""
    count = len(bins.counts)
    reach = max(-bins.first, bins.first + count)
    limits = np.unique(np.ceil(reach * SHRINKING).astype(np.int64))[::-1]
    starts = np.clip(-limits - bins.first, 0, count)
    stops = np.clip(limits - bins.first, 0, count)
    enough = stops - starts >= BINS_PER_STEP * STEPS
    return starts[enough], stops[enough]


@dataclass(frozen=True)
class _Moments:
    """Cumulated count, sum and sum of squares of the values, exact zeros left out.

    ``sums`` is float64 [3, n + 1]; the values of a bin are spread evenly over the part of it
    that lies within the extremes.
    """

    bins: Bins
    counts: Array
    edges: Array
    sums: Array

    @classmethod
    def of(cls, bins: Bins) -> _Moments:
        counts, edges = _without_zeros(bins), np.clip(bins.edges, bins.low, bins.high)
        sums = np.zeros((3, len(edges)))
        np.cumsum(counts * _powers(edges[:-1], edges[1:]), axis=1, out=sums[:, 1:])
        return cls(bins, counts, edges, sums)

    @property
    def total(self) -> Array:
        """The moments of all values, [3, 1, 1]."""
        return self.sums[:, -1, None, None]

    def upto(self, value: Array) -> Array:
        """Return the moments of all that is less, [3, *value.shape]."""
        last = len(self.counts) - 1
        at = np.clip(np.floor(value / self.bins.width) - self.bins.first, 0, last).astype(np.int64)
        start, span = self.edges[at], self.edges[at + 1] - self.edges[at]
        share = np.divide(value - start, span, out=np.ones_like(value), where=span > 0.0)
        share = np.clip(share, 0.0, 1.0)
        part: Array = self.counts[at] * share * _powers(start, start + share * span)
        return self.sums[:, at] + part


def _powers(start: Array, stop: Array) -> Array:
    """Return the mean of 1, x and x² over intervals."""
    squares = (start * start + start * stop + stop * stop) / 3
    return np.stack([np.ones_like(start), (start + stop) / 2, squares])


def _clipped(beyond: Array, end: Array) -> Array:
    """Return the summed squared distances to an end of what lies beyond it."""
    distances: Array = beyond[2] - 2 * end * beyond[1] + end**2 * beyond[0]
    return np.maximum(distances, 0.0)


def _without_zeros(bins: Bins) -> Array:
    counts = bins.counts.astype(np.float64)
    if bins.low <= 0.0 <= bins.high:
        counts[-bins.first] -= bins.zeros
    return counts


def _divergence(counts: Array, starts: Array, stops: Array) -> Array:
    """Return the divergence of each interval in nats, [n].

    With p the reference's counts of N, S the sum and n the filled bins of the step j of a bin, M
    the sum over the interval: ``sum(p/N log(p/N)) - sum(p/N log(S/(n M)))``, where the second sum
    is one over steps, for S/n is the same throughout a step.
    """
    count, filled, plogp = (
        np.concatenate([[0.0], np.cumsum(each)]) for each in (counts, counts > 0, _xlogx(counts))
    )
    steps = np.arange(STEPS + 1) / STEPS
    marks = starts[:, None] + np.rint((stops - starts)[:, None] * steps).astype(np.int64)
    held, wide = np.diff(count[marks]), np.diff(filled[marks])
    below, above = count[starts], count[-1] - count[stops]
    first, last = counts[starts], counts[stops - 1]
    wide[:, 0] += (first == 0) & (below > 0)
    wide[:, -1] += (last == 0) & (above > 0)
    reference = held.copy()
    reference[:, 0] += below
    reference[:, -1] += above
    for side in (0, -1):  # else one clipped value alone would make the divergence infinite
        held[:, side] = np.where(reference[:, side] > 0, np.maximum(held[:, side], 1), 0)
    own = plogp[stops] - plogp[starts]
    own += _xlogx(first + below) - _xlogx(first) + _xlogx(last + above) - _xlogx(last)
    logs = np.log(held / np.maximum(wide, 1), out=np.zeros_like(held), where=held > 0)
    inside = np.log(held.sum(1) / count[-1])
    return np.asarray((own - (reference * logs).sum(1)) / count[-1] + inside)


def _xlogx(values: Array) -> Array:
    return values * np.log(values, out=np.zeros_like(values), where=values > 0)
