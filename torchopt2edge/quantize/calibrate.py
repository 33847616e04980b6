"""Find activation ranges by running the float ONNX over samples, in one streaming pass.

The minimum and maximum are taken inside the graph, so that no activation leaves the runtime and
memory does not grow with the number of samples; the result does not depend on the samples' order
or on the batch size.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.errors import DataError
from torchopt2edge.quantize.runtime import host_session
from torchopt2edge.quantize.samples import Samples
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    import onnx

BATCH = 8
# ONNX Runtime's minimum and maximum step over a NaN; the sum does not.
REDUCTIONS = {"min": "ReduceMin", "max": "ReduceMax", "sum": "ReduceSum"}


def calibrate(graph: Path, samples: Samples) -> Ranges:
    """Return the (min, max) over all samples of every float activation of the graph.

    ``graph`` is the shared float ONNX with inferred shapes.

    Raises:
        DataError: an activation is NaN or infinite on some sample.
    """
    import onnx

    proto = onnx.load(graph)
    tensors = activations(proto)
    session = host_session(_with_extremes(proto, tensors))
    low = dict.fromkeys(tensors, math.inf)
    high = dict.fromkeys(tensors, -math.inf)
    names = [f"{side}/{name}" for name in tensors for side in REDUCTIONS]
    for batch in samples.batches(batch_of(proto)):
        values = iter(session.run(names, batch))
        for name in tensors:
            low[name] = min(low[name], _finite(next(values), name))
            high[name] = max(high[name], _finite(next(values), name))
            if math.isnan(next(values)):
                _finite(math.nan, name)
    bounds = {name: (low[name], high[name]) for name in tensors}
    return Ranges(bounds, "calibrated:minmax", samples.manifest)


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


def _with_extremes(proto: onnx.ModelProto, tensors: list[str]) -> onnx.ModelProto:
    """Return a copy that gives out the scalar reductions of each tensor, and nothing else."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    for name in tensors:
        for side, op in REDUCTIONS.items():
            made = f"{side}/{name}"
            copy.graph.node.append(onnx.helper.make_node(op, [name], [made], keepdims=0))
            copy.graph.output.append(
                onnx.helper.make_tensor_value_info(made, onnx.TensorProto.FLOAT, [])
            )
    return copy


def _finite(value: Any, name: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise DataError(
            f"the activation {name!r} is {number} on a calibration sample",
            mend="check the preprocessing, and the model on that sample in PyTorch",
        )
    return number
