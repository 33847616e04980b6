"""Fold per-channel scales and shifts into the layer before them, or write them as Mul and Add.

A BatchNormalization at inference, and a Mul or an Add with one constant per channel (a frozen
norm, a layer scale), compute y = s·x + t per channel. The rules, exact up to rounding:

A1. Behind a Conv, ConvTranspose or Gemm with constant weights whose output nothing else reads,
    s and t go into the weights and the bias. Weights that other nodes share are copied.
A2. A BatchNormalization that is left is written as Mul and Add with constants [1, C, 1, 1]. So does
    onnx2tf, and both runtimes then have the same tensors and quantize both. (Behind a ReLU there is
    no layer to fold into. Before a convolution with zero padding it cannot go into that one either,
    because the padding is not shifted with the rest.)

The TFLite converter applies A1 by itself: if the ONNX did not, the two files would have different
tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.quantize.graph.canonicalize import drop_unused
from torchopt2edge.quantize.graph.index import GraphIndex, attributes_of, replace_nodes, values_of
from torchopt2edge.quantize.graph.op_types import Trait, having

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

Array = np.ndarray[Any, Any]
Affine = tuple[Array, Array]
"""Scale s and shift t, float64 [C] or of one element."""
Weights = Mapping[str, "TensorProto"]

LAYERS = having(Trait.BIASED)  # the shift needs a bias
AFFINE = having(Trait.ARITHMETIC) | {"BatchNormalization"}


def settle_affine(proto: ModelProto) -> None:
    """Apply A1 until nothing is left to fold, then A2, in place."""
    ranks = ranks_of(proto)
    while _fold_once(proto, ranks):
        pass
    _write_out(proto.graph, ranks)


def ranks_of(proto: ModelProto) -> dict[str, int]:
    """Return the rank of every tensor whose rank is known."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(proto).graph
    ranks = {weight.name: len(weight.dims) for weight in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            ranks[value.name] = len(value.type.tensor_type.shape.dim)
    return ranks


def _fold_once(proto: ModelProto, ranks: Mapping[str, int]) -> int:
    """A1 on every layer that one affine node follows; return how many were folded."""
    graph, index = proto.graph, GraphIndex.of(proto)
    weights, reads = _initializers(graph), index.uses
    touched: set[str] = set()
    folded = []
    for node in graph.node:
        source = _scaled_input(node, weights)
        layer = index.producers.get(source)
        if layer is None or layer.op_type not in LAYERS or layer.output[0] in touched:
            continue
        affine = _affine(node, weights, ranks.get(source, 0))
        if affine is None or reads[source] != 1 or not _accepts(layer, affine, weights):
            continue
        _absorb(graph, layer, affine, weights)
        touched.add(node.output[0])
        layer.output[0] = node.output[0]
        folded.append(node)
    for node in folded:
        graph.node.remove(node)
    drop_unused(graph)
    return len(folded)


def _initializers(graph: GraphProto) -> dict[str, TensorProto]:
    return {weight.name: weight for weight in graph.initializer}


def _scaled_input(node: NodeProto, weights: Weights) -> str:
    """Return the input that an affine node scales and shifts, "" for any other node."""
    if node.op_type not in AFFINE or node.domain not in ("", "ai.onnx"):
        return ""
    varying = [name for name in node.input if name not in weights]
    if len(varying) != 1:
        return ""
    ordered = node.op_type in ("Sub", "Div", "BatchNormalization")
    return "" if ordered and node.input[0] in weights else str(varying[0])


def _affine(node: NodeProto, weights: Weights, rank: int) -> Affine | None:
    """Read s and t of y = s·x + t; None when they are not one number per channel."""
    from onnx import helper

    if node.op_type == "BatchNormalization":
        attributes = attributes_of(node)
        if attributes.get("training_mode") or any(node.output[1:]) or rank < 2:
            return None
        scale, shift, mean, var = (_exact(weights[name]) for name in node.input[1:])
        scale = scale / np.sqrt(var + attributes.get("epsilon", 1e-5))
        return scale, shift - mean * scale
    name = next(name for name in node.input if name in weights)
    if weights[name].data_type != helper.np_dtype_to_tensor_dtype(np.dtype(np.float32)):
        return None
    value = _exact(weights[name])
    if rank < 2 or not per_channel(value, rank):
        return None
    value = value.ravel()
    if node.op_type in ("Mul", "Div"):
        with np.errstate(divide="ignore"):  # infinite: `_accepts` refuses it
            return (value if node.op_type == "Mul" else 1 / value), np.zeros(1)
    return np.ones(1), (value if node.op_type == "Add" else -value)


def per_channel(value: Array, rank: int) -> bool:
    """Tell whether a constant operand of a tensor varies along axis 1 alone, if at all.

    Args:
        value: the constant.
        rank: the rank of the tensor that it is combined with.
    """
    shape = [1] * (rank - value.ndim) + list(value.shape)
    return len(shape) == rank and value.size == shape[1]


def _exact(weight: TensorProto) -> Array:
    return values_of(weight).astype(np.float64)


def _accepts(layer: NodeProto, affine: Affine, weights: Weights) -> bool:
    """Tell whether a layer's weights and bias are constants, with one number per channel each."""
    if any(name and name not in weights for name in layer.input[1:]):
        return False
    count = _output_channels(layer, tuple(weights[layer.input[1]].dims))
    bias = weights[layer.input[2]].dims if len(layer.input) > 2 and layer.input[2] else ()
    bias_per_channel = len(bias) < 2 or math.prod(bias[:-1]) == 1
    fits = all(part.size in (1, count) and np.isfinite(part).all() for part in affine)
    return fits and bias_per_channel and math.prod(bias) in (1, count)


def _output_channels(layer: NodeProto, shape: tuple[int, ...]) -> int:
    if layer.op_type == "ConvTranspose":
        return shape[1] * _integer(layer, "group", 1)
    transposed = layer.op_type == "Gemm" and not _integer(layer, "transB", 0)
    return shape[1] if transposed else shape[0]


def _integer(node: NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _absorb(
    graph: GraphProto, layer: NodeProto, affine: Affine, weights: dict[str, TensorProto]
) -> None:
    """Scale a layer's weights, scale and shift its bias, both as new initializers."""
    weight = _exact(weights[layer.input[1]])
    count = _output_channels(layer, weight.shape)
    scale, shift = (np.broadcast_to(part, count) for part in affine)
    if layer.op_type == "ConvTranspose":  # [inputs, outputs of a group, …], group by group
        group = _integer(layer, "group", 1)
        parts = weight.reshape(group, -1, *weight.shape[1:])
        weight = (parts * _with_rank(scale.reshape(group, 1, -1), parts)).reshape(weight.shape)
    elif layer.op_type == "Gemm" and not _integer(layer, "transB", 0):
        weight = weight * scale
    else:
        weight = weight * _with_rank(scale, weight)
    bias = np.zeros(count)
    if len(layer.input) > 2 and layer.input[2]:
        bias = bias + _exact(weights[layer.input[2]]).ravel()
    for attribute in layer.attribute:
        if attribute.name == "beta":  # of Gemm: a factor of the bias
            bias, attribute.f = bias * attribute.f, 1.0
    del layer.input[1:]
    for part, value in (("weight", weight), ("bias", bias * scale + shift)):
        layer.input.append(add_weight(graph, f"{layer.name or layer.output[0]}/{part}", value))
        weights[layer.input[-1]] = graph.initializer[-1]


def _with_rank(value: Array, like: Array) -> Array:
    """Append axes of length 1 until the ranks are equal."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))


def _write_out(graph: GraphProto, ranks: Mapping[str, int]) -> None:
    """A2."""
    from onnx import helper

    weights = _initializers(graph)
    nodes = []
    for node in graph.node:
        source = _scaled_input(node, weights) if node.op_type == "BatchNormalization" else ""
        affine = _affine(node, weights, ranks.get(source, 0)) if source else None
        if affine is None:
            nodes.append(node)
            continue
        name, target = node.name or node.output[0], node.output[0]
        shape = (1, -1, *[1] * (ranks[source] - 2))
        scale, shift = (
            add_weight(graph, f"{name}/{part}", value.reshape(shape))
            for part, value in zip(("scale", "shift"), affine, strict=True)
        )
        scaled = unused_name(graph, f"{target}/scaled")
        nodes.append(helper.make_node("Mul", [source, scale], [scaled], name=f"{name}/mul"))
        nodes.append(helper.make_node("Add", [scaled, shift], [target], name=f"{name}/add"))
    replace_nodes(graph, nodes)
    drop_unused(graph)


def add_weight(graph: GraphProto, name: str, value: Array) -> str:
    """Add a float32 initializer.

    Args:
        graph: the graph, changed in place.
        name: the name to use, with a number behind it where it is taken.
        value: the values, converted to float32.

    Returns:
        The initializer's name.
    """
    from onnx import numpy_helper

    name = unused_name(graph, name)
    graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return name


def unused_name(graph: GraphProto, name: str) -> str:
    """Return a tensor name that the graph does not have yet."""
    taken = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    taken.update(output for node in graph.node for output in node.output)
    unused, number = name, 1
    while unused in taken:
        unused, number = f"{name}_{number}", number + 1
    return unused
