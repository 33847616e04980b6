"""Count the multiply-accumulates (MACs) of the layers of an ONNX graph."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torchopt2edge.quantize.graph.index import fed_inputs
from torchopt2edge.quantize.graph.op_types import WEIGHT_INPUT, name_of

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Shape = tuple[int, ...]


def macs_of(proto: ModelProto) -> dict[str, int]:
    """Return the multiply-accumulates of every layer at batch 1.

    Layers are Conv, ConvTranspose, Gemm and MatMul (of activations too) and their integer kernels,
    RNN, GRU, LSTM and Einsum. The addition of a bias is not counted.

    Returns:
        MACs by node name (`name_of`). A node whose shapes cannot be inferred is absent.
    """
    shapes = shapes_of(proto)
    macs = {}
    for node in proto.graph.node:
        counting = _COUNTED.get(node.op_type)
        # Counting is bookkeeping: a shape that no layer can have never ends an export.
        with contextlib.suppress(LookupError, ValueError):
            count = None if counting is None else counting(node, shapes)
            if count is not None:
                macs[name_of(node)] = count
    return macs


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
    """Set a free first dimension of the inputs to 1 and remove the shapes that depend on it."""
    for value in fed_inputs(graph):
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
    source, target = shapes.get(node.input[0]), shapes.get(node.output[0])
    weight = shapes.get(node.input[WEIGHT_INPUT[node.op_type]])
    if source is None or target is None or weight is None:
        return None
    if node.op_type == "ConvTranspose":  # each input value is spread over a kernel
        return math.prod(source) * math.prod(weight[1:])
    if "Conv" in node.op_type:  # each output value is summed over a kernel
        return math.prod(target) * math.prod(weight[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(target) * source[0 if transposed else -1]


def _recurrent(node: NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Count a recurrent layer: its weights [directions, gates, inputs] are used at every step."""
    source, weight, hidden = (shapes.get(name) for name in node.input[:3])
    if source is None or weight is None or hidden is None:
        return None
    return source[0] * source[1] * (math.prod(weight) + math.prod(hidden))


def _einsum(node: NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Count a product over all letters of the equation, once per pair of operands."""
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation")
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    given = [shapes.get(name) for name in node.input]
    if "." in equation or len(terms) < 2 or any(shape is None for shape in given):
        return None
    sizes = {
        letter: size
        for term, shape in zip(terms, given, strict=True)
        for letter, size in zip(term, shape or (), strict=True)
    }
    return math.prod(sizes.values()) * (len(terms) - 1)


_COUNTED: dict[str, Callable[[Any, Mapping[str, Shape]], int | None]] = {
    **dict.fromkeys(WEIGHT_INPUT, _macs),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), _recurrent),
    "Einsum": _einsum,
}
