"""Run samples through a graph and collect statistics of every tensor: of all samples and of halves.

The halves are chosen by the samples' hashes, every other one in sorted order, so they are the same
for any order of the samples. Counting them separately and adding them up costs nothing.
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
from torchopt2edge.quantize.tap import open_tap
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


class TensorStats:
    """Statistics of tensors over some samples: extremes, their moving average, and histograms.

    Args:
        names: the tensors.
        counting: whether values are counted in histograms, as the searches need it.
    """

    def __init__(self, names: Sequence[str], *, counting: bool) -> None:
        self.names = tuple(names)
        self.histograms = [Histogram() for _ in names] if counting else []
        self.extremes = np.array([[np.inf] * len(names), [-np.inf] * len(names)])
        self.moving: Array | None = None

    def add(self, extremes: Array) -> None:
        """Add a sample's minima and maxima, float64 [2, tensors]."""
        self.extremes[0] = np.minimum(self.extremes[0], extremes[0])
        self.extremes[1] = np.maximum(self.extremes[1], extremes[1])
        before = extremes if self.moving is None else self.moving
        self.moving = MOMENTUM * before + (1.0 - MOMENTUM) * extremes

    def bounds(self, observer: str) -> dict[str, Bounds]:
        """Return the range that an observer derives for each tensor; {} without samples."""
        if self.moving is None:
            return {}
        if observer in SEARCHES:
            bounds = [SEARCHES[observer](histogram.bins()) for histogram in self.histograms]
        else:
            ends = self.moving if observer == "ema" else self.extremes
            bounds = [(float(low), float(high)) for low, high in ends.T]
        return dict(zip(self.names, bounds, strict=True))


@dataclass(frozen=True)
class CalibrationStats:
    """The statistics of all samples, and of two halves of them."""

    whole: TensorStats
    halves: tuple[TensorStats, TensorStats]

    def instability(self, observer: str) -> dict[str, Any] | None:
        """Return by how much the widths of the halves' ranges differ, in % of the wider one.

        For the searches ``percentile`` is compared, the fastest of them.

        Returns:
            ``median_pct`` and ``worst_pct`` over the tensors, and ``worst``, that tensor's name;
            None with a single sample.
        """
        compared = "percentile" if observer in SEARCHES else observer
        first, second = (half.bounds(compared) for half in self.halves)
        if not first or not second:
            return None
        differences = {name: _difference(first[name], second[name]) for name in first}
        worst = max(differences, key=lambda name: differences[name])
        median = float(np.median(list(differences.values())))
        return {"median_pct": median, "worst_pct": differences[worst], "worst": worst}


def collect(
    proto: onnx.ModelProto,
    names: Sequence[str],
    samples: Samples,
    *,
    counting: bool,
    threads: int,
) -> CalibrationStats:
    """Run the samples one by one and collect statistics of all values of these tensors.

    Args:
        proto: a float graph.
        names: activations of it, inputs among them.
        samples: the calibration samples.
        counting: whether values are counted in histograms.
        threads: how many threads to use.

    Raises:
        DataError: an activation is NaN or infinite.
    """
    whole = TensorStats(names, counting=False)
    halves = TensorStats(names, counting=counting), TensorStats(names, counting=counting)
    graph_inputs = {value.name for value in proto.graph.input}
    inputs = [name for name in names if name in graph_inputs]
    computed = [name for name in names if name not in graph_inputs]
    run = open_tap(proto, computed, threads) if computed else None
    half_of = _halves(samples.manifest.hashes)
    with ThreadPoolExecutor(threads) as pool, _torch_on_one_thread():
        each = pool.map if threads > 1 else map
        for index, sample in enumerate(samples.feeds(1)):
            half = halves[half_of[index]]
            values = [sample[name] for name in inputs] + (run(sample) if run else [])
            histograms = half.histograms if counting else itertools.repeat(None)
            bounds = list(each(_measure, [*inputs, *computed], values, histograms))
            ends = np.array(bounds).T
            del values, bounds  # the next sample's values can use this memory
            half.add(ends)
            whole.add(ends)
    if counting:
        pairs = zip(halves[0].histograms, halves[1].histograms, strict=True)
        whole.histograms = [_merged(*pair) for pair in pairs]
    return CalibrationStats(whole, halves)


@contextmanager
def _torch_on_one_thread() -> Iterator[None]:
    """Keep torch from starting threads of its own in each of the threads here."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _halves(hashes: Sequence[str]) -> list[int]:
    """Return for each sample the half it belongs to, 0 or 1."""
    halves = [0] * len(hashes)
    for rank, index in enumerate(sorted(range(len(hashes)), key=lambda at: hashes[at])):
        halves[index] = rank % 2
    return halves


def _measure(name: str, values: Array, histogram: Histogram | None) -> Bounds:
    """Return the extremes of one tensor on one sample, and count its values."""
    bounds = extremes(values) if histogram is None else histogram.add(values)
    for number in bounds:
        if not math.isfinite(number):
            raise DataError(
                f"the activation {name!r} is {number} on a calibration sample",
                hint="check the preprocessing, and the model on that sample in PyTorch",
            )
    return bounds


def _merged(first: Histogram, second: Histogram) -> Histogram:
    merged = Histogram()
    merged.merge(first)
    merged.merge(second)
    return merged


def _difference(first: Bounds, second: Bounds) -> float:
    """Return by how much two widths differ, in % of the wider one."""
    widths = sorted((first[1] - first[0], second[1] - second[0]))
    return 100.0 * (widths[1] - widths[0]) / widths[1] if widths[1] > 0.0 else 0.0
