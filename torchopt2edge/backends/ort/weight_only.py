"""Numeric formats in which only the weights change: float16, and int8 with float arithmetic.

Each function takes the shared float graph; `heavy` and `rewrite` serve the other formats too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from torchopt2edge.backends.silence import quiet
from torchopt2edge.quantize.graph.canonicalize import drop_unused
from torchopt2edge.quantize.qdq_plan import attributes, floats_held, values
from torchopt2edge.quantize.qparams import weight_codes

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

    from torchopt2edge.quantize.qparams import Array

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def half(proto: ModelProto) -> ModelProto:
    """Return the graph with float16 weights and arithmetic, its inputs and outputs in float32.

    ONNX Runtime puts casts around the operators that its CPU provider has no float16 kernel for.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet():  # it warns of every weight that is too small for float16
        made = ONNXModel(convert_float_to_float16(proto, keep_io_types=True))
    made.topological_sort()  # it appends nodes, and ONNX wants them in order
    graph: ModelProto = made.model
    return graph


def weights_only(proto: ModelProto) -> None:
    """Hold the weights of heavy nodes as int8 per output channel; the arithmetic stays in float.

    Cast and Mul bring them back, not DequantizeLinear: ONNX Runtime folds those two when it opens
    the file and then runs as fast as in float. It leaves a DequantizeLinear to every single run
    (2.3 times the time of a MobileNetV2), and makes of one before a MatMul a kernel that rounds
    the activations too.
    """
    from onnx import TensorProto, helper

    graph, nodes = proto.graph, []
    written: set[str] = set()
    for node, weight, axis in heavy(graph):
        if weight is not None:
            codes, scale = weight_codes(values(weight), axis)
            made = f"{weight.name}@{axis}"
            if made not in written:
                written.add(made)
                shape = [-1 if at == axis else 1 for at in range(codes.ndim)]
                parts = [
                    constant(graph, f"{made}@codes", codes),
                    constant(graph, f"{made}@scale", scale.reshape(shape)),
                ]
                floats = f"{made}@float"
                nodes.append(helper.make_node("Cast", parts[:1], [floats], to=TensorProto.FLOAT))
                nodes.append(helper.make_node("Mul", [floats, parts[1]], [made]))
            node.input[1] = made
        nodes.append(node)
    rewrite(graph, nodes)


def heavy(graph: GraphProto) -> Iterator[tuple[NodeProto, TensorProto | None, int]]:
    """Walk all nodes; a layer comes with its constant weights and their axis of output channels."""
    weights = floats_held(graph)
    for node in list(graph.node):
        weight = weights.get(node.input[1]) if node.op_type in LAYERS else None
        rank = 0 if weight is None else len(weight.dims)
        if rank < 2 or (node.op_type == "MatMul" and rank > 2):
            yield node, None, 0
        else:
            first = node.op_type == "Conv" or bool(attributes(node).get("transB"))
            yield node, weight, 0 if first else 1


def constant(graph: GraphProto, name: str, value: Array) -> str:
    """Add an initializer and return its name."""
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def rewrite(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Give a graph its new nodes, and take out the constants that nothing reads any more."""
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
