"""Which operators of a .tflite stay in float, so that it rounds what ONNX Runtime rounds.

F1. Those of the nodes that the ranges exclude, all that belongs to them.
F2. Those of the `float_ops` of the float ONNX. What was fused into a layer goes with the layer.
F3. What only moves values that a float operator makes: they are rounded where integers are read,
    as in ONNX Runtime, and a part of them (the class token) with a range of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from torchopt2edge.backends.litert.flatbuffer import Op, TfliteGraph
from torchopt2edge.backends.litert.op_map import DOT_KINDS, MOVES, counterparts
from torchopt2edge.backends.litert.tensor_map import Transfer
from torchopt2edge.quantize.float_ops import float_ops
from torchopt2edge.quantize.graph.op_types import LAYERS

if TYPE_CHECKING:
    from onnx import ModelProto

CARRY = MOVES | {"MAX_POOL_2D"}
Parts = Mapping[str, tuple[Op, ...]]


@dataclass(frozen=True, eq=False)
class Floats:
    """The operators that stay in float: of each excluded node, and all (F1 to F3)."""

    graph: TfliteGraph
    excluded: Parts
    in_every_runtime: Parts

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """All of them, in the graph's order."""
        parts = (*self.excluded.values(), *self.in_every_runtime.values())
        return _with_moves(self.graph, {op for ops in parts for op in ops})

    def rounded(self, carried: Transfer) -> Transfer:
        """Return the ranges without those of tensors inside that float operators alone touch."""
        floats = set(self.ops)
        touched = {tensor.name for tensor in (*self.graph.inputs, *self.graph.outputs)}
        for op in self.graph.ops:
            if op not in floats:
                touched.update((*op.inputs, *op.outputs))
        return replace(
            carried,
            bounds={name: pair for name, pair in carried.bounds.items() if name in touched},
            matched={name: twins for name, twins in carried.matched.items() if name in touched},
            derived=tuple(name for name in carried.derived if name in touched),
            calibrated=tuple(name for name in carried.calibrated if name in touched),
        )


def floats_of(
    proto: ModelProto,
    graph: TfliteGraph,
    matched: Mapping[str, tuple[str, ...]],
    excluded: Iterable[str],
) -> Floats:
    """Find them in the float .tflite ``graph`` of that ONNX; ``matched`` is `transfer`'s."""
    layers = {node.name for node in proto.graph.node if node.op_type in LAYERS}
    alone = float_ops(proto)
    found = counterparts(proto, graph, matched, dict.fromkeys((*excluded, *alone)))
    return Floats(
        graph,
        {name: found[name] for name in excluded},
        {
            name: tuple(op for op in found[name] if name in layers or op.kind not in DOT_KINDS)
            for name in alone
        },
    )


def _with_moves(graph: TfliteGraph, floats: set[Op]) -> tuple[Op, ...]:
    """F3."""
    kept: list[Op] = []
    made: set[str] = set()
    for op in graph.ops:
        if op in floats or (op.kind in CARRY and made.intersection(op.inputs)):
            kept.append(op)
            made.update(op.outputs)
    return tuple(kept)
