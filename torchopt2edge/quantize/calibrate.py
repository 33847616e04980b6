"""Find activation ranges by running the float ONNX over samples, in one streaming pass.

All that was asked for is computed in the same pass, sample by sample: exact minima and maxima,
their moving average, and histograms with exact counts of every value. Memory does not grow with
the number of samples, and but for ``ema`` the result does not depend on their order: there are
no batches, so that no sum is taken in another order.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge.errors import ConfigError
from torchopt2edge.quantize.collect import SEARCHES, watch
from torchopt2edge.quantize.graph.activations import activations
from torchopt2edge.quantize.histogram import OBSERVERS, Bounds
from torchopt2edge.quantize.shared_ranges import derived, overflows
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    pass


def calibrate(
    graph: Path,
    samples: Samples,
    observers: Sequence[str] = ("minmax",),
    *,
    threads: int | None = None,
) -> dict[str, Ranges]:
    """Return, by observer, the (min, max) of every float activation of the graph.

    ``graph`` is the shared float ONNX with inferred shapes. ``minmax`` is exact; ``ema`` a moving
    average (0.95) of each sample's extremes in the samples' order; ``percentile``, ``mse`` and
    ``entropy`` are searched on histograms (`range_search`). Tensors that `shared_ranges`
    has rules for take another's range. Facts hold the ``instability``: how far two halves of the
    samples differ.
    ``threads`` is all cores by default.

    Raises:
        ConfigError: an observer that there is not.
        DataError: an activation is NaN or infinite on some sample.
    """
    import onnx

    unknown = [name for name in observers if name not in OBSERVERS]
    if unknown:
        raise ConfigError(f"there is no observer {unknown[0]!r}", hint=f"take of {OBSERVERS}")
    proto = onnx.load(graph)
    tensors = activations(proto)
    counting, cores = bool(SEARCHES.keys() & set(observers)), threads or os.cpu_count() or 1
    for fuse in (True, False):
        twins = derived(proto, tensors, fuse=fuse)
        watched = [name for name in tensors if name not in twins]
        seen = watch(proto, watched, samples, counting=counting, threads=cores)
        exact = _spread(seen.whole.bounds("minmax"), tensors, twins)
        if not overflows(proto, exact, twins.keys()):
            break
    return {
        name: Ranges(
            _spread(seen.whole.bounds(name), tensors, twins),
            f"calibrated:{name}",
            samples.manifest,
            facts={"instability": seen.instability(name)},
        )
        for name in observers
    }


def _spread(
    found: Mapping[str, Bounds], tensors: Sequence[str], twins: Mapping[str, str]
) -> dict[str, Bounds]:
    """Give every tensor its range or that of the one it goes by."""
    return {name: found[twins.get(name, name)] for name in tensors}
