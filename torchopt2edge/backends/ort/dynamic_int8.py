"""Integer arithmetic with ranges found at run time: int8 weights, uint8 activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from torchopt2edge.backends.ort.weight_only import add_constant, layers_with_weights, rewrite
from torchopt2edge.quantize.graph.index import attributes_of, float_weights, values_of
from torchopt2edge.quantize.qparams import as_unsigned, quantize_weight
from torchopt2edge.quantize.saturation import can_saturate, kernel_rows

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

    from torchopt2edge.quantize.qparams import Array

# The layers that ONNX has an integer operator for: no ConvTranspose.
INTEGER_OP = {"Conv": "ConvInteger", "Gemm": "MatMulInteger", "MatMul": "MatMulInteger"}


def to_dynamic_int8(proto: ModelProto, *, exact_everywhere: bool) -> None:
    """Run layers on int8 weights and on uint8 activations whose range is found in every run.

    y = Cast(Integer(x, w)) · (scale of x · scale per channel of w) + bias. ONNX Runtime fuses the
    chain of a MatMul into one kernel. A tensor that two layers read is quantized once.

    Args:
        proto: a float graph, changed in place.
        exact_everywhere: whether the weights of a MatMul that can saturate on x86 without VNNI are
            uint8 with zero point 128 (`quantize.saturation`; a ConvInteger cannot saturate).
    """
    graph = proto.graph
    writer = _Writer(graph, exact_everywhere)
    for node, weight, axis in layers_with_weights(graph):
        if weight is not None and writer.accepts(node):
            writer.write(node, weight, axis)
        else:
            writer.nodes.append(node)
    rewrite(graph, writer.nodes)


class _Writer:
    def __init__(self, graph: GraphProto, exact_everywhere: bool) -> None:
        self.graph, self.exact_everywhere = graph, exact_everywhere
        self.weights = float_weights(graph)
        self.nodes: list[NodeProto] = []
        self.written: set[str] = set()

    def accepts(self, node: NodeProto) -> bool:
        """Tell whether there is an integer operator for the node, and its bias is a constant."""
        attributes = attributes_of(node)
        if node.op_type not in INTEGER_OP or node.input[0] in self.weights:
            return False
        if attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0:
            return False
        bias = node.input[2] if len(node.input) > 2 else ""
        size = np.prod(self.weights[bias].dims) if bias in self.weights else 0
        return not bias or size in (1, max(self.weights[bias].dims, default=1))

    def write(self, node: NodeProto, weight: TensorProto, axis: int) -> None:
        """Write the chain of one node; the integer node keeps its name."""
        from onnx import TensorProto, helper

        source, target, conv = node.input[0], node.output[0], node.op_type == "Conv"
        quantized = [f"{source}@{part}" for part in ("quantized", "scale", "zero")]
        if source not in self.written:
            self.written.add(source)
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [source], quantized))
        integers, scale, zero = self._weight(node, weight, axis)
        attributes = {key: value for key, value in attributes_of(node).items() if conv}
        accumulated, both_scales, cast, product = (f"{target}@{part}" for part in "isfp")
        inputs = [quantized[0], integers, quantized[2], zero]
        bias = node.input[2] if len(node.input) > 2 else ""
        op = INTEGER_OP[node.op_type]
        self.nodes += [
            helper.make_node(op, inputs, [accumulated], name=node.name, **attributes),
            helper.make_node("Mul", [quantized[1], scale], [both_scales]),
            helper.make_node("Cast", [accumulated], [cast], to=TensorProto.FLOAT),
            helper.make_node("Mul", [cast, both_scales], [product if bias else target]),
        ]
        if bias:
            value = self._bias(node, values_of(self.weights[bias]), len(weight.dims))
            self.nodes.append(helper.make_node("Add", [product, value], [target]))

    def _weight(self, node: NodeProto, weight: TensorProto, axis: int) -> tuple[str, str, str]:
        """Add a weight as the integer kernel reads it, and a scale that spreads over its output."""
        value, conv = values_of(weight), node.op_type == "Conv"
        stem = f"{weight.name}@{axis}"
        names = f"{stem}@quantized", f"{stem}@scale", f"{stem}@zero"
        if stem not in self.written:
            self.written.add(stem)
            integers, scale = quantize_weight(value, axis)
            zero = np.zeros((), np.int8)
            if not conv and self._can_saturate(integers, axis):
                integers, zero = as_unsigned(integers, axis)[0], np.full((), 128, np.uint8)
            transposed = node.op_type == "Gemm" and axis == 0
            integers = np.ascontiguousarray(integers.T) if transposed else integers
            add_constant(self.graph, names[0], integers)
            shape = (-1, *[1] * (value.ndim - 2)) if conv else (-1,)
            add_constant(self.graph, names[1], scale.reshape(shape))
            add_constant(self.graph, names[2], zero)
        return names

    def _can_saturate(self, integers: Array, axis: int) -> bool:
        rows = kernel_rows(integers, axis, convolution=False)
        return self.exact_everywhere and can_saturate(rows)

    def _bias(self, node: NodeProto, bias: Array, rank: int) -> str:
        value = bias.ravel() * np.float32(attributes_of(node).get("beta", 1.0))
        shape = (-1, *[1] * (rank - 2)) if node.op_type == "Conv" else (-1,)
        return add_constant(self.graph, f"{node.output[0]}@bias", value.reshape(shape))
