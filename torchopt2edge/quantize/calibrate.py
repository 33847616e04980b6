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
from torchopt2edge.quantize.histogram import OBSERVERS, Bounds
from torchopt2edge.quantize.shared_ranges import derived, overflows
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    import onnx

BATCH = 8


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
    ``entropy`` are searched on histograms (`threshold`). Tensors that `derive` has rules for take
    another's range. Facts hold the ``instability``: how far two halves of the samples differ.
    ``threads`` is all cores by default.

    Raises:
        ConfigError: an observer that there is not.
        DataError: an activation is NaN or infinite on some sample.
    """
    import onnx

    unknown = [name for name in observers if name not in OBSERVERS]
    if unknown:
        raise ConfigError(f"there is no observer {unknown[0]!r}", mend=f"take of {OBSERVERS}")
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


def activations(proto: onnx.ModelProto) -> list[str]:
    """Name the float tensors that change with the input: inputs and the nodes' outputs."""
    import onnx

    weights = {weight.name for weight in proto.graph.initializer}
    known = [*proto.graph.input, *proto.graph.value_info, *proto.graph.output]
    floats = {
        value.name
        for value in known
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.name not in weights
    }
    inputs = [value.name for value in proto.graph.input]
    made = [name for node in proto.graph.node if node.op_type != "Constant" for name in node.output]
    return [name for name in dict.fromkeys([*inputs, *made]) if name in floats]


def batch_of(proto: onnx.ModelProto) -> int:
    """Return the batch to feed: the graph's own when it is fixed."""
    weights = {weight.name for weight in proto.graph.initializer}
    first = next(value for value in proto.graph.input if value.name not in weights)
    shape = first.type.tensor_type.shape.dim
    return shape[0].dim_value if shape and shape[0].HasField("dim_value") else BATCH


def with_outputs(proto: onnx.ModelProto, tensors: list[str]) -> onnx.ModelProto:
    """Return a copy of the graph that gives out these tensors besides its outputs."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    there = {value.name for value in copy.graph.output}
    copy.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in tensors
        if name not in there
    )
    return copy
