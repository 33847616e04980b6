"""One grid for what a Concat joins, as LiteRT's kernel wants it, for every runtime.

LiteRT's integer CONCATENATION takes inputs of its output's scale only; the quantizer writes that
scale into the operator before it where nothing else reads its output. ONNX Runtime would quantize
that operator's output on a grid of its own and once more for the Concat: another rounding, and
other numbers. The rules:

J1. An input of a Concat that nothing else reads has the Concat's range, where a node computes it:
    what only moves values keeps its input's grid in both runtimes.
J2. Not where it would part a Relu or a Clip from the grid that does its work in ONNX Runtime: the
    Concat's range begins at 0 behind a Relu, and is the same range behind a Clip. Nor behind J4.
J3. What a Relu or a Clip alone reads goes with its output: the two are fused.
J4. Sigmoid and Tanh have the whole of their reach, and so has the same tensor under other names:
    LiteRT's kernels take no other scale for what they make.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torchopt2edge.quantize.shared_ranges import MOVING as VIEWS

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Bounds = dict[str, tuple[float, float]]
MOVING = frozenset(
    "Identity Reshape Flatten Squeeze Unsqueeze Transpose MaxPool Split Slice Gather Pad Resize "
    "DepthToSpace SpaceToDepth".split()
)
REACH = {"Sigmoid": (0.0, 255 / 256), "Tanh": (-1.0, 127 / 128)}
"""What 8 bits hold of steps of 1/256 from 0 on, and of 1/128 around it."""

_NEAR = 1e-3


def join_ranges(proto: ModelProto, bounds: Mapping[str, tuple[float, float]]) -> Bounds:
    """Return the ranges by tensor with rules J1 to J4 applied, the last Concat first."""
    found = dict(bounds)
    reached: set[str] = set()
    for node in proto.graph.node:
        if node.op_type in REACH and node.output[0] in found:
            found[node.output[0]] = REACH[node.op_type]
            reached.add(node.output[0])
        elif node.op_type in VIEWS and node.input[0] in reached and node.output[0] in found:
            found[node.output[0]] = found[node.input[0]]
            reached.add(node.output[0])
    made = {name: node for node in proto.graph.node for name in node.output}
    reads = Counter(name for node in proto.graph.node for name in node.input)
    reads.update(value.name for value in proto.graph.output)
    for node in reversed(proto.graph.node):
        whole = found.get(node.output[0])
        if node.op_type != "Concat" or whole is None:
            continue
        for name in node.input:
            maker = made.get(name)
            if name not in found or reads[name] != 1 or maker is None:
                continue
            if maker.op_type in MOVING or not _keeps(maker, found[name], whole):
                continue
            found[name] = whole
            before = maker.input[0] if maker.op_type in ("Relu", "Clip") else ""
            if before in found and reads[before] == 1:
                found[before] = whole
    return found


def _keeps(maker: NodeProto, own: tuple[float, float], whole: tuple[float, float]) -> bool:
    """J2."""
    if maker.op_type == "Relu":
        return whole[0] >= 0.0
    if maker.op_type in REACH:
        return False
    slack = _NEAR * (whole[1] - whole[0])
    ends = abs(whole[0] - own[0]), abs(whole[1] - own[1])
    return maker.op_type != "Clip" or max(ends) <= slack
