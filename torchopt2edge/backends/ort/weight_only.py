"""Numeric formats in which only the weights change: float16, and int8 with float arithmetic.

Each function takes the shared float graph. `layers_with_weights` serves the other formats too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from torchopt2edge.backends.silence import quiet
from torchopt2edge.quantize.graph.canonicalize import drop_unused
from torchopt2edge.quantize.graph.index import (
    attributes_of,
    float_weights,
    replace_nodes,
    values_of,
)
from torchopt2edge.quantize.graph.op_types import LAYERS
from torchopt2edge.quantize.qparams import quantize_weight

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

    from torchopt2edge.quantize.qparams import Array


def to_float16(proto: ModelProto) -> ModelProto:
    """Return the graph with float16 weights and arithmetic, its inputs and outputs in float32.

    ONNX Runtime puts casts around the operators that its CPU provider has no float16 kernel for.

    Args:
        proto: a float graph, which may be changed.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet():  # it warns of every weight that is too small for float16
        model = ONNXModel(convert_float_to_float16(proto, keep_io_types=True))
    model.topological_sort()  # it appends nodes, and ONNX requires them in order
    graph: ModelProto = model.model
    return graph


def to_int8_weights(proto: ModelProto) -> None:
    """Store the weights of layers as int8 per output channel; the arithmetic stays in float.

    Cast and Mul dequantize them, not DequantizeLinear: ONNX Runtime folds those two when it opens
    the file and then runs as fast as in float. It leaves a DequantizeLinear to every single run
    (2.3 times the time of a MobileNetV2), and turns one before a MatMul into a kernel that rounds
    the activations too.

    Args:
        proto: a float graph, changed in place.
    """
    from onnx import TensorProto, helper

    graph, nodes = proto.graph, []
    written: set[str] = set()
    for node, weight, axis in layers_with_weights(graph):
        if weight is not None:
            integers, scale = quantize_weight(values_of(weight), axis)
            name = f"{weight.name}@{axis}"
            if name not in written:
                written.add(name)
                shape = [-1 if at == axis else 1 for at in range(integers.ndim)]
                parts = [
                    add_constant(graph, f"{name}@quantized", integers),
                    add_constant(graph, f"{name}@scale", scale.reshape(shape)),
                ]
                floats = f"{name}@float"
                nodes.append(helper.make_node("Cast", parts[:1], [floats], to=TensorProto.FLOAT))
                nodes.append(helper.make_node("Mul", [floats, parts[1]], [name]))
            node.input[1] = name
        nodes.append(node)
    rewrite(graph, nodes)


def layers_with_weights(graph: GraphProto) -> Iterator[tuple[NodeProto, TensorProto | None, int]]:
    """Yield all nodes; a layer with its constant weights and their axis of output channels.

    Yields:
        The node, its weights (None for what is not a layer with constant weights of two dimensions
        or more), and the axis.
    """
    weights = float_weights(graph)
    for node in list(graph.node):
        weight = weights.get(node.input[1]) if node.op_type in LAYERS else None
        rank = 0 if weight is None else len(weight.dims)
        if rank < 2 or (node.op_type == "MatMul" and rank > 2):
            yield node, None, 0
        else:
            outputs_first = node.op_type == "Conv" or bool(attributes_of(node).get("transB"))
            yield node, weight, 0 if outputs_first else 1


def add_constant(graph: GraphProto, name: str, value: Array) -> str:
    """Add an initializer of any dtype and return its name."""
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def rewrite(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Give a graph its new nodes, and remove the constants that nothing reads any more."""
    replace_nodes(graph, nodes)
    drop_unused(graph)
