"""Find the first tensor of a .tflite that parts from the ONNX graph it was made of.

Every activation of both is computed for one sample. An ONNX tensor has a twin when a .tflite
tensor holds the same values in any order. A fused operator leaves tensors without a twin, so the
error begins at the first node whose output has none and behind which no tensor has one any more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.backends.litert import tensor_map
from torchopt2edge.backends.litert.flatbuffer import activation_values, read_graph
from torchopt2edge.quantize.graph.index import GraphIndex, attributes_of
from torchopt2edge.quantize.graph.op_types import Trait, having, name_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Parting:
    """The node at which a file begins to compute something else.

    Attributes:
        op_type: its operator.
        node: its name.
        tensor: its first output.
        shape: the shape of that output.
        cause: what is likely to be behind it, "" where nothing is known.
    """

    op_type: str
    node: str
    tensor: str
    shape: tuple[int, ...]
    cause: str

    def __str__(self) -> str:
        shape = "×".join(map(str, self.shape))
        likely = f"; {self.cause}" if self.cause else ""
        return f"it parts at {self.op_type} {self.node!r} (output {self.tensor!r}, {shape}){likely}"


def first_parting(
    proto: ModelProto,
    tflite_file: Path,
    feed: Mapping[str, Array],
    prepared: Mapping[str, Array],
) -> Parting | None:
    """Return where the file parts from the graph; None when every branch has a twin at its end.

    Args:
        proto: the float ONNX graph.
        tflite_file: the float file.
        feed: one sample as the graph takes it.
        prepared: the same sample in the file's names and layout.
    """
    (source,) = tensor_map.onnx_values(proto, [feed])
    (target,) = activation_values(tflite_file, read_graph(tflite_file), iter([prepared]))
    known = _twins(source, target)
    index = GraphIndex.of(proto)
    reached = _reached(proto, index, known)
    for node in proto.graph.node:
        name = node.output[0]
        if name in source and name not in reached and tensor_map.tells(source[name]):
            shape = tuple(source[name].shape)
            return Parting(node.op_type, name_of(node), name, shape, _cause(node, index, source))
    return None


def _twins(source: Mapping[str, Array], target: Mapping[str, Array]) -> set[str]:
    """Return the ONNX tensors whose values some .tflite tensor holds."""
    by_size: dict[int, list[Array]] = defaultdict(list)
    for value in target.values():
        by_size[value.size].append(value)
    return {
        name
        for name, value in source.items()
        if any(tensor_map.same(value, other) for other in by_size[value.size])
    }


def _reached(proto: ModelProto, index: GraphIndex, known: set[str]) -> set[str]:
    """Return the tensors with a twin, and those from which one with a twin is computed."""
    reached = set(known)
    for node in reversed(proto.graph.node):
        if any(name in reached for name in node.output):
            reached.update(name for name in node.input if name)
    return reached


def _cause(node: NodeProto, index: GraphIndex, source: Mapping[str, Array]) -> str:
    given = next((source[name].shape for name in node.input if name in source), ())
    for test, text in _CAUSES:
        if test(node, tuple(given), attributes_of(node)):
            return text
    return ""


BLIND = having(Trait.POINTWISE) | frozenset("Abs Neg Exp Log Sqrt".split())
"""Operators to which the order of axes is the same."""


def _cube(shape: tuple[int, ...]) -> bool:
    return len(shape) in (3, 4, 5) and len({*shape[1:]}) < len(shape) - 1


_CAUSES: tuple[tuple[Callable[[Any, tuple[int, ...], Mapping[str, Any]], bool], str], ...] = (
    (
        lambda node, shape, its: "Pool" in node.op_type and bool(its.get("ceil_mode")),
        "ceil_mode counts a window that reaches past the padding, and TensorFlow has no such mode: "
        "pad by hand and leave ceil_mode out",
    ),
    (
        lambda node, shape, its: "Pool" in node.op_type and set(its.get("dilations", ())) > {1},
        "TFLite has no dilated pooling",
    ),
    (
        lambda node, shape, its: _cube(shape) and node.op_type not in BLIND,
        "two axes of its input have the same size, so the converter cannot tell NCHW from NHWC: "
        "another input size avoids it",
    ),
)
