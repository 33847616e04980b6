"""Integer arithmetic with ranges found at run time: int8 weights, u8 activations, float between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from torchopt2edge.backends.ort.weight_only import constant, heavy, rewrite
from torchopt2edge.quantize.qdq_plan import attributes, floats_held, values
from torchopt2edge.quantize.qparams import as_unsigned, weight_codes
from torchopt2edge.quantize.saturation import can_saturate, kernel_rows

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

    from torchopt2edge.quantize.qparams import Array

KINDS = {"Conv": "ConvInteger", "Gemm": "MatMulInteger", "MatMul": "MatMulInteger"}


def dynamic(proto: ModelProto, *, exact_everywhere: bool) -> None:
    """Run heavy nodes on int8 weights and on u8 activations whose range is found in every run.

    y = Cast(Integer(x, w)) · (scale of x · scale per channel of w) + bias; ONNX Runtime fuses the
    MatMul kind of it into one kernel. A tensor that two nodes read is quantized once.

    With ``exact_everywhere`` the weights of a MatMul that can saturate on x86 without VNNI are
    uint8 with zero point 128 (`quantize.saturation`; ConvInteger cannot saturate).
    """
    graph = proto.graph
    writer = _Dynamic(graph, exact_everywhere)
    for node, weight, axis in heavy(graph):
        if weight is not None and writer.takes(node, weight):
            writer.write(node, weight, axis)
        else:
            writer.nodes.append(node)
    rewrite(graph, writer.nodes)


class _Dynamic:
    def __init__(self, graph: GraphProto, exact_everywhere: bool) -> None:
        self.graph, self.exact_everywhere = graph, exact_everywhere
        self.weights = floats_held(graph)
        self.nodes: list[NodeProto] = []
        self.codes: dict[str, tuple[Array, Array]] = {}
        self.seen: set[str] = set()

    def takes(self, node: NodeProto, weight: TensorProto) -> bool:
        """Whether there is an integer kernel for the node, and its bias is a constant."""
        given = attributes(node)
        if node.op_type not in KINDS or node.input[0] in self.weights:
            return False
        if given.get("transA") or given.get("alpha", 1.0) != 1.0:
            return False
        bias = node.input[2] if len(node.input) > 2 else ""
        size = np.prod(self.weights[bias].dims) if bias in self.weights else 0
        return not bias or size in (1, max(self.weights[bias].dims, default=1))

    def write(self, node: NodeProto, weight: TensorProto, axis: int) -> None:
        """Write the chain of one node; the integer node keeps its name."""
        from onnx import TensorProto, helper

        source, target, conv = node.input[0], node.output[0], node.op_type == "Conv"
        names = [f"{source}@{part}" for part in ("codes", "scale", "zero")]
        if source not in self.seen:
            self.seen.add(source)
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [source], names))
        codes, scale, zero = self._weight(node, weight, axis)
        kept = {key: value for key, value in attributes(node).items() if conv}
        kind, made = KINDS[node.op_type], [f"{target}@{part}" for part in "isfp"]
        given = [names[0], codes, names[2], zero]
        bias = node.input[2] if len(node.input) > 2 else ""
        chain = [
            helper.make_node(kind, given, made[:1], name=node.name, **kept),
            helper.make_node("Mul", [names[1], scale], made[1:2]),
            helper.make_node("Cast", made[:1], made[2:3], to=TensorProto.FLOAT),
            helper.make_node("Mul", made[2:0:-1], [made[3] if bias else target]),
        ]
        if bias:
            spread = self._bias(node, values(self.weights[bias]), len(weight.dims))
            chain.append(helper.make_node("Add", [made[3], spread], [target]))
        self.nodes += chain

    def _weight(self, node: NodeProto, weight: TensorProto, axis: int) -> tuple[str, str, str]:
        """Add codes as the integer kernel reads them, a scale that spreads over its output."""
        value, conv = values(weight), node.op_type == "Conv"
        made = f"{weight.name}@{axis}"
        names = f"{made}@codes", f"{made}@scale", f"{made}@zero"
        if made not in self.seen:
            self.seen.add(made)
            codes, scale = weight_codes(value, axis)
            zero = np.zeros((), np.int8)
            if not conv and self._can_saturate(codes, axis):
                codes, zero = as_unsigned(codes, axis)[0], np.full((), 128, np.uint8)
            turned = node.op_type == "Gemm" and axis == 0
            constant(self.graph, names[0], np.ascontiguousarray(codes.T) if turned else codes)
            shape = (-1, *[1] * (value.ndim - 2)) if conv else (-1,)
            constant(self.graph, names[1], scale.reshape(shape))
            constant(self.graph, names[2], zero)
        return names

    def _can_saturate(self, codes: Array, axis: int) -> bool:
        rows = kernel_rows(codes, axis, convolution=False)
        return self.exact_everywhere and can_saturate(rows)

    def _bias(self, node: NodeProto, bias: Array, rank: int) -> str:
        value = bias.ravel() * np.float32(attributes(node).get("beta", 1.0))
        shape = (-1, *[1] * (rank - 2)) if node.op_type == "Conv" else (-1,)
        return constant(self.graph, f"{node.output[0]}@bias", value.reshape(shape))
