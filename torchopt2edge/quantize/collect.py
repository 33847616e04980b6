"""Run samples through the graph and keep what every tensor showed: all, and each half apart.

The halves are made by the samples' hashes, every other one of the sorted, so that they are the
same in any order; counting them apart and adding up costs nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.errors import DataError
from torchopt2edge.quantize import range_search
from torchopt2edge.quantize.histogram import Bins, Bounds, Histogram, extremes
from torchopt2edge.quantize.tap import expose
from torchopt2edge.samples.calibration_set import Samples

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
MOMENTUM = 0.95
SEARCHES: Mapping[str, Callable[[Bins], Bounds]] = {
    "percentile": range_search.percentile,
    "mse": range_search.mse,
    "entropy": range_search.entropy,
}


class Seen:
    """What some of the samples showed: extremes, their moving average, counts where asked for."""

    def __init__(self, names: Sequence[str], *, counting: bool) -> None:
        self.names = tuple(names)
        self.histograms = [Histogram() for _ in names] if counting else []
        self.extremes = np.array([[np.inf] * len(names), [-np.inf] * len(names)])
        self.moving: Array | None = None

    def note(self, extremes: Array) -> None:
        """Take in one sample's lows and highs, float64 [2, tensors]."""
        self.extremes[0] = np.minimum(self.extremes[0], extremes[0])
        self.extremes[1] = np.maximum(self.extremes[1], extremes[1])
        before = extremes if self.moving is None else self.moving
        self.moving = MOMENTUM * before + (1.0 - MOMENTUM) * extremes

    def bounds(self, observer: str) -> dict[str, Bounds]:
        """Return the ranges that an observer makes of it; none when nothing was seen."""
        if self.moving is None:
            return {}
        if observer in SEARCHES:
            found = [SEARCHES[observer](histogram.bins()) for histogram in self.histograms]
        else:
            ends = self.moving if observer == "ema" else self.extremes
            found = [(float(low), float(high)) for low, high in ends.T]
        return dict(zip(self.names, found, strict=True))


@dataclass(frozen=True)
class Watched:
    """What was seen of all the samples and of two halves of them."""

    whole: Seen
    halves: tuple[Seen, Seen]

    def instability(self, observer: str) -> dict[str, Any] | None:
        """Say by how much the widths of the halves' ranges differ, in % of the wider of the two.

        The median and the worst over the tensors, and which that is; None with one sample. What
        is searched for is compared by ``percentile``, the quick one of the searches.
        """
        how = "percentile" if observer in SEARCHES else observer
        first, second = (half.bounds(how) for half in self.halves)
        if not first or not second:
            return None
        found = {name: _difference(first[name], second[name]) for name in first}
        worst = max(found, key=lambda name: found[name])
        median = float(np.median(list(found.values())))
        return {"median_pct": median, "worst_pct": found[worst], "worst": worst}


def watch(
    proto: onnx.ModelProto,
    names: Sequence[str],
    samples: Samples,
    *,
    counting: bool,
    threads: int,
) -> Watched:
    """Run the samples one by one and look at all values of the tensors.

    Raises:
        DataError: one of them is NaN or infinite.
    """
    whole = Seen(names, counting=False)
    halves = Seen(names, counting=counting), Seen(names, counting=counting)
    inputs = {value.name for value in proto.graph.input}
    fed = [name for name in names if name in inputs]
    made = [name for name in names if name not in inputs]
    run = expose(proto, made, threads) if made else None
    side = _sides(samples.manifest.hashes)
    with ThreadPoolExecutor(threads) as pool, _torch_on_one_thread():
        every = pool.map if threads > 1 else map
        for index, sample in enumerate(samples.batches(1)):
            half = halves[side[index]]
            values = [sample[name] for name in fed] + (run(sample) if run else [])
            counters = half.histograms if counting else itertools.repeat(None)
            found = every(_look, [*fed, *made], values, counters)
            ends = np.array(list(found)).T
            del values, found  # the next sample's go where these were
            half.note(ends)
            whole.note(ends)
    if counting:
        pairs = zip(halves[0].histograms, halves[1].histograms, strict=True)
        whole.histograms = [_merged(*pair) for pair in pairs]
    return Watched(whole, halves)


@contextmanager
def _torch_on_one_thread() -> Iterator[None]:
    """Let the threads here count side by side, and none of them start its own."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _sides(hashes: Sequence[str]) -> list[int]:
    """Return for each sample the half it belongs to."""
    side = [0] * len(hashes)
    for rank, index in enumerate(sorted(range(len(hashes)), key=lambda at: hashes[at])):
        side[index] = rank % 2
    return side


def _look(name: str, values: Array, histogram: Histogram | None) -> Bounds:
    """Return the extremes of one tensor on one sample; count its values on the way."""
    bounds = extremes(values) if histogram is None else histogram.add(values)
    for number in bounds:
        if not math.isfinite(number):
            raise DataError(
                f"the activation {name!r} is {number} on a calibration sample",
                hint="check the preprocessing, and the model on that sample in PyTorch",
            )
    return bounds


def _merged(first: Histogram, second: Histogram) -> Histogram:
    both = Histogram()
    both.merge(first)
    both.merge(second)
    return both


def _difference(first: Bounds, second: Bounds) -> float:
    """Return by how much two widths differ, in % of the wider."""
    widths = sorted((first[1] - first[0], second[1] - second[0]))
    return 100.0 * (widths[1] - widths[0]) / widths[1] if widths[1] > 0.0 else 0.0
