"""Find the operators of a .tflite that compute a node of the ONNX it was converted from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from torchopt2edge.backends.litert.flatbuffer import Op, TfliteGraph
from torchopt2edge.quantize.graph.op_types import LAYERS

if TYPE_CHECKING:
    import onnx

DOT_KINDS = frozenset(
    "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED TRANSPOSE_CONV BATCH_MATMUL".split()
)
MOVES = frozenset(
    "RESHAPE TRANSPOSE SQUEEZE EXPAND_DIMS SHAPE SPLIT SPLIT_V PACK UNPACK SLICE STRIDED_SLICE "
    "GATHER GATHER_ND BROADCAST_TO TILE REVERSE_V2 SPACE_TO_DEPTH DEPTH_TO_SPACE".split()
)
"""What moves values and computes none."""


def counterparts(
    proto: onnx.ModelProto,
    graph: TfliteGraph,
    matched: Mapping[str, tuple[str, ...]],
    nodes: Iterable[str],
) -> dict[str, tuple[Op, ...]]:
    """Map each named ONNX node to the operators that compute it, none when they are not found.

    ``matched`` maps .tflite tensors to their ONNX twins. A node whose own output is not there was
    fused with what reads it (a Relu behind a Conv): then it is found by that one's output. What
    lies between the found tensor and the matched ones before it belongs to the node too (the PAD
    before a convolution, the parts of a grouped one).
    """
    by_name = {node.name: node for node in proto.graph.node}
    found: dict[str, tuple[Op, ...]] = {}
    for name in nodes:
        node = by_name.get(name)
        made = [] if node is None else _visible(proto, node, matched)
        ops = _region(graph, set(made), matched)
        lacks = node is not None and node.op_type in LAYERS and not _kinds(ops) & DOT_KINDS
        found[name] = () if lacks else ops
    return found


def _kinds(ops: Iterable[Op]) -> set[str]:
    return {op.kind for op in ops}


def _visible(
    proto: onnx.ModelProto, node: onnx.NodeProto, matched: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Name the .tflite tensors that hold the node's output, or that of the nodes fused with it."""
    constants = {weight.name for weight in proto.graph.initializer}
    constants |= {n.output[0] for n in proto.graph.node if n.op_type == "Constant"}
    while True:
        twins = set(node.output)
        made = [name for name, others in matched.items() if twins & set(others)]
        readers = [other for other in proto.graph.node if twins & set(other.input)]
        if made or len(readers) != 1 or readers[0].op_type in LAYERS:
            return made
        (node,) = readers
        if sum(bool(name) and name not in constants for name in node.input) != 1:
            return []


def _region(
    graph: TfliteGraph, made: Collection[str], matched: Mapping[str, tuple[str, ...]]
) -> tuple[Op, ...]:
    """Return the operators that compute the tensors ``made`` from matched ones, in order."""
    start = [op for op in graph.ops if set(op.outputs) & set(made)]
    region = [op for op in start if op.kind not in MOVES] or start
    kept = {tensor.name for tensor in graph.outputs}
    grew = True
    while grew:
        needed = {name for op in region for name in op.inputs}
        more = [
            op
            for op in graph.ops
            if op not in region
            and needed & set(op.outputs)
            and not any(name in matched or name in kept for name in op.outputs)
            and all(reader in region for reader in graph.ops if _reads(reader, op))
        ]
        region, grew = [*region, *more], bool(more)
    return tuple(op for op in graph.ops if op in region)


def _reads(reader: Op, op: Op) -> bool:
    return bool(set(reader.inputs) & set(op.outputs))
