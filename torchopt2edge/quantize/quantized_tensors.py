"""Which tensors and weights of a float ONNX become 8 bits, and because of which operators.

The rules, read off ONNX Runtime's QDQ quantizer and ai-edge-quantizer's table of operators:

Q1. An operator with `Trait.INTEGER` reads its activations, weights and other constants as integers
    and writes integers, unless it is one of the `float_ops`. Operators that have an integer kernel
    in one of the runtimes alone count too: their neighbours need the same tensors as integers
    anyway.
Q2. A Relu or Clip behind one of them is fused with it where nothing else reads the tensor between,
    and so is a bias behind a MatMul (`bias_adds`): the tensor between is never rounded.
Q3. What only moves values rounds nothing. Behind an integer operator or an input its output has the
    integers of its input; behind a float operator it moves floats.
Q4. An operator with `Trait.SAME_SCALE` writes with the quantization parameters of its input.
Q5. What an integer operator writes is rounded for every reader. What a float operator writes is
    rounded for its integer readers alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchopt2edge.quantize.float_ops import float_ops
from torchopt2edge.quantize.graph.activations import activations
from torchopt2edge.quantize.graph.gemm import bias_adds
from torchopt2edge.quantize.graph.index import GraphIndex
from torchopt2edge.quantize.graph.op_types import (
    FUSED,
    INTEGER,
    LAYERS,
    MOVES,
    Trait,
    having,
    name_of,
)

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

GRAPH_OUTPUT = ""
"""Stands among the readers of a tensor for the graph's output."""

SAME_SCALE = having(Trait.SAME_SCALE)
ELEMENTWISE = having(Trait.ELEMENTWISE)


@dataclass(frozen=True)
class QuantizedConstant:
    """A float initializer that a node reads as integers.

    Attributes:
        node: the node's name (`name_of`).
        index: which of its inputs it is.
        name: the initializer.
        axis: the axis of output channels, one scale for each; None for one scale per tensor.
    """

    node: str
    index: int
    name: str
    axis: int | None


@dataclass(frozen=True)
class RoundedTensor:
    """A tensor as some of its readers see it: rounded when any node of ``ops`` is integer (Q5).

    Attributes:
        tensor: its name.
        ops: the nodes because of which it is rounded.
        readers: the names (`name_of`) of the nodes that see it so; `GRAPH_OUTPUT` among them where
            it is an output.
    """

    tensor: str
    ops: frozenset[str]
    readers: frozenset[str]


@dataclass(frozen=True)
class QuantizedTensors:
    """What is quantized in a graph.

    Attributes:
        ops: the types of the nodes that can be integer, by name, in the graph's order.
        rounded: the tensors that are rounded, once for each group of readers.
        same_scale: the tensor whose quantization parameters another one has (Q4).
        constants: the constants that are read as integers.
    """

    ops: Mapping[str, str]
    rounded: tuple[RoundedTensor, ...]
    same_scale: Mapping[str, str]
    constants: tuple[QuantizedConstant, ...]


def quantized_tensors(proto: ModelProto) -> QuantizedTensors:
    """Apply rules Q1 to Q5 to a float graph with inferred shapes, its nodes in order."""
    graph = _Graph(proto)
    ops = {name_of(node): node.op_type for node in proto.graph.node if graph.is_integer(node)}
    written_by: dict[str, str] = {}
    same_scale: dict[str, str] = {}
    constants: list[QuantizedConstant] = []
    for node in proto.graph.node:
        if name_of(node) not in ops:
            continue
        target = graph.written_by_fused(node)
        written_by[target] = name_of(node)
        if node.op_type in SAME_SCALE and target == node.output[0]:  # Q4
            same_scale[target] = graph.origin(node.input[0])
        constants += _constants(node, graph.ranks)
    inputs = [value.name for value in proto.graph.input]
    outputs = [name for node in proto.graph.node for name in node.output]
    rounded = [
        tensor
        for name in (*inputs, *outputs)
        if name in graph.floats and graph.origin(name) == name
        for tensor in _rounded(name, written_by.get(name), graph)
    ]
    return QuantizedTensors(ops, tuple(rounded), same_scale, tuple(constants))


def _rounded(tensor: str, writer: str | None, graph: _Graph) -> list[RoundedTensor]:
    """Q5: group a tensor's readers by the nodes because of which they see it rounded."""
    groups: dict[frozenset[str], set[str]] = defaultdict(set)
    for reader, ops in graph.readers_of(tensor):
        groups[ops | {writer} if writer else ops].add(reader)
    return [RoundedTensor(tensor, ops, frozenset(names)) for ops, names in groups.items() if ops]


class _Graph:
    """Answers rules Q1 to Q3 for the nodes and tensors of a graph."""

    def __init__(self, proto: ModelProto) -> None:
        self.index = GraphIndex.of(proto)
        self.floats = set(activations(proto))
        self.ranks = {name: len(w.dims) for name, w in self.index.float_weights.items()}
        self._float_ops = frozenset(float_ops(proto))
        self._bias_adds = bias_adds(self.index)

    def is_integer(self, node: NodeProto) -> bool:
        """Q1, Q2: tell whether a node can be integer by itself."""
        known = any(name in self.floats for name in node.input)
        integer = node.op_type in INTEGER and name_of(node) not in self._float_ops
        return known and integer and self.fused_into(node) is None

    def readers_of(self, tensor: str) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield each reader of a tensor, with the integer nodes that its values reach by Q3.

        A Relu or Clip that is fused with the writer (Q2) reads a tensor that is never rounded.
        """
        if tensor in self.index.outputs:
            yield GRAPH_OUTPUT, frozenset()
        for node in self.index.consumers[tensor]:
            if self.fused_into(node) is None:
                yield name_of(node), self._reached(node)

    def _reached(self, node: NodeProto) -> frozenset[str]:
        if self.is_integer(node):
            return frozenset({name_of(node)})
        if not self._moves_integers(node):
            return frozenset()
        return frozenset(
            op
            for name in node.output
            for reader in self.index.consumers[name]
            for op in self._reached(reader)
        )

    def origin(self, tensor: str) -> str:
        """Q3: return the tensor whose integers this one has."""
        producer = self.index.producers.get(tensor)
        if producer is None or not self._moves_integers(producer):
            return tensor
        return self.origin(producer.input[0])

    def _moves_integers(self, node: NodeProto) -> bool:
        """Q3."""
        if node.op_type not in MOVES or node.input[0] not in self.floats:
            return False
        producer = self.index.producers.get(self.origin(node.input[0]))
        if producer is None:
            return True
        return self.is_integer(producer) or self.fused_into(producer) is not None

    def fused_into(self, node: NodeProto) -> NodeProto | None:
        """Q2: return the node that a Relu, a Clip or a bias is fused with."""
        if name_of(node) in self._bias_adds:
            return self._bias_adds[name_of(node)]
        producer = self.index.producers.get(node.input[0]) if node.op_type in FUSED else None
        if producer is None or producer.op_type not in INTEGER or producer.op_type in FUSED:
            return None
        if {name_of(node), name_of(producer)} & self._float_ops:
            return None
        alone = len(self.index.consumers[node.input[0]]) == 1
        return producer if alone and node.input[0] not in self.index.outputs else None

    def written_by_fused(self, node: NodeProto) -> str:
        """Q2: return the tensor that a node writes, together with what is fused with it."""
        target = node.output[0]
        readers = self.index.consumers[target]
        if len(readers) == 1 and self.fused_into(readers[0]) is not None:
            return self.written_by_fused(readers[0])
        return str(target)


def _constants(node: NodeProto, ranks: Mapping[str, int]) -> list[QuantizedConstant]:
    """Q1: a layer's weights, but not its bias (32 bits), and an elementwise operator's operands."""
    if node.op_type in ELEMENTWISE:
        inputs = list(enumerate(node.input))
    elif node.op_type in LAYERS:
        inputs = list(enumerate(node.input[:2]))
    else:
        inputs = []
    return [
        QuantizedConstant(name_of(node), at, name, _axis(node, ranks[name]) if at else None)
        for at, name in inputs
        if name in ranks
    ]


def _axis(node: NodeProto, rank: int) -> int | None:
    """Return the axis of output channels of a layer's weights, None for anything else."""
    if node.op_type not in LAYERS:
        return None
    if node.op_type == "Conv":
        return 0
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    axis = 0 if transposed else rank - 1 if node.op_type == "MatMul" else 1
    return axis if rank > 1 else None
