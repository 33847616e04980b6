"""Integer inputs and outputs: their quantization is in the signature, and in the file itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.backends.ort.weight_only import add_constant
from torchopt2edge.quantize.graph.canonicalize import drop_unused
from torchopt2edge.quantize.graph.index import values_of
from torchopt2edge.quantize.graph.op_types import QDQ
from torchopt2edge.quantize.qdq_writer import LAYERS
from torchopt2edge.quantize.qparams import QuantParams, quant_params
from torchopt2edge.types import Signature, TensorSpec

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

Bounds = Mapping[str, tuple[float, float]]


def to_integer_io(proto: ModelProto, signature: Signature, bounds: Bounds, dtype: str) -> Signature:
    """Make a quantized graph's float inputs and outputs integer.

    An input's QuantizeLinear is removed, and every reader reads the dequantized integers. An output
    is what its QuantizeLinear writes. An input or output at which nothing is integer is quantized
    over its range.

    Args:
        proto: a graph that `quantize_graph` wrote, changed in place.
        signature: its signature.
        bounds: the (min, max) of its tensors.
        dtype: the integer type, ``uint8`` or ``int8``.

    Returns:
        The signature with the quantization of each input and output.
    """
    writer = _Writer(proto.graph, bounds, dtype)
    inputs = tuple(_with_params(spec, writer.input(spec.file_name)) for spec in signature.inputs)
    outputs = tuple(_with_params(spec, writer.output(spec.file_name)) for spec in signature.outputs)
    drop_unused(proto.graph)
    return Signature(inputs, outputs)


class _Writer:
    def __init__(self, graph: GraphProto, bounds: Bounds, dtype: str) -> None:
        self.graph, self.bounds, self.dtype = graph, bounds, dtype
        self.weights = {weight.name: weight for weight in graph.initializer}

    def input(self, name: str) -> QuantParams | None:
        """Make one input integer; None when it is not a float input with a range."""
        value = next(value for value in self.graph.input if value.name == name)
        if not self._declare_integer(value):
            return None
        dequantized, pair = f"{name}@dequantized", self._pair_of(name)
        if pair is None:
            params, names = self._add_params(name)
        else:
            quantize, dequantize = pair
            params, names = params_of(quantize, self.weights), list(quantize.input[1:])
            dequantized = dequantize.output[0]
            self.graph.node.remove(quantize)
            self.graph.node.remove(dequantize)
        self._redirect(name, dequantized)
        self._insert(0, "DequantizeLinear", [name, *names], dequantized)
        self._guard_layers(dequantized)
        return params

    def output(self, name: str) -> QuantParams | None:
        """Make one output integer; None when it is not a float output with a range."""
        value = next(value for value in self.graph.output if value.name == name)
        if not self._declare_integer(value):
            return None
        producers = {output: node for node in self.graph.node for output in node.output}
        producer = producers[name]
        if producer.op_type == "DequantizeLinear" and producer.input[0] in producers:
            quantize = producers[producer.input[0]]
            quantize.output[0] = producer.input[0] = name
            producer.output[0] = f"{name}@dequantized"
            self._redirect(name, producer.output[0], but=producer)
            if not any(producer.output[0] in node.input for node in self.graph.node):
                self.graph.node.remove(producer)
            return params_of(producer, self.weights)
        params, names = self._add_params(name)
        place = list(producer.output).index(name)
        producer.output[place] = f"{name}@float"
        self._redirect(name, producer.output[place])
        inputs = [producer.output[place], *names]
        self._insert(len(self.graph.node), "QuantizeLinear", inputs, name)
        return params

    def _guard_layers(self, dequantized: str) -> None:
        """Keep float layers that read integers now from being rounded: Q7 of `qdq_writer`."""
        from onnx import helper

        for at, node in reversed(list(enumerate(self.graph.node))):
            reads = node.op_type in LAYERS and node.input[0] == dequantized
            if reads and node.input[1] in self.weights:
                target = node.output[0]
                node.output[0] = f"{target}@unguarded"
                guard = helper.make_node("LeakyRelu", [node.output[0]], [target], alpha=1.0)
                self.graph.node.insert(at + 1, guard)

    def _declare_integer(self, value: Any) -> bool:
        """Declare an input or output as integer; False when it is not float or has no range."""
        from onnx import TensorProto, helper

        tensor = value.type.tensor_type
        if tensor.elem_type != TensorProto.FLOAT or value.name not in self.bounds:
            return False
        tensor.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        return True

    def _pair_of(self, name: str) -> tuple[NodeProto, NodeProto] | None:
        quantizing = [node for node in self.graph.node if node.op_type == "QuantizeLinear"]
        quantize = next((node for node in quantizing if node.input[0] == name), None)
        if quantize is None:
            return None
        integers = quantize.output[0]
        return quantize, next(node for node in self.graph.node if integers in node.input)

    def _redirect(self, name: str, to: str, but: NodeProto | None = None) -> None:
        for node in self.graph.node:
            if node is not but and node != but and node.op_type != "Shape":
                for place, read in enumerate(node.input):
                    if read == name:
                        node.input[place] = to

    def _insert(self, place: int, op: str, inputs: list[str], output: str) -> None:
        from onnx import helper

        self.graph.node.insert(place, helper.make_node(op, inputs, [output]))

    def _add_params(self, name: str) -> tuple[QuantParams, list[str]]:
        params = quant_params(*self.bounds[name], self.dtype)
        scale, zero = np.array(params.scale, np.float32), np.array(params.zero_point, params.dtype)
        names = f"{name}@io_scale", f"{name}@io_zero"
        return params, [
            add_constant(self.graph, names[0], scale),
            add_constant(self.graph, names[1], zero),
        ]


def params_of(node: NodeProto, weights: Mapping[str, TensorProto]) -> QuantParams:
    """Read the parameters of a QuantizeLinear or DequantizeLinear of a whole tensor."""
    scale, zero = (values_of(weights[name]) for name in node.input[1:3])
    return QuantParams(float(scale), int(zero), str(zero.dtype))


def _with_params(spec: TensorSpec, params: QuantParams | None) -> TensorSpec:
    if params is None:
        return spec
    return replace(spec, file_dtype=params.dtype, scale=params.scale, zero_point=params.zero_point)


def read_integer_io(proto: ModelProto, signature: Signature) -> Signature:
    """Return a signature with the quantization of what the graph itself (de)quantizes.

    Args:
        proto: any graph.
        signature: what `signature_of` read from it.
    """
    weights = {weight.name: weight for weight in proto.graph.initializer}
    params: dict[str, QuantParams] = {}
    for node in proto.graph.node:
        if node.op_type in QDQ and len(node.input) == 3:
            tensors = [weights.get(name) for name in node.input[1:]]
            if all(tensor is not None and not tensor.dims for tensor in tensors):
                dequantizes = node.op_type == "DequantizeLinear"
                integers = node.input[0] if dequantizes else node.output[0]
                params[integers] = params_of(node, weights)
    return Signature(
        tuple(_as_float(_with_params(s, params.get(s.name))) for s in signature.inputs),
        tuple(_as_float(_with_params(s, params.get(s.name))) for s in signature.outputs),
    )


def _as_float(spec: TensorSpec) -> TensorSpec:
    return spec if spec.scale is None else replace(spec, dtype="float32")
