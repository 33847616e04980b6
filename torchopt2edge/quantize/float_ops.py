"""The operators that stay in float in every runtime, found on the float ONNX once for all of them.

A runtime left alone rounds what it has a kernel for. LiteRT computes a LayerNorm in seven
operators and would give each 8 bits, the reciprocal root of the variance too; ONNX Runtime would
round the inside of a GELU that is spelled out; neither does what the other does. The rules:

I1. A type that is not in `op_types.OPS` (norms, Softmax, GELU, Erf, Exp, Div …): ONNX Runtime has
    no integer kernel for it, and XNNPACK none or one that loses too much.
I2. A product of two activations, as in attention. XNNPACK has no integer kernel for it, and each
    would leave the delegate; of the multiplications of a transformer it has a few per cent.
I3. All of a function of one tensor that is spelled out in elementwise operators, when one of them
    is without an integer kernel in ONNX Runtime: a GELU by Erf or Tanh, Mish, x · HardSigmoid(x).
I4. An activation, or an Add or Mul with constants, behind a float operator: the scale and shift
    of a GroupNorm.
I5. What only float operators read, unless it is a layer: nobody has a use for its integers. The
    residual stream of a transformer is such a chain of Adds, which only norms read, and its
    outliers are what 8 bits per tensor serve worst (Bondarenko et al. 2021, arXiv:2109.12948).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torchopt2edge.quantize.graph.activations import activations
from torchopt2edge.quantize.graph.gemm import biases
from torchopt2edge.quantize.graph.index import View
from torchopt2edge.quantize.graph.op_types import FUSED, LAYERS, MOVES, OPS, name_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Elementwise in one tensor, or in two of which one is a constant or a function of the other (I3).
_POINTWISE = frozenset(
    "Add Sub Mul Div Pow Relu Clip LeakyRelu Sigmoid Tanh Erf HardSigmoid HardSwish Softplus "
    "Softsign Exp Log Sqrt Reciprocal Neg Abs Elu Selu Celu".split()
)
_WHOLE = frozenset("Add Mul Relu Clip LeakyRelu Sigmoid".split())  # with kernels in both runtimes
_AFFINE = frozenset("Add Sub Mul".split())

Source = tuple[str, frozenset[str]]
"""A tensor, and the nodes between it and the tensor that is a function of it."""


def islands(proto: ModelProto) -> tuple[str, ...]:
    """Name the nodes of rules I1 to I5 in a float graph with inferred shapes, in its order."""
    return _Finder(proto).found()


class _Finder:
    def __init__(self, proto: ModelProto) -> None:
        self.view = View.of(proto)
        known = set(activations(proto))
        self.nodes = [
            node
            for node in proto.graph.node
            if known.intersection(node.input) and known.intersection(node.output)
        ]
        self.biases = biases(self.view)
        self.floats: set[str] = set()

    def found(self) -> tuple[str, ...]:
        self.floats.update(name_of(node) for node in self.nodes if self._alone(node))
        self._functions()
        for node in self.nodes:
            if self._follows(node):
                self.floats.add(name_of(node))
        for node in reversed(self.nodes):
            if self._serves(node):
                self.floats.add(name_of(node))
        return tuple(name_of(node) for node in self.nodes if name_of(node) in self.floats)

    def _alone(self, node: NodeProto) -> bool:
        """I1, I2."""
        if node.op_type in LAYERS:
            return len(node.input) > 1 and node.input[1] not in self.view.constants
        return node.op_type not in OPS | MOVES

    def _functions(self) -> None:
        """I3, by the nearest tensor of which both operands are functions."""
        sources: dict[str, Source] = {}
        kinds = {name_of(node): node.op_type for node in self.nodes}
        for node in self.nodes:
            given = sorted(set(self.view.varying(node)))
            if node.op_type not in _POINTWISE or not 1 <= len(given) <= 2:
                continue
            name, made = name_of(node), node.output[0]
            if len(given) == 1:
                sources[made] = given[0], frozenset({name})
                continue
            one, other = (dict(_back(tensor, sources)) for tensor in given)
            common = next((tensor for tensor in one if tensor in other), None)
            if common is None:
                continue
            group = one[common] | other[common] | {name}
            sources[made] = common, group
            if any(kinds[member] not in _WHOLE for member in group):
                self.floats |= group

    def _follows(self, node: NodeProto) -> bool:
        """I4."""
        given = self.view.varying(node)
        light = node.op_type in _AFFINE or node.op_type in FUSED
        if not light or len(given) != 1 or name_of(node) in self.biases:
            return False
        maker = self._maker(given[0])
        return maker is not None and name_of(maker) in self.floats

    def _maker(self, tensor: str) -> NodeProto | None:
        """Return what computes a tensor, before it is moved."""
        maker = self.view.made.get(tensor)
        while maker is not None and maker.op_type in MOVES:
            maker = self.view.made.get(maker.input[0])
        return maker

    def _serves(self, node: NodeProto) -> bool:
        """I5."""
        if node.op_type in LAYERS or node.op_type in MOVES or name_of(node) in self.biases:
            return False
        if node.op_type in FUSED:
            maker = self._maker(node.input[0])
            if maker is None or maker.op_type in LAYERS or name_of(maker) in self.biases:
                return False
        readers = {name_of(r) for name in node.output for r in self._readers(name)}
        ends = {value.name for value in self.view.proto.graph.output}
        return bool(readers) and readers <= self.floats and not ends.intersection(node.output)

    def _readers(self, tensor: str) -> Iterator[NodeProto]:
        """Yield who computes with a tensor, behind what moves it."""
        for node in self.view.readers[tensor]:
            if node.op_type not in MOVES:
                yield node
            for made in node.output if node.op_type in MOVES else ():
                yield from self._readers(made)


def _back(tensor: str, sources: dict[str, Source]) -> Iterator[Source]:
    """Yield the tensors of which one is a function, itself first, with the nodes between."""
    between: frozenset[str] = frozenset()
    yield tensor, between
    while tensor in sources:
        tensor, more = sources[tensor]
        between |= more
        yield tensor, between
