"""Write a float ONNX graph with the QuantizeLinear/DequantizeLinear pairs that ONNX Runtime fuses.

The rules, cited in the code as Q1 to Q8:

Q1. An operator is made integer when ONNX Runtime's CPU provider has a kernel for it (`qdq_plan`).
    Every other one, each of the `float_ops`, and what the ranges exclude reads and writes floats,
    with no pair between two of them.
Q2. A tensor has one scale and zero point. It is quantized where an integer operator writes it; one
    that a float operator writes is quantized for its integer readers only.
Q3. What only moves values (Reshape, MaxPool …) passes its input's scale and zero point on. Pad,
    which ONNX Runtime would run in float between its pairs, is written on the integers themselves.
Q4. A Relu or a Clip that clips where its output's integers end is removed: the rounding clips
    there. One with other limits stays, which onnxruntime.quantization removes all the same.
Q5. Weights are int8 per output channel, on the scale they were trained on (`quantize_weight`). A
    constant operand has the activations' type over its own range. For a processor without VNNI,
    the weights of a layer that can saturate there (`saturation`) are written as uint8 with zero
    point 128: the same values, multiplied exactly; or, where they were trained with fewer bits, on
    the largest scale that represents them, if that cannot saturate. No weight changes its value.
Q6. Biases are int32 in steps of input scale · weight scale. Two nodes that share weights share the
    integers; a float node keeps the floats.
Q7. A float layer that reads integers gets a LeakyRelu of slope 1 behind it, which ONNX Runtime
    fuses into the layer. It would otherwise round the weights of every float layer between a
    DequantizeLinear and a QuantizeLinear to one scale per tensor when it opens the file (its
    WeightBiasQuantization): what was excluded to be exact would be the worst of all.
Q8. A MatMul with constant weights and its bias become a Gemm (`as_gemm`), which has an integer
    bias.

The pairs are those of onnxruntime.quantization's QDQQuantizer, which takes quadratic time, rounds
the weights of excluded nodes that share them, and cannot place a bias that is not a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.errors import LowerError
from torchopt2edge.quantize.graph.canonicalize import drop_unused
from torchopt2edge.quantize.graph.gemm import as_gemm
from torchopt2edge.quantize.graph.index import (
    attributes_of,
    float_weights,
    replace_nodes,
    values_of,
)
from torchopt2edge.quantize.graph.op_types import Trait, having
from torchopt2edge.quantize.qdq_plan import MOVING, QdqPlan, plan_qdq
from torchopt2edge.quantize.qparams import (
    QuantParams,
    as_unsigned,
    coarsest,
    min_weight_scale,
    quant_params,
    quantize_bias,
    quantize_weight,
)
from torchopt2edge.quantize.saturation import can_saturate, is_depthwise, kernel_rows
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Array = np.ndarray[Any, Any]

# Q7: the layers whose float weights ONNX Runtime's WeightBiasQuantization rounds.
LAYERS = having(Trait.BIASED)


@dataclass(frozen=True)
class IntegerTypes:
    """The integer types of a file, and on which processors its products are exact.

    Attributes:
        activation: ``uint8`` or ``int8``.
        exact_everywhere: whether the weights of layers that can saturate on x86 without VNNI are
            uint8, if the activations are; there is no integer kernel for int8 activations with
            uint8 weights. Without it all weights are int8.
    """

    activation: str = "uint8"
    exact_everywhere: bool = True

    @property
    def unsigned_weights(self) -> bool:
        """Whether weights may be uint8."""
        return self.exact_everywhere and self.activation == "uint8"


def quantize_graph(
    source: ModelProto, ranges: Ranges, types: IntegerTypes, artifact: Path | None = None
) -> ModelProto:
    """Return a copy of a float graph with every pair in its place.

    Tensors of the float graph keep their names; new ones are called ``<tensor>@…``.

    Args:
        source: a float graph with inferred shapes.
        ranges: its ranges and excluded nodes.
        types: the integer types.
        artifact: the file that the graph is from, for error messages.

    Raises:
        LowerError: a tensor to quantize has no range, or one that is not finite.
    """
    proto = modernized(source)
    ranges = as_gemm(proto, ranges)  # Q8
    plan = plan_qdq(proto, ranges, types.activation)
    _Writer(plan, _params(plan, ranges, types.activation, artifact), types).write()
    return proto


def modernized(source: ModelProto) -> ModelProto:
    """Return a copy of a graph at opset 13 or above, its constants as initializers.

    Opset 13 is the first with a scale per channel.
    """
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(source)
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < 13:
        proto = onnx.version_converter.convert_version(proto, 13)
    _lift_constants(proto.graph)
    return proto if opset >= 13 else onnx.shape_inference.infer_shapes(proto)


def _lift_constants(graph: GraphProto) -> None:
    """Turn the Constant nodes that hold a tensor into initializers."""
    for node in list(graph.node):
        value = node.attribute[0] if node.op_type == "Constant" else None
        if value is not None and value.name == "value":
            value.t.name = node.output[0]
            graph.initializer.append(value.t)
            graph.node.remove(node)


def _params(
    plan: QdqPlan, ranges: Ranges, dtype: str, artifact: Path | None
) -> dict[str, QuantParams]:
    """Return the parameters of every tensor to quantize (Q2, Q3)."""
    params: dict[str, QuantParams] = {}
    for name in plan.tensors():
        source = plan.params_from.get(name)
        if source in params:
            params[name] = params[source]
            continue
        low, high = ranges.bounds.get(plan.range_name(name), (np.nan, np.nan))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise LowerError(
                f"the tensor {name!r} has no finite range",
                artifact=artifact,
                hint="calibrate this graph again, or exclude the nodes at that tensor",
            )
        params[name] = quant_params(low, high, dtype)
    return params


class _Writer:
    """Writes the graph's nodes again, in order, and each constant once."""

    def __init__(
        self, plan: QdqPlan, params: Mapping[str, QuantParams], types: IntegerTypes
    ) -> None:
        self.plan, self.params, self.types = plan, params, types
        self.graph = plan.proto.graph
        self.weights = float_weights(self.graph)
        self.outputs = {value.name for value in self.graph.output}
        self.nodes: list[NodeProto] = []
        self.scales: dict[str, Array] = {}  # of weights that are written already, by new name

    def write(self) -> None:
        min_scales = self._min_scales()
        for value in self.graph.input:
            self._add_pair(value.name, value.name)
        for at, node in enumerate(self.graph.node):
            if at in self.plan.removed:
                continue
            guarded = node.op_type in LAYERS and node.input[0] in self.plan.carried
            if at in self.plan.integer:
                self._read_integers(at, node, min_scales)
            else:
                self._read_floats(node)
            self.nodes.append(node)
            if at in self.plan.integer and node.op_type == "Pad" and self._pad_integers(node):
                continue
            for place, name in enumerate(node.output):
                name = self.plan.renamed.get(name, name)
                node.output[place] = self._written_as(name)
                if guarded and at not in self.plan.integer:
                    node.output[place] = self._guard(node.output[place])
                self._add_pair(name, self._written_as(name))
        replace_nodes(self.graph, self.nodes)
        drop_unused(self.graph)

    def _written_as(self, name: str) -> str:
        """Return the name under which a node writes: a quantized output has its own behind it."""
        return f"{name}@float" if name in self.outputs & self.plan.carried else name

    def _dequantized(self, name: str) -> str:
        """Return the name of a tensor behind its pair."""
        return name if name in self.outputs & self.plan.carried else f"{name}@dequantized"

    def _add_pair(self, name: str, written_as: str) -> None:
        """Q2: add the pair of a tensor that has parameters."""
        if name in self.params:
            params = self._add_params(name)
            self._add("QuantizeLinear", [written_as, *params], f"{name}@quantized")
            self._dequantize(name, params)

    def _add_params(self, name: str) -> list[str]:
        params = self.params[name]
        return [
            self._constant(f"{name}@scale", np.array(params.scale, np.float32)),
            self._constant(f"{name}@zero", np.array(params.zero_point, params.dtype)),
        ]

    def _dequantize(self, name: str, params: list[str]) -> None:
        self._add("DequantizeLinear", [f"{name}@quantized", *params], self._dequantized(name))

    def _read_integers(self, at: int, node: NodeProto, min_scales: Mapping[str, Array]) -> None:
        """Q5, Q6: have an integer node read quantized tensors."""
        axis, source = self.plan.axes.get(at), node.input[0]
        for place, name in enumerate(node.input):
            if name in self.params:
                node.input[place] = self._dequantized(name)
            elif name not in self.weights or node.op_type in MOVING:
                continue  # the other inputs of what moves values are settings, not operands
            elif axis is None:
                node.input[place] = self._operand(name)
            elif place == 1:
                node.input[place] = self._weight(node, axis, min_scales)
            else:
                node.input[place] = self._bias(node, self.params[source].scale, axis)

    def _read_floats(self, node: NodeProto) -> None:
        """Q2: have a float node read what integer nodes write."""
        for place, name in enumerate(node.input):
            if name in self.plan.carried:
                integers = node.op_type == "Shape" and name in self.params
                node.input[place] = f"{name}@quantized" if integers else self._dequantized(name)

    def _guard(self, name: str) -> str:
        """Q7: add the LeakyRelu behind a float layer; return what the layer writes instead."""
        from onnx import helper

        inside = f"{name}@unguarded"
        self.nodes.append(helper.make_node("LeakyRelu", [inside], [name], alpha=1.0))
        return inside

    def _pad_integers(self, node: NodeProto) -> bool:
        """Q3: have a Pad work on the integers; False when it changes their parameters."""
        target, source = node.output[0], self.plan.params_from.get(node.output[0], "")
        if source not in self.params:
            return False
        node.input[0], node.output[0] = f"{source}@quantized", f"{target}@quantized"
        if attributes_of(node).get("mode", b"constant") == b"constant":
            axes = list(node.input[3:])
            del node.input[2:]
            node.input.extend([f"{source}@zero", *axes])
        self._dequantize(target, self._add_params(target))
        return True

    def _operand(self, name: str) -> str:
        """Q5: write a constant that a node without weights reads."""
        written = f"{name}@operand"
        if written not in self.scales:
            value = values_of(self.weights[name])
            low, high = value.min(initial=0.0), value.max(initial=0.0)
            params = quant_params(low, high, self.types.activation)
            scale = np.array(params.scale, np.float32)
            zero = np.array(params.zero_point, params.dtype)
            self._quantized_constant(written, params.quantize(value), scale, zero)
        return written

    def _weight(self, node: NodeProto, axis: int, min_scales: Mapping[str, Array]) -> str:
        """Q5: write the weights of a layer."""
        name = node.input[1]
        signed = f"{name}@{axis}"
        if signed in self.scales and not self.types.unsigned_weights:
            return signed
        value = values_of(self.weights[name])
        integers, scale = quantize_weight(value, axis, min_scale=min_scales.get(signed))
        written, zero = signed, np.zeros(len(scale), np.int8)
        if self.types.unsigned_weights and _can_saturate(node, integers, axis):
            coarse, factors = coarsest(integers, axis)
            if _can_saturate(node, coarse, axis):
                written, (integers, zero) = f"{signed}@unsigned", as_unsigned(integers, axis)
            else:
                written, integers, scale = f"{signed}@coarse", coarse, scale * factors
        if written not in self.scales:
            self._quantized_constant(written, integers, scale, zero, axis=axis)
        return written

    def _bias(self, node: NodeProto, input_scale: float, axis: int) -> str:
        """Q6: write the bias of a layer, whose weights are written already."""
        written, scales = f"{node.output[0]}@bias", self.scales[node.input[1]]
        integers, scale = quantize_bias(self._bias_of(node, len(scales)), input_scale, scales)
        self._quantized_constant(written, integers, scale, np.zeros(len(scale), np.int32), axis=0)
        for item in node.attribute:
            if item.name == "beta":
                item.f = 1.0
        return written

    def _bias_of(self, node: NodeProto, channels: int) -> Array:
        """Return a bias as a vector over the channels, multiplied by Gemm's ``beta``."""
        bias = values_of(self.weights[node.input[2]]).ravel()
        bias = bias * attributes_of(node).get("beta", 1.0)
        return np.broadcast_to(bias.astype(np.float32), channels)

    def _min_scales(self) -> dict[str, Array]:
        """Return the least scale of every weight that has a bias beside it, by its new name."""
        least: dict[str, Array] = {}
        for at, axis in self.plan.axes.items():
            node = self.graph.node[at]
            if len(node.input) > 2 and node.input[2]:
                channels = self.weights[node.input[1]].dims[axis]
                bias = self._bias_of(node, channels)
                scale = min_weight_scale(bias, self.params[node.input[0]].scale)
                written = f"{node.input[1]}@{axis}"
                least[written] = np.maximum(least.get(written, 0.0), scale)
        return least

    def _quantized_constant(
        self, name: str, integers: Array, scale: Array, zero: Array, axis: int | None = None
    ) -> None:
        """Add a constant as integers, and the node that dequantizes them as ``name``."""
        parts = {"quantized": integers, "scale": scale, "zero": zero}
        names = [self._constant(f"{name}@{part}", value) for part, value in parts.items()]
        self._add("DequantizeLinear", names, name, axis)
        self.scales[name] = scale

    def _constant(self, name: str, value: Array) -> str:
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _add(self, op: str, inputs: list[str], output: str, axis: int | None = None) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], axis=axis))


def _can_saturate(node: NodeProto, integers: Array, axis: int) -> bool:
    """Tell whether a layer with these int8 weights can saturate on x86 without VNNI."""
    conv = node.op_type == "Conv"
    if conv and is_depthwise(integers, attributes_of(node).get("group", 1)):
        return False
    return can_saturate(kernel_rows(integers, axis, convolution=conv))
