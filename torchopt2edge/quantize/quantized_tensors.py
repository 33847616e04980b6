"""Where the integers are: which tensors and weights of a float ONNX become 8 bits, and by whom.

The rules, read off ONNX Runtime's QDQ quantizer and ai-edge-quantizer's op table:

Q1. An op of `op_types.OPS` reads its activations, its weights and its other constants as integers
    and makes an integer, unless it is one of the `islands`. Ops that one of the runtimes alone
    has an integer kernel for count too: their neighbours need the same tensors as integers anyway.
Q2. A Relu or Clip behind one of them goes into it where nothing else reads what is between, and
    so does a bias behind a MatMul (`gemm.biases`): the tensor between is never rounded.
Q3. An op of `MOVES` only carries values. Behind an integer op or an input what it makes has the
    integers of what it reads, and no rounding of its own; behind a float op it moves floats.
Q4. An op of `SAME` makes values on the grid of what it reads.
Q5. What an integer op makes is rounded for everyone who reads it; what a float op makes is
    rounded for its integer readers alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchopt2edge.quantize.float_ops import islands
from torchopt2edge.quantize.graph.activations import activations
from torchopt2edge.quantize.graph.gemm import biases
from torchopt2edge.quantize.graph.index import View
from torchopt2edge.quantize.graph.op_types import (
    ELEMENTWISE,
    FUSED,
    LAYERS,
    MOVES,
    OPS,
    SAME,
    name_of,
)

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

END = ""


@dataclass(frozen=True)
class Constant:
    """A float initializer that a node reads as integers, per channel of ``axis`` or as one."""

    node: str
    index: int
    name: str
    axis: int | None


@dataclass(frozen=True)
class Spot:
    """A tensor as some of its readers see it: rounded when any op of ``by`` is integer (Q5).

    ``readers`` are the names (`name_of`) of the nodes that see it so, and ``END`` where the
    graph gives it out.
    """

    tensor: str
    by: frozenset[str]
    readers: frozenset[str]


@dataclass(frozen=True)
class Placement:
    """The integers of a graph.

    ``ops`` maps the quantizable nodes to their types, in the graph's order; ``same`` a tensor to
    the one whose grid it shares (Q4).
    """

    ops: Mapping[str, str]
    spots: tuple[Spot, ...]
    same: Mapping[str, str]
    constants: tuple[Constant, ...]


def placement(proto: ModelProto) -> Placement:
    """Apply the rules to a float graph with inferred shapes, its nodes in order."""
    plan = _Plan(proto)
    ops = {name_of(node): node.op_type for node in proto.graph.node if plan.is_op(node)}
    makers: dict[str, str] = {}
    same: dict[str, str] = {}
    constants: list[Constant] = []
    for node in proto.graph.node:
        if name_of(node) not in ops:
            continue
        made = plan.made_by(node)
        makers[made] = name_of(node)
        if node.op_type in SAME and made == node.output[0]:  # Q4
            same[made] = plan.root(node.input[0])
        constants += _constants(node, plan.weights)
    inputs = [value.name for value in proto.graph.input]
    outputs = [name for node in proto.graph.node for name in node.output]
    spots = [
        spot
        for tensor in (*inputs, *outputs)
        if tensor in plan.floats and plan.root(tensor) == tensor
        for spot in _spots(tensor, makers.get(tensor), plan)
    ]
    return Placement(ops, tuple(spots), same, tuple(constants))


def _spots(tensor: str, maker: str | None, plan: _Plan) -> list[Spot]:
    """Q5: part a tensor's readers by the ops for whose sake they see it rounded."""
    parts: dict[frozenset[str], set[str]] = defaultdict(set)
    for reader, by in plan.readers_of(tensor):
        parts[by | {maker} if maker else by].add(reader)
    return [Spot(tensor, by, frozenset(readers)) for by, readers in parts.items() if by]


class _Plan:
    """Who makes and who reads each tensor of a graph."""

    def __init__(self, proto: ModelProto) -> None:
        self.floats = set(activations(proto))
        self.weights = {
            weight.name: len(weight.dims)
            for weight in proto.graph.initializer
            if weight.data_type == 1  # float32
        }
        self._islands, self._biases = frozenset(islands(proto)), biases(View.of(proto))
        self._ends = {value.name for value in proto.graph.output}
        self._makers = {name: node for node in proto.graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in proto.graph.node:
            for name in node.input:
                self._readers[name].append(node)

    def is_op(self, node: NodeProto) -> bool:
        """Q1, Q2: whether it can be integer by itself."""
        known = any(name in self.floats for name in node.input)
        free = node.op_type in OPS and name_of(node) not in self._islands
        return known and free and self.fused_into(node) is None

    def readers_of(self, tensor: str) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield who reads a tensor, and the ops for which it is read: behind Q3, those beyond.

        A Relu or Clip that went into the maker (Q2) reads what is never rounded.
        """
        if tensor in self._ends:
            yield END, frozenset()
        for node in self._readers[tensor]:
            if self.fused_into(node) is None:
                yield name_of(node), self._behind(node)

    def _behind(self, node: NodeProto) -> frozenset[str]:
        if self.is_op(node):
            return frozenset({name_of(node)})
        if not self._carries(node):
            return frozenset()
        return frozenset(
            op
            for name in node.output
            for reader in self._readers[name]
            for op in self._behind(reader)
        )

    def root(self, tensor: str) -> str:
        """Q3: return the tensor whose integers this one carries."""
        maker = self._makers.get(tensor)
        if maker is None or not self._carries(maker):
            return tensor
        return self.root(maker.input[0])

    def _carries(self, node: NodeProto) -> bool:
        """Q3: whether a node moves integers."""
        if node.op_type not in MOVES or node.input[0] not in self.floats:
            return False
        maker = self._makers.get(self.root(node.input[0]))
        return maker is None or self.is_op(maker) or self.fused_into(maker) is not None

    def fused_into(self, node: NodeProto) -> NodeProto | None:
        """Q2: return the op that a Relu, a Clip or a bias goes into."""
        if name_of(node) in self._biases:
            return self._biases[name_of(node)]
        maker = self._makers.get(node.input[0]) if node.op_type in FUSED else None
        if maker is None or maker.op_type not in OPS or maker.op_type in FUSED:
            return None
        if {name_of(node), name_of(maker)} & self._islands:
            return None
        alone = len(self._readers[node.input[0]]) == 1 and node.input[0] not in self._ends
        return maker if alone else None

    def made_by(self, node: NodeProto) -> str:
        """Name what an op makes: what the last that went into it makes (Q2)."""
        made = node.output[0]
        readers = self._readers[made]
        if len(readers) == 1 and self.fused_into(readers[0]) is not None:
            return self.made_by(readers[0])
        return str(made)


def _constants(node: NodeProto, weights: Mapping[str, int]) -> list[Constant]:
    """Q1: the weights of a layer, but not its bias (32 bits), and an elementwise op's operands."""
    if node.op_type in ELEMENTWISE:
        found = list(enumerate(node.input))
    elif node.op_type in LAYERS:
        found = list(enumerate(node.input[:2]))
    else:
        found = []
    return [
        Constant(name_of(node), at, name, _axis(node, weights[name]) if at else None)
        for at, name in found
        if name in weights
    ]


def _axis(node: NodeProto, rank: int) -> int | None:
    """Return the axis of a layer's weights that counts its output channels; else None."""
    if node.op_type not in LAYERS:
        return None
    if node.op_type == "Conv":
        return 0
    turned = any(a.name == "transB" and a.i for a in node.attribute)
    axis = 0 if turned else rank - 1 if node.op_type == "MatMul" else 1
    return axis if rank > 1 else None
