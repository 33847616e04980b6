"""Runs a float graph on samples and gives the values of its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

BATCH = 8


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
