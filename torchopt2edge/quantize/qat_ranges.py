"""The ranges that quantization-aware training learned, carried over to the prepared float graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge.quantize.graph.index import GraphIndex
from torchopt2edge.quantize.graph.op_types import FUSED, Trait, having, moves_values
from torchopt2edge.quantize.qdq_reader import FUSES_ACTIVATION, Array, Range, arrays_of, split
from torchopt2edge.types import Manifest, Ranges

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

ORIGIN = "learned:qat"
# Not all of the input comes out: the output's range may be narrower than the input's.
DROPPING = having(Trait.DROPS)


def unquantize(qdq: ModelProto, artifact: Path | None = None) -> tuple[ModelProto, Ranges]:
    """Return the float graph of a QDQ ONNX, and what it learned (`qdq_reader.split`).

    Args:
        qdq: a QDQ graph, which is left unchanged.
        artifact: the file that it is from, for error messages.

    Raises:
        ExportError: it cannot be taken apart.
    """
    proto, bounds = split(qdq, artifact)
    return proto, learned(bounds)


def learned(bounds: Mapping[str, Range], seed: int | None = None) -> Ranges:
    """Return trained (min, max) as ranges; the training samples are not listed one by one."""
    return Ranges(dict(bounds), ORIGIN, Manifest("train", (), seed=seed))


def carry(ranges: Ranges, proto: ModelProto) -> Ranges:
    """Keep the ranges of the tensors that a prepared graph has, and give them to what shares them.

    A tensor that is fused with a Relu or a Clip takes that one's range. What moves values has the
    range of its input. The inputs of a Concat that nothing else reads have the Concat's range.

    Args:
        ranges: learned ranges, by the names of the trained graph.
        proto: the prepared float graph.
    """
    index, arrays = GraphIndex.of(proto), arrays_of(proto.graph)
    known = {value.name for value in proto.graph.input} | index.producers.keys()
    bounds = {name: ends for name, ends in ranges.bounds.items() if name in known}
    for node in proto.graph.node:  # forwards: what is moved
        if moves_values(node, arrays.get) and node.input[0] in bounds:
            bounds |= {name: bounds[node.input[0]] for name in node.output if name not in bounds}
    for node in reversed(proto.graph.node):  # backwards: what is fused, moved or joined
        for name in _sharing_inputs(node, index, arrays):
            exclusive = name in index.producers and index.uses[name] == 1
            if exclusive and name not in bounds and node.output[0] in bounds:
                bounds[name] = bounds[node.output[0]]
    return replace(ranges, bounds=bounds)


def _sharing_inputs(node: NodeProto, index: GraphIndex, arrays: Mapping[str, Array]) -> list[str]:
    """Return the inputs that have the range of a node's output, if nothing else reads them."""
    if node.op_type == "Concat":
        return list(node.input)
    if moves_values(node, arrays.get):
        return [] if node.op_type in DROPPING else list(node.input[:1])
    fuses = node.op_type in FUSED and index.producer_type(node.input[0]) in FUSES_ACTIVATION
    return list(node.input[:1]) if fuses else []


def merge(learned: Ranges, calibrated: Ranges) -> Ranges:
    """Return the learned ranges, and the calibrated ones of the tensors that were not trained.

    The manifest is that of the calibration. Facts count the learned and name the calibrated.
    """
    rest = [name for name in calibrated.bounds if name not in learned.bounds]
    facts = {
        **calibrated.facts,
        "learned": len(learned.bounds),
        "calibrated": rest,
        "calibrated_by": calibrated.origin,
    }
    excluded = tuple(dict.fromkeys((*learned.excluded, *calibrated.excluded)))
    bounds = {**calibrated.bounds, **learned.bounds}
    manifest = replace(calibrated.manifest, seed=learned.manifest.seed)
    return Ranges(bounds, learned.origin, manifest, excluded, facts)
