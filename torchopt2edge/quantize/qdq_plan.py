"""Decide which nodes of a float ONNX graph run on integers in ONNX Runtime, and how.

An operator has an integer kernel in the CPU provider when its type has `Trait.ORT`. Relu and Clip
have none of their own. What stays in float in every runtime is decided by `float_ops`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from torchopt2edge.quantize.float_ops import float_ops
from torchopt2edge.quantize.graph.activations import activations
from torchopt2edge.quantize.graph.index import GraphIndex, attributes_of, values_of, walk_nodes
from torchopt2edge.quantize.graph.op_types import (
    FUSED,
    LAYERS,
    MOVES,
    Trait,
    having,
    moves_values,
    name_of,
)
from torchopt2edge.quantize.qparams import quant_params
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

ORT = having(Trait.ORT)
WEIGHTED = LAYERS & ORT  # with constant weights: integer weights per channel and an integer bias
# What needs no constant weights; a MatMul may multiply two activations.
UNWEIGHTED = (ORT - MOVES - {"Resize"}) - (WEIGHTED - {"MatMul"})
# Q3: a SpaceToDepth would run in float between its pairs; a Resize moves in mode nearest.
MOVING = (MOVES & ORT) | {"Resize"}


@dataclass
class QdqPlan:
    """The decisions, by a node's place in the graph and by tensor.

    Attributes:
        proto: the graph.
        floats: its activations.
        integer: the places of the integer nodes.
        axes: the axis of output channels, for integer nodes with constant weights.
        removed: the places of the Relu and Clip nodes that go (Q4).
        renamed: by the tensor that a removed node reads, the one that it writes.
        carried: the tensors that integer nodes write.
        params_from: by a moved tensor, the one whose quantization parameters it has (Q3).
        clipped_by: by the tensor that a Relu or Clip reads which stays, the one that it writes.
    """

    proto: ModelProto
    floats: frozenset[str]
    integer: set[int] = field(default_factory=set)
    axes: dict[int, int] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)
    carried: set[str] = field(default_factory=set)
    params_from: dict[str, str] = field(default_factory=dict)
    clipped_by: dict[str, str] = field(default_factory=dict)

    def tensors(self) -> Iterator[str]:
        """Yield the tensors to quantize, each behind the one whose parameters it has."""
        graph, seen = self.proto.graph, set(self.renamed)
        for at, node in enumerate(graph.node):
            if at not in self.integer:
                continue
            outputs = [self.renamed.get(name, name) for name in node.output]
            for name in (*node.input, *outputs):
                if name in self.floats and name not in seen:
                    seen.add(name)
                    yield name

    def range_name(self, name: str) -> str:
        """Return the tensor whose range a tensor has: that of a Relu or Clip behind it."""
        return self.clipped_by.get(name, name)


def plan_qdq(proto: ModelProto, ranges: Ranges, dtype: str) -> QdqPlan:
    """Apply rules Q1, Q3 and Q4 of `qdq_writer`.

    Args:
        proto: a float graph, its nodes in order.
        ranges: its ranges and excluded nodes.
        dtype: the integer type of the activations.
    """
    return _Planner(proto, ranges, dtype).plan()


class _Planner:
    def __init__(self, proto: ModelProto, ranges: Ranges, dtype: str) -> None:
        self.index, self.ranges, self.dtype = GraphIndex.of(proto), ranges, dtype
        self.result = QdqPlan(proto, frozenset(activations(proto)))
        self.weights = self.index.float_weights
        self.float_ops = frozenset(float_ops(proto))
        self.kept = self.index.outputs | _read_in_subgraphs(proto.graph)
        self.inputs = {value.name for value in proto.graph.input}

    def plan(self) -> QdqPlan:
        written_at: dict[str, int] = {}
        for at, node in enumerate(self.index.proto.graph.node):
            if self._may_be_integer(node) and node.op_type in FUSED:
                self._fuse(at, node, written_at)
            elif self._may_be_integer(node):
                self._place(at, node)
            written_at.update(dict.fromkeys(node.output, at))
        return self.result

    def _may_be_integer(self, node: NodeProto) -> bool:
        """Q1: tell whether a node may be integer at all."""
        single = node.op_type == "Split" or not any(node.output[1:])
        known = node.domain in ("", "ai.onnx") and node.output[0] in self.result.floats
        in_float = node.name in self.ranges.excluded or name_of(node) in self.float_ops
        return known and single and not in_float

    def _place(self, at: int, node: NodeProto) -> None:
        plan, op = self.result, node.op_type
        axis = self._axis(node) if op in WEIGHTED else None
        moves = op in MOVING and self._moves_integers(node)
        if axis is None and not moves and not (op in UNWEIGHTED and self._has_operands(node)):
            return
        plan.integer.add(at)
        plan.carried.update(node.output)
        if axis is not None:
            plan.axes[at] = axis
        if moves:
            plan.params_from.update(dict.fromkeys(node.output, node.input[0]))

    def _axis(self, node: NodeProto) -> int | None:
        """Return the axis of output channels; None where weights or bias are not constants."""
        weight = self.weights.get(node.input[1])
        if weight is None or node.input[0] not in self.result.floats:
            return None
        rank, attributes = len(weight.dims), attributes_of(node)
        if node.op_type == "MatMul":
            return 1 if rank == 2 else None
        axis = 0 if node.op_type == "Conv" or attributes.get("transB") else 1
        if attributes.get("alpha", 1.0) != 1.0:
            return None
        if len(node.input) > 2 and node.input[2]:
            bias = self.weights.get(node.input[2])
            size = 0 if bias is None else int(np.prod(bias.dims))
            if bias is None or size not in (1, weight.dims[axis]):
                return None
        return axis

    def _has_operands(self, node: NodeProto) -> bool:
        """Tell whether a node reads float activations, and besides them float constants alone."""
        floats = self.result.floats
        known = all(name in floats or name in self.weights for name in node.input)
        return known and any(name in floats for name in node.input)

    def _moves_integers(self, node: NodeProto) -> bool:
        """Q3: tell whether a node moves integers, or moves an input to integer nodes."""
        source = node.input[0]
        if not moves_values(node, self.index.array):
            return False
        if source in self.result.carried:
            return True
        readers = {r.op_type for name in node.output for r in self.index.consumers[name]}
        is_input = source in self.inputs & self.result.floats
        return is_input and bool(readers & (WEIGHTED | UNWEIGHTED))

    def _fuse(self, at: int, node: NodeProto, written_at: Mapping[str, int]) -> None:
        """Q4."""
        source, target, plan = node.input[0], node.output[0], self.result
        alone = len(self.index.consumers[source]) == 1 and source not in self.kept
        integer = written_at.get(source) in plan.integer
        if not integer or not alone or target not in self.ranges.bounds:
            return
        limits = self._limits(node)
        if limits is None:
            return
        params = quant_params(*self.ranges.bounds[target], self.dtype)
        tolerance = 0.51 * params.scale  # a zero point is rounded by up to half a step
        if params.low < limits[0] - tolerance or params.high > limits[1] + tolerance:
            plan.clipped_by[source] = target
            return
        plan.removed.add(at)
        plan.renamed[source] = target
        plan.carried.discard(source)
        plan.carried.add(target)
        plan.params_from.pop(source, None)

    def _limits(self, node: NodeProto) -> tuple[float, float] | None:
        """Return where a Relu or Clip clips; None when that is not known before it runs."""
        if node.op_type == "Relu":
            return 0.0, np.inf
        attributes = attributes_of(node)
        limits = [float(attributes.get("min", -np.inf)), float(attributes.get("max", np.inf))]
        for place, name in enumerate(node.input[1:3]):
            if name and name not in self.weights:
                return None
            if name:
                limits[place] = float(values_of(self.weights[name]).item())
        return limits[0], limits[1]


def _read_in_subgraphs(graph: GraphProto) -> set[str]:
    """Return what the bodies of If and Loop nodes read, from outside too."""
    bodies = [item.g for node in graph.node for item in node.attribute if item.HasField("g")]
    return {name for body in bodies for node in walk_nodes(body) for name in node.input}
