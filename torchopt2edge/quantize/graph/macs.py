"""Count what the heavy nodes of an ONNX graph compute: the weight of a node in every share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Shape = tuple[int, ...]
# Which input holds the weights; the others are read off the shapes of input 0 and output 0.
WEIGHTS = {
    "Conv": 1,
    "ConvInteger": 1,
    "QLinearConv": 3,
    "ConvTranspose": 1,
    "Gemm": 1,
    "MatMul": 1,
    "MatMulInteger": 1,
    "QLinearMatMul": 3,
}


def macs_of(proto: ModelProto) -> dict[str, int]:
    """Return the multiply-accumulates of every heavy node at batch 1, by node name.

    Heavy are Conv, ConvTranspose, Gemm and MatMul and their integer kinds. A node without a name
    goes by its first output; one whose shapes cannot be inferred is absent. The addition of a
    bias is not counted.
    """
    shapes = shapes_of(proto)
    found = {}
    for node in proto.graph.node:
        count = _macs(node, shapes) if node.op_type in WEIGHTS else None
        if count is not None:
            found[node.name or node.output[0]] = count
    return found


def shapes_of(proto: ModelProto) -> dict[str, Shape]:
    """Return the shape of every tensor whose shape is known at batch 1, weights included."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _fix_batch(copy.graph)
    graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return shapes


def _fix_batch(graph: GraphProto) -> None:
    """Set a free first dimension of the inputs to 1 and forget the shapes that hung on it."""
    weights = {weight.name for weight in graph.initializer}
    given = [value for value in graph.input if value.name not in weights]
    for value in given:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    del graph.value_info[:]
    for value in graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.Clear()


def _macs(node: NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Count one node; None when a shape is not known."""
    given, made = shapes.get(node.input[0]), shapes.get(node.output[0])
    weight = shapes.get(node.input[WEIGHTS[node.op_type]])
    if given is None or made is None or weight is None:
        return None
    if node.op_type == "ConvTranspose":  # each value read is spread over a kernel
        return math.prod(given) * math.prod(weight[1:])
    if "Conv" in node.op_type:  # each value made is gathered over a kernel
        return math.prod(made) * math.prod(weight[1:])
    turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(made) * given[0 if turned else -1]
