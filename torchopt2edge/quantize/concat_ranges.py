"""One scale for all inputs of a Concat, as LiteRT's kernel requires it, in every runtime.

LiteRT's integer CONCATENATION takes inputs of its output's scale only. The quantizer writes that
scale into the operator before it where nothing else reads its output. ONNX Runtime would quantize
that operator's output with a scale of its own and once more for the Concat: another rounding, and
other numbers. The rules:

J1. An input of a Concat that nothing else reads takes the Concat's range, where a node computes
    it. What only moves an activation keeps its input's scale in both runtimes.
J2. Not where that would separate a Relu or a Clip from the range that replaces it in ONNX Runtime:
    behind a Relu the Concat's range must start at 0, behind a Clip it must be the same range. Nor
    behind an operator of J4.
J3. A tensor that a Relu or a Clip alone reads takes the range of that one's output: the two are
    fused.
J4. Sigmoid and Tanh have their full output range, and so has the same tensor under other names:
    LiteRT's kernels accept no other output scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from torchopt2edge.quantize.graph.index import GraphIndex
from torchopt2edge.quantize.graph.op_types import FUSED, MOVES
from torchopt2edge.quantize.shared_ranges import KEEPING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Range = tuple[float, float]

# J1. A Resize has its input's scale in both runtimes, whether it interpolates or not. An
# AveragePool has it in LiteRT alone.
SAME_SCALE = MOVES | {"Resize"}
FULL_RANGE = {"Sigmoid": (0.0, 255 / 256), "Tanh": (-1.0, 127 / 128)}
"""What 8 bits represent in steps of 1/256 from 0 on, and of 1/128 around 0."""

_NEAR = 1e-3


def join_ranges(proto: ModelProto, bounds: Mapping[str, Range]) -> dict[str, Range]:
    """Apply rules J1 to J4 to the ranges of a graph.

    Args:
        proto: a float graph.
        bounds: the (min, max) of its activations.

    Returns:
        The changed ranges of all activations.
    """
    index = GraphIndex.of(proto)
    joined = {**bounds, **_full_ranges(index, bounds)}
    for concat in reversed(proto.graph.node):  # the last first: it may read another one's output
        if concat.op_type != "Concat" or concat.output[0] not in joined:
            continue
        whole = joined[concat.output[0]]
        for name, producer in _exclusive_inputs(index, concat):
            moved = producer.op_type in SAME_SCALE and producer.input[0] in joined
            if name in joined and not moved and _may_join(producer, joined[name], whole):
                joined[name] = whole
                joined.update(dict.fromkeys(_fused_inputs(index, producer) & joined.keys(), whole))
    return joined


def _full_ranges(index: GraphIndex, bounds: Mapping[str, Range]) -> dict[str, Range]:
    """J4."""
    full: dict[str, Range] = {}
    for node in index.proto.graph.node:
        if node.output[0] not in bounds:
            continue
        if node.op_type in FULL_RANGE:
            full[node.output[0]] = FULL_RANGE[node.op_type]
        elif node.op_type in KEEPING and node.input[0] in full:
            full[node.output[0]] = full[node.input[0]]
    return full


def _exclusive_inputs(index: GraphIndex, concat: NodeProto) -> Iterator[tuple[str, NodeProto]]:
    """J1: yield the inputs that a node computes for this Concat alone, with that node."""
    for name in concat.input:
        if index.uses[name] == 1 and name in index.producers:
            yield name, index.producers[name]


def _may_join(producer: NodeProto, own: Range, whole: Range) -> bool:
    """J2: tell whether the output of a node may take the Concat's range."""
    if producer.op_type in FULL_RANGE:
        return False
    if producer.op_type == "Relu":
        return whole[0] >= 0.0
    if producer.op_type == "Clip":
        tolerance = _NEAR * (whole[1] - whole[0])
        return max(abs(whole[0] - own[0]), abs(whole[1] - own[1])) <= tolerance
    return True


def _fused_inputs(index: GraphIndex, producer: NodeProto) -> set[str]:
    """J3: return what a Relu or a Clip alone reads, nothing for any other node."""
    fused = producer.op_type in FUSED and index.uses[producer.input[0]] == 1
    return {producer.input[0]} if fused else set()
