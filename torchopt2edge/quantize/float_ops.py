"""The operators that stay in float in every runtime, found once on the float ONNX for all of them.

LiteRT would round a norm that is spelled out, its reciprocal square root of the variance included,
to 8 bits; ONNX Runtime would round the inside of a GELU that is spelled out; neither does what the
other does. The rules:

I1. A type without `Trait.INTEGER` that does not only move values (norms, Softmax, GELU, Erf, Exp,
    Div …): ONNX Runtime has no integer kernel for it, and XNNPACK none or one that loses too much.
I2. A product of two activations, as in attention. XNNPACK has no integer kernel for it, and each
    would leave the delegate. They are a few per cent of a transformer's multiplications.
I3. All of a function of one tensor that is spelled out in elementwise operators, when one of them
    has no integer kernel in ONNX Runtime: a GELU by Erf or Tanh, Mish, x · HardSigmoid(x).
I4. An activation function, or an Add or Mul with constants, behind a float operator: the scale and
    shift of a GroupNorm.
I5. What only float operators read, unless it is a layer: nothing uses its integers. The residual
    stream of a transformer is such a chain of Adds that only norms read, and its outliers lose most
    in 8 bits per tensor (Bondarenko et al. 2021, arXiv:2109.12948).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

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

POINTWISE = having(Trait.POINTWISE)
# I3: integer in ONNX Runtime, or fused into an operator that is.
POINTWISE_INTEGER = having(Trait.POINTWISE | Trait.ORT) | FUSED
# I4: what a scale and a shift are written with.
SCALE_AND_SHIFT = having(Trait.POINTWISE | Trait.ELEMENTWISE)

Source = tuple[str, frozenset[str]]
"""A tensor, and the nodes between it and the tensor that is a function of it."""


def float_ops(proto: ModelProto) -> tuple[str, ...]:
    """Return the nodes that stay in float by rules I1 to I5.

    Args:
        proto: a float graph with inferred shapes.

    Returns:
        Names (`name_of`) in the graph's order.
    """
    return _Finder(proto).find()


class _Finder:
    def __init__(self, proto: ModelProto) -> None:
        self.index = GraphIndex.of(proto)
        known = set(activations(proto))
        self.nodes = [
            node
            for node in proto.graph.node
            if known.intersection(node.input) and known.intersection(node.output)
        ]
        self.bias_adds = bias_adds(self.index)
        self.floats: set[str] = set()

    def find(self) -> tuple[str, ...]:
        self.floats.update(name_of(node) for node in self.nodes if self._has_no_kernel(node))
        self._add_functions()
        for node in self.nodes:
            if self._follows_float(node):
                self.floats.add(name_of(node))
        for node in reversed(self.nodes):
            if self._feeds_float_only(node):
                self.floats.add(name_of(node))
        return tuple(name_of(node) for node in self.nodes if name_of(node) in self.floats)

    def _has_no_kernel(self, node: NodeProto) -> bool:
        """I1, I2."""
        if node.op_type in LAYERS:
            return len(node.input) > 1 and node.input[1] not in self.index.constants
        return node.op_type not in INTEGER | MOVES

    def _add_functions(self) -> None:
        """I3, by the nearest tensor of which both operands are functions."""
        sources: dict[str, Source] = {}
        op_types = {name_of(node): node.op_type for node in self.nodes}
        for node in self.nodes:
            operands = sorted(set(self.index.varying(node)))
            if node.op_type not in POINTWISE or not 1 <= len(operands) <= 2:
                continue
            name, target = name_of(node), node.output[0]
            if len(operands) == 1:
                sources[target] = operands[0], frozenset({name})
                continue
            left, right = (dict(_sources_of(tensor, sources)) for tensor in operands)
            common = next((tensor for tensor in left if tensor in right), None)
            if common is None:
                continue
            members = left[common] | right[common] | {name}
            sources[target] = common, members
            if any(op_types[member] not in POINTWISE_INTEGER for member in members):
                self.floats |= members

    def _follows_float(self, node: NodeProto) -> bool:
        """I4."""
        operands = self.index.varying(node)
        light = node.op_type in SCALE_AND_SHIFT or node.op_type in FUSED
        if not light or len(operands) != 1 or name_of(node) in self.bias_adds:
            return False
        producer = self._computed_by(operands[0])
        return producer is not None and name_of(producer) in self.floats

    def _computed_by(self, tensor: str) -> NodeProto | None:
        """Return the node that computes a tensor, before it is moved."""
        producer = self.index.producers.get(tensor)
        while producer is not None and producer.op_type in MOVES:
            producer = self.index.producers.get(producer.input[0])
        return producer

    def _feeds_float_only(self, node: NodeProto) -> bool:
        """I5."""
        if node.op_type in LAYERS or node.op_type in MOVES or name_of(node) in self.bias_adds:
            return False
        if node.op_type in FUSED:
            producer = self._computed_by(node.input[0])
            if producer is None or producer.op_type in LAYERS:
                return False
            if name_of(producer) in self.bias_adds:
                return False
        readers = {name_of(r) for name in node.output for r in self._computing_readers(name)}
        ends_here = self.index.outputs.intersection(node.output)
        return bool(readers) and readers <= self.floats and not ends_here

    def _computing_readers(self, tensor: str) -> Iterator[NodeProto]:
        """Yield the nodes that compute with a tensor, behind those that move it."""
        for node in self.index.consumers[tensor]:
            if node.op_type not in MOVES:
                yield node
            for target in node.output if node.op_type in MOVES else ():
                yield from self._computing_readers(target)


def _sources_of(tensor: str, sources: dict[str, Source]) -> Iterator[Source]:
    """Yield the tensors of which one is a function, itself first, with the nodes between."""
    between: frozenset[str] = frozenset()
    yield tensor, between
    while tensor in sources:
        tensor, nodes = sources[tensor]
        between |= nodes
        yield tensor, between
