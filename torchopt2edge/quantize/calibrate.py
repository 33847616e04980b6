"""Find activation ranges by running the float ONNX over samples, in one streaming pass.

Everything that is requested is computed in the same pass, sample by sample: exact minima and
maxima, their moving average, and histograms with exact counts of all values. Memory does not grow
with the number of samples, and except for ``ema`` the result does not depend on their order: there
are no batches, so no sum is taken in another order.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torchopt2edge.errors import ConfigError
from torchopt2edge.quantize.collect import SEARCHES, collect
from torchopt2edge.quantize.graph.activations import activations
from torchopt2edge.quantize.histogram import OBSERVERS, Bounds
from torchopt2edge.quantize.shared_ranges import may_overflow, shared_ranges
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    import onnx


def calibrate(
    proto: onnx.ModelProto,
    samples: Samples,
    observers: Sequence[str] = ("minmax",),
    *,
    threads: int | None = None,
) -> dict[str, Ranges]:
    """Find the (min, max) of every float activation of a graph.

    ``minmax`` is exact. ``ema`` is a moving average (momentum 0.95) of each sample's extremes, in
    the samples' order. ``percentile``, ``mse`` and ``entropy`` are searched on histograms
    (`range_search`). Tensors for which `shared_ranges` has a rule take another one's range.

    Args:
        proto: the shared float graph, with inferred shapes.
        samples: the calibration samples.
        observers: which ranges to find, of `OBSERVERS`.
        threads: how many threads to use; all cores by default.

    Returns:
        Ranges by observer. Their facts hold the ``instability``: how far two halves of the samples
        differ.

    Raises:
        ConfigError: there is no such observer.
        DataError: an activation is NaN or infinite on some sample.
    """
    unknown = [name for name in observers if name not in OBSERVERS]
    if unknown:
        raise ConfigError(f"there is no observer {unknown[0]!r}", hint=f"take of {OBSERVERS}")
    tensors = activations(proto)
    counting, cores = bool(SEARCHES.keys() & set(observers)), threads or os.cpu_count() or 1
    for fuse in (True, False):
        shared = shared_ranges(proto, tensors, fuse=fuse)
        observed = [name for name in tensors if name not in shared]
        stats = collect(proto, observed, samples, counting=counting, threads=cores)
        exact = _spread(stats.whole.bounds("minmax"), tensors, shared)
        if not may_overflow(proto, exact, shared.keys()):
            break
    return {
        name: Ranges(
            _spread(stats.whole.bounds(name), tensors, shared),
            f"calibrated:{name}",
            samples.manifest,
            facts={"instability": stats.instability(name)},
        )
        for name in observers
    }


def _spread(
    observed: Mapping[str, Bounds], tensors: Sequence[str], shared: Mapping[str, str]
) -> dict[str, Bounds]:
    """Return the range of every tensor: its own, or that of the one it shares."""
    return {name: observed[shared.get(name, name)] for name in tensors}
