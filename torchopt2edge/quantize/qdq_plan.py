"""Decide which operators of a float ONNX graph ONNX Runtime can run on integers, and which do.

What has an integer kernel in the CPU provider was found by wrapping each operator in pairs and
reading the optimized graph (onnxruntime 1.31, u8 and s8 activations). Relu and Clip have none of
their own. What stays in float in every runtime is not this file's to say (`islands`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.quantize.float_ops import islands
from torchopt2edge.quantize.graph.activations import activations
from torchopt2edge.quantize.graph.op_types import name_of
from torchopt2edge.quantize.graph.prepare import nodes
from torchopt2edge.quantize.qparams import grid_of
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

HEAVY = frozenset(("Conv", "Gemm", "MatMul"))
LIGHT = frozenset("Add Mul MatMul Concat GlobalAveragePool AveragePool LeakyRelu Sigmoid".split())
MOVES = frozenset(
    "MaxPool Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Pad Resize DepthToSpace "
    "Gather Expand Tile Identity".split()
)
CUTS = frozenset(("Relu", "Clip"))


@dataclass
class Plan:
    """The decisions, by a node's place in the graph and by tensor.

    ``integer`` holds the integer nodes, ``axes`` the axis of output channels of those with
    constant weights; ``absorbed`` the Relu and Clip that go, ``renamed`` what is read through
    them → what they write; ``carried`` the tensors that integer nodes write; ``givers`` a tensor
    → the one whose grid it shares.
    """

    proto: ModelProto
    floats: frozenset[str]
    integer: set[int] = field(default_factory=set)
    axes: dict[int, int] = field(default_factory=dict)
    absorbed: set[int] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)
    carried: set[str] = field(default_factory=set)
    givers: dict[str, str] = field(default_factory=dict)
    kept_cuts: dict[str, str] = field(default_factory=dict)

    def tensors(self) -> Iterator[str]:
        """Yield what to quantize, every giver before those it gives to."""
        graph, seen = self.proto.graph, set(self.renamed)
        for at, node in enumerate(graph.node):
            if at not in self.integer:
                continue
            made = [self.renamed.get(name, name) for name in node.output]
            for name in (*node.input, *made):
                if name in self.floats and name not in seen:
                    seen.add(name)
                    yield name

    def ranged_by(self, name: str) -> str:
        """Name the tensor whose range holds for this one: behind a cut that is kept, the cut's."""
        return self.kept_cuts.get(name, name)


def plan_of(proto: ModelProto, ranges: Ranges, dtype: str) -> Plan:
    """Apply Q1, Q3 and Q4 of `qdq_writer` to a graph whose nodes are in order."""
    return _Planner(proto, ranges, dtype).plan()


class _Planner:
    def __init__(self, proto: ModelProto, ranges: Ranges, dtype: str) -> None:
        graph = proto.graph
        self.graph, self.ranges, self.dtype = graph, ranges, dtype
        self.floats = frozenset(activations(proto))
        self.made = Plan(proto, self.floats)
        self.weights = floats_held(graph)
        self.islands = frozenset(islands(proto))
        self.kept = {value.name for value in graph.output} | _captured(graph)
        self.inputs = {value.name for value in graph.input}
        self.readers: Mapping[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)

    def plan(self) -> Plan:
        makers: dict[str, int] = {}
        for at, node in enumerate(self.graph.node):
            if self._allowed(node) and node.op_type in CUTS:
                self._cut(at, node, makers)
            elif self._allowed(node):
                self._place(at, node)
            makers.update(dict.fromkeys(node.output, at))
        return self.made

    def _allowed(self, node: NodeProto) -> bool:
        """Q1: whether a node may be integer at all."""
        alone = node.op_type == "Split" or not any(node.output[1:])
        known = node.domain in ("", "ai.onnx") and node.output[0] in self.floats
        kept = node.name in self.ranges.excluded or name_of(node) in self.islands
        return known and alone and not kept

    def _place(self, at: int, node: NodeProto) -> None:
        plan, op = self.made, node.op_type
        axis = self._axis(node) if op in HEAVY else None
        moves = op in MOVES and self._moves(node)
        if axis is None and not moves and not (op in LIGHT and self._operands(node)):
            return
        plan.integer.add(at)
        plan.carried.update(node.output)
        if axis is not None:
            plan.axes[at] = axis
        if moves:
            plan.givers.update(dict.fromkeys(node.output, node.input[0]))

    def _axis(self, node: NodeProto) -> int | None:
        """Return the axis of output channels; None where weights or bias are not constants."""
        weight = self.weights.get(node.input[1])
        if weight is None or node.input[0] not in self.floats:
            return None
        rank, given = len(weight.dims), attributes(node)
        if node.op_type == "MatMul":
            return 1 if rank == 2 else None
        axis = 0 if node.op_type == "Conv" or given.get("transB") else 1
        if given.get("alpha", 1.0) != 1.0:
            return None
        if len(node.input) > 2 and node.input[2]:
            bias = self.weights.get(node.input[2])
            size = 0 if bias is None else int(np.prod(bias.dims))
            if bias is None or size not in (1, weight.dims[axis]):
                return None
        return axis

    def _operands(self, node: NodeProto) -> bool:
        """Whether a light node reads float activations and constants, not constants alone."""
        known = all(name in self.floats or name in self.weights for name in node.input)
        return known and any(name in self.floats for name in node.input)

    def _moves(self, node: NodeProto) -> bool:
        """Q3: whether a node carries integers, or brings an input of the graph to some."""
        source, given = node.input[0], attributes(node)
        if node.op_type == "Pad" and not self._pads_inside(node, given.get("mode", b"constant")):
            return False
        if node.op_type == "Resize" and given.get("mode", b"nearest") != b"nearest":
            return False
        if source in self.made.carried:
            return True
        reads = {one.op_type for name in node.output for one in self.readers[name]}
        return source in self.inputs & self.floats and bool(reads & (HEAVY | LIGHT))

    def _pads_inside(self, node: NodeProto, mode: bytes) -> bool:
        """Whether what is padded with has a code on the input's grid: zeros, or own values."""
        if mode != b"constant":
            return True
        name = node.input[2] if len(node.input) > 2 else ""
        return not name or (name in self.weights and not values(self.weights[name]).any())

    def _cut(self, at: int, node: NodeProto, makers: Mapping[str, int]) -> None:
        """Q4."""
        source, target, plan = node.input[0], node.output[0], self.made
        alone = len(self.readers[source]) == 1 and source not in self.kept
        if makers.get(source) not in plan.integer or not alone or target not in self.ranges.bounds:
            return
        bounds = self._bounds(node)
        if bounds is None:
            return
        grid = grid_of(*self.ranges.bounds[target], self.dtype)
        low, high = bounds
        slack = 0.51 * grid.scale  # a zero point is rounded to half a step
        if grid.low < low - slack or grid.high > high + slack:
            plan.kept_cuts[source] = target
            return
        plan.absorbed.add(at)
        plan.renamed[source] = target
        plan.carried.discard(source)
        plan.carried.add(target)
        plan.givers.pop(source, None)

    def _bounds(self, node: NodeProto) -> tuple[float, float] | None:
        """Return where a Relu or Clip cuts; None when that is not known before it runs."""
        if node.op_type == "Relu":
            return 0.0, np.inf
        given = attributes(node)
        ends = [float(given.get("min", -np.inf)), float(given.get("max", np.inf))]
        for place, name in enumerate(node.input[1:3]):
            if name and name not in self.weights:
                return None
            if name:
                ends[place] = float(values(self.weights[name]).item())
        return ends[0], ends[1]


def _captured(graph: GraphProto) -> set[str]:
    """Name what the bodies of If and Loop nodes read, from outside too."""
    bodies = [item.g for node in graph.node for item in node.attribute if item.HasField("g")]
    return {name for body in bodies for node in nodes(body) for name in node.input}


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes as plain values."""
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def floats_held(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the graph's float32 initializers."""
    from onnx import TensorProto

    return {w.name: w for w in graph.initializer if w.data_type == TensorProto.FLOAT}


def values(weight: TensorProto) -> np.ndarray[Any, Any]:
    """Return an initializer's values."""
    from onnx import numpy_helper

    return numpy_helper.to_array(weight)
