"""Write a float ONNX graph with QuantizeLinear/DequantizeLinear pairs, as ONNX Runtime fuses them.

The rules, cited in the code as Q1 to Q8:

Q1. An operator is made integer when ONNX Runtime's CPU provider has a kernel for it (`qdq_plan`);
    every other one, an `islands` one and what the ranges exclude reads and writes floats, with
    no pair between two of them.
Q2. A tensor has one grid. It is quantized where an integer operator writes it; one that a float
    operator writes is quantized for its integer readers only.
Q3. What only moves values (Reshape, MaxPool …) passes its input's grid on. Pad, which ONNX
    Runtime would run in float between its pairs, is written on the codes themselves.
Q4. A Relu or a Clip whose bounds are the ends of its output's grid goes: the rounding cuts there.
    One with other bounds stays, which onnxruntime.quantization takes out all the same.
Q5. Weights get int8 codes per output channel, and back the grid they were trained on (`qparams`);
    an operand that is a constant gets the activations' type over its own range. For a processor
    without VNNI, the weights of a layer that can saturate there (`saturation`) are written with
    zero point 128, as uint8: the same integers, multiplied exactly; or, where they were trained
    with fewer bits, on the coarsest grid that holds them, if that cannot saturate. No weight
    changes its value.
Q6. Biases get int32 codes in steps of input scale · weight scale. Two nodes that share weights
    share the codes; a float node keeps the floats.
Q7. A float layer that reads integers gives its output through a LeakyRelu of slope 1, which ONNX
    Runtime runs inside of the layer. It would otherwise round the weights of every float layer
    between a DequantizeLinear and a QuantizeLinear to one scale per tensor when it opens the
    file (its WeightBiasQuantization): what was excluded to be exact would be the worst of all.
Q8. A MatMul with constant weights and its bias become a Gemm (`gemm.as_gemm`), which has an
    integer bias.

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
from torchopt2edge.quantize.qdq_plan import MOVES, Plan, attributes, floats_held, plan_of, values
from torchopt2edge.quantize.qparams import (
    Grid,
    as_unsigned,
    bias_codes,
    bias_floor,
    coarsest,
    grid_of,
    weight_codes,
)
from torchopt2edge.quantize.saturation import can_saturate, is_depthwise, kernel_rows
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Array = np.ndarray[Any, Any]


LAYERS = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True)
class Types:
    """The integer type of the activations, and on which processors the products are exact.

    With ``exact_everywhere`` the weights of layers that can saturate on x86 without VNNI are
    uint8, if the activations are; there is no integer kernel for int8 activations with uint8
    weights. Without it all weights are int8.
    """

    activation: str = "uint8"
    exact_everywhere: bool = True

    @property
    def unsigned_weights(self) -> bool:
        """Whether weights may be uint8."""
        return self.exact_everywhere and self.activation == "uint8"


def quantize_graph(source: Path, ranges: Ranges, how: Types) -> ModelProto:
    """Return the float graph ``source`` with every pair in its place.

    Tensors of the float graph keep their names; what is added is called ``<tensor>@…``.

    Raises:
        LowerError: a tensor to quantize has no range, or one that is not finite.
    """
    proto = load_modern(source)
    ranges = as_gemm(proto, ranges)  # Q8
    plan = plan_of(proto, ranges, how.activation)
    grids = _grids(plan, ranges, how.activation, source)
    _Writer(plan, grids, how).write()
    return proto


def load_modern(source: Path) -> ModelProto:
    """Load a graph at an opset with a scale per axis (13), its constants as initializers."""
    import onnx

    proto = onnx.load(source)
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < 13:
        proto = onnx.version_converter.convert_version(proto, 13)
    _lift(proto.graph)
    return proto if opset >= 13 else onnx.shape_inference.infer_shapes(proto)


def _lift(graph: GraphProto) -> None:
    """Make initializers of the Constant nodes that hold a tensor."""
    for node in list(graph.node):
        value = node.attribute[0] if node.op_type == "Constant" else None
        if value is not None and value.name == "value":
            value.t.name = node.output[0]
            graph.initializer.append(value.t)
            graph.node.remove(node)


def _grids(plan: Plan, ranges: Ranges, dtype: str, source: Path) -> dict[str, Grid]:
    """Give every tensor to quantize its grid (Q2, Q3)."""
    found: dict[str, Grid] = {}
    for name in plan.tensors():
        giver = plan.givers.get(name)
        if giver in found:
            found[name] = found[giver]
            continue
        low, high = ranges.bounds.get(plan.ranged_by(name), (np.nan, np.nan))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise LowerError(
                f"the tensor {name!r} has no finite range",
                artifact=source,
                hint="calibrate this graph again, or exclude the nodes at that tensor",
            )
        found[name] = grid_of(low, high, dtype)
    return found


class _Writer:
    """Writes the graph's nodes anew, in order, each constant once."""

    def __init__(self, plan: Plan, grids: Mapping[str, Grid], how: Types) -> None:
        self.plan, self.grids, self.how = plan, grids, how
        self.graph = plan.proto.graph
        self.weights = floats_held(self.graph)
        self.outputs = {value.name for value in self.graph.output}
        self.nodes: list[NodeProto] = []
        self.scales: dict[str, Array] = {}  # of weights already written, by their new name

    def write(self) -> None:
        floors = self._floors()
        for value in self.graph.input:
            self._pair(value.name, value.name)
        for at, node in enumerate(self.graph.node):
            if at in self.plan.absorbed:
                continue
            guarded = node.op_type in LAYERS and node.input[0] in self.plan.carried
            if at in self.plan.integer:
                self._read_integers(at, node, floors)
            else:
                self._read_floats(node)
            self.nodes.append(node)
            if at in self.plan.integer and node.op_type == "Pad" and self._pads_codes(node):
                continue
            for place, name in enumerate(node.output):
                name = self.plan.renamed.get(name, name)
                node.output[place] = self._under(name)
                if guarded and at not in self.plan.integer:
                    node.output[place] = self._guard(node.output[place])
                self._pair(name, self._under(name))
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        drop_unused(self.graph)

    def _under(self, name: str) -> str:
        """Return the name under which a node writes: an output of the graph is read back."""
        return f"{name}@float" if name in self.outputs & self.plan.carried else name

    def _back(self, name: str) -> str:
        """Return the name of a tensor's values behind its pair."""
        return name if name in self.outputs & self.plan.carried else f"{name}@back"

    def _pair(self, name: str, under: str) -> None:
        """Q2: add the pair of a tensor that has a grid."""
        if name in self.grids:
            means = self._means(name)
            self._add("QuantizeLinear", [under, *means], f"{name}@codes")
            self._read_back(name, means)

    def _means(self, name: str) -> list[str]:
        grid = self.grids[name]
        return [
            self._constant(f"{name}@scale", np.array(grid.scale, np.float32)),
            self._constant(f"{name}@zero", np.array(grid.zero_point, grid.dtype)),
        ]

    def _read_back(self, name: str, means: list[str]) -> None:
        self._add("DequantizeLinear", [f"{name}@codes", *means], self._back(name))

    def _read_integers(self, at: int, node: NodeProto, floors: Mapping[str, Array]) -> None:
        """Q5, Q6: have an integer node read what was quantized."""
        axis, source = self.plan.axes.get(at), node.input[0]
        for place, name in enumerate(node.input):
            if name in self.grids:
                node.input[place] = self._back(name)
            elif name not in self.weights or node.op_type in MOVES:
                continue
            elif axis is None:
                node.input[place] = self._operand(name)
            elif place == 1:
                node.input[place] = self._weight(node, axis, floors)
            else:
                node.input[place] = self._bias(node, self.grids[source].scale, axis)

    def _read_floats(self, node: NodeProto) -> None:
        """Q2: have a float node read what integer nodes made."""
        for place, name in enumerate(node.input):
            if name in self.plan.carried:
                codes = node.op_type == "Shape" and name in self.grids
                node.input[place] = f"{name}@codes" if codes else self._back(name)

    def _guard(self, name: str) -> str:
        """Q7: add what hides a float layer; return what the layer writes instead."""
        from onnx import helper

        inside = f"{name}@plain"
        self.nodes.append(helper.make_node("LeakyRelu", [inside], [name], alpha=1.0))
        return inside

    def _pads_codes(self, node: NodeProto) -> bool:
        """Q3: have a Pad work on the codes themselves; False when it changes the grid."""
        target, source = node.output[0], self.plan.givers.get(node.output[0], "")
        if source not in self.grids:
            return False
        node.input[0], node.output[0] = f"{source}@codes", f"{target}@codes"
        if attributes(node).get("mode", b"constant") == b"constant":
            rest = list(node.input[3:])
            del node.input[2:]
            node.input.extend([f"{source}@zero", *rest])
        self._read_back(target, self._means(target))
        return True

    def _operand(self, name: str) -> str:
        """Q5: a constant that a light node reads."""
        made = f"{name}@operand"
        if made not in self.scales:
            value = values(self.weights[name])
            low, high = value.min(initial=0.0), value.max(initial=0.0)
            grid = grid_of(low, high, self.how.activation)
            scale = np.array(grid.scale, np.float32)
            self._constants(made, grid.codes(value), scale, np.array(grid.zero_point, grid.dtype))
        return made

    def _weight(self, node: NodeProto, axis: int, floors: Mapping[str, Array]) -> str:
        """Q5: the weights of a heavy node."""
        name = node.input[1]
        signed = f"{name}@{axis}"
        floor = floors.get(signed)
        if signed in self.scales and not self.how.unsigned_weights:
            return signed
        codes, scale = weight_codes(values(self.weights[name]), axis, floor=floor)
        made, zero = signed, np.zeros(len(scale), np.int8)
        if self.how.unsigned_weights and _can_saturate(node, codes, axis):
            coarse, factors = coarsest(codes, axis)
            if _can_saturate(node, coarse, axis):
                made, (codes, zero) = f"{signed}@unsigned", as_unsigned(codes, axis)
            else:
                made, codes, scale = f"{signed}@coarse", coarse, scale * factors
        if made not in self.scales:
            self._constants(made, codes, scale, zero, axis=axis)
        return made

    def _bias(self, node: NodeProto, step: float, axis: int) -> str:
        """Q6; the weights of the node are written already."""
        made, scales = f"{node.output[0]}@bias", self.scales[node.input[1]]
        codes, scale = bias_codes(self._bias_of(node, len(scales)), step, scales)
        self._constants(made, codes, scale, np.zeros(len(scale), np.int32), axis=0)
        for item in node.attribute:
            if item.name == "beta":
                item.f = 1.0
        return made

    def _bias_of(self, node: NodeProto, channels: int) -> Array:
        """Return a bias as a vector over the channels, with Gemm's ``beta`` in it."""
        bias = values(self.weights[node.input[2]]).ravel() * attributes(node).get("beta", 1.0)
        return np.broadcast_to(bias.astype(np.float32), channels)

    def _floors(self) -> dict[str, Array]:
        """Return the least scale of every weight that has a bias beside it, by its new name."""
        found: dict[str, Array] = {}
        for at, axis in self.plan.axes.items():
            node = self.graph.node[at]
            if len(node.input) > 2 and node.input[2]:
                channels = self.weights[node.input[1]].dims[axis]
                step = self.grids[node.input[0]].scale
                floor = bias_floor(self._bias_of(node, channels), step)
                made = f"{node.input[1]}@{axis}"
                found[made] = np.maximum(found.get(made, 0.0), floor)
        return found

    def _constants(
        self, made: str, codes: Array, scale: Array, zero: Array, axis: int | None = None
    ) -> None:
        """Add a constant as codes and the node that reads them back as ``made``."""
        parts = {"codes": codes, "scale": scale, "zero": zero}
        names = [self._constant(f"{made}@{part}", value) for part, value in parts.items()]
        self._add("DequantizeLinear", names, made, axis)
        self.scales[made] = scale

    def _constant(self, name: str, value: Array) -> str:
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _add(self, op: str, given: list[str], made: str, axis: int | None = None) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(op, given, [made], axis=axis))


def _can_saturate(node: NodeProto, codes: Array, axis: int) -> bool:
    """Tell whether a layer with these int8 weights can saturate on x86 without VNNI."""
    conv = node.op_type == "Conv"
    if conv and is_depthwise(codes, attributes(node).get("group", 1)):
        return False
    return can_saturate(kernel_rows(codes, axis, convolution=conv))
