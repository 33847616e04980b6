"""The activations of a float ONNX graph: their names, and how to read their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torchopt2edge.quantize.graph.index import fed_inputs

if TYPE_CHECKING:
    import onnx

BATCH = 8
"""How many samples are run at once where the graph's batch is free."""


def activations(proto: onnx.ModelProto) -> list[str]:
    """Return the float tensors that change with the input: inputs and outputs of nodes.

    Args:
        proto: a float graph with inferred types.

    Returns:
        Tensor names in the order of the nodes, inputs first.
    """
    import onnx

    graph = proto.graph
    weights = {weight.name for weight in graph.initializer}
    floats = {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.name not in weights
    }
    names = [value.name for value in graph.input]
    names += [name for node in graph.node if node.op_type != "Constant" for name in node.output]
    return [name for name in dict.fromkeys(names) if name in floats]


def batch_size_of(proto: onnx.ModelProto) -> int:
    """Return the batch size to run a graph with: its own where it is fixed, else `BATCH`."""
    dims = fed_inputs(proto.graph)[0].type.tensor_type.shape.dim
    return dims[0].dim_value if dims and dims[0].HasField("dim_value") else BATCH


def with_outputs(proto: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of a graph that has these float tensors as outputs besides its own."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in tensors
        if name not in known
    )
    return copy
