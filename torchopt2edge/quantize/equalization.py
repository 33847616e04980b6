"""Even out the channels of a float ONNX before it is quantized: cross-layer equalization.

Between two layers a channel may be divided by a positive number and multiplied by it again: what
lies between (ReLU, LeakyReLU, PReLU, pooling, zero padding, per-channel Mul and Add) passes a
positive factor on, and the outputs stay the same up to rounding. Channels of like range then
share one scale per tensor with less loss (Nagel et al. 2019, "Data-free quantization through
weight equalization and bias correction", section 4.1).

E1. A layer's output channels may be scaled when whatever reads them leads, over such nodes only,
    to layers with constant weights. Several readers are scaled together.
E2. A ReLU6 does not pass a factor on: what it bounds at 6 would have to be bounded at 6 / s per
    channel, for which no runtime has a fused kernel. Such pairs stay as they are.
E3. Without samples: s = sqrt(r1 / r2) with the largest weight of each channel on either side,
    repeated until nothing moves. A bias counts as a weight: where a channel has hardly more than
    a bias, its activation would be blown up with it (the paper absorbs biases for that).
E4. With samples: of all s = a^p / r2^q, with the channel's largest activation a, its largest
    weight r2 relative to that of the output channel, and p, q in quarters from 0 to 1, the one
    with the least expected noise at the readers. A step of the activations is 1/255 of the
    largest a / s, and a step of the weights 1/127 of the output channel's largest, since both
    runtimes have a scale for each of those; the errors are taken as even and independent. With
    p = q = 0 a pair stays as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.quantize.graph.activations import batch_of
from torchopt2edge.quantize.graph.canonicalize import drop_unused, uses
from torchopt2edge.quantize.graph.fold_affine import add_constant, per_channel
from torchopt2edge.quantize.graph.host_session import host_session
from torchopt2edge.quantize.graph.index import View
from torchopt2edge.quantize.graph.macs import Shape, shapes_of
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.types import Facts

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Array = np.ndarray[Any, Any]
LAYERS = ("Conv", "ConvTranspose", "Gemm")
PASSING = (
    "Relu LeakyRelu PRelu MaxPool AveragePool GlobalAveragePool GlobalMaxPool Identity".split()
)
ROUNDS = 50
STILL = 1e-3
# No channel counts as less than this part of the largest one: a dead one would be blown up.
FLOOR = 1e-4
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
LARGEST, SQUARE = "/largest", "/square"


@dataclass(frozen=True)
class Layer:
    """The constants of one layer, float64, scaled in place."""

    node: NodeProto
    weight: Array
    bias: Array | None

    def peaks(self, side: str) -> Array:
        """Return the largest weight of each input or output channel."""
        view, axes = self._split(side)
        others = tuple(axis for axis in range(view.ndim) if axis not in axes)
        return np.asarray(np.abs(view).max(others).ravel())

    def products(self) -> tuple[Array, Array, int]:
        """Return the largest and the squared weights between each two channels, and the taps.

        Both [groups, outputs, inputs], relative to the largest weight of the output channel, the
        squares summed over the taps of the kernel.
        """
        view, axes = self._split("in")
        if self.node.op_type == "Gemm":
            block = (view if axes == (1,) else view.T)[None, :, :, None]
        elif self.node.op_type == "Conv":
            block = view
        else:
            view, _ = self._split("out")
            block = view.swapaxes(1, 2)
        largest = np.abs(block).max((2, 3), keepdims=True)
        block = np.abs(block) / np.where(largest > 0, largest, 1)
        return block.max(3), np.square(block).sum(3), block.shape[3]

    def scale(self, side: str, factors: Array) -> None:
        """Multiply the weights of each channel by its factor; the bias with the outputs."""
        view, axes = self._split(side)
        view *= factors.reshape([n if axis in axes else 1 for axis, n in enumerate(view.shape)])
        if side == "out" and self.bias is not None:
            self.bias[:] *= factors

    def _split(self, side: str) -> tuple[Array, tuple[int, ...]]:
        """Return the weights in a shape where the channels of one side are axes of their own."""
        given = {attribute.name: attribute.i for attribute in self.node.attribute}
        if self.node.op_type == "Gemm":
            return self.weight, (int((side == "in") == bool(given.get("transB"))),)
        if (self.node.op_type == "Conv") == (side == "out"):
            return self.weight.reshape(len(self.weight), -1), (0,)
        group, (first, second) = given.get("group", 1), self.weight.shape[:2]
        return self.weight.reshape(group, first // group, second, -1), (0, 2)


@dataclass(frozen=True)
class Pair:
    """A layer, the layers that read it, and what lies between.

    ``tensors`` are those that the readers read; ``shifts`` the constants [channels] that Add
    nodes add on the way, by the name of their output.
    """

    first: Layer
    readers: tuple[Layer, ...]
    tensors: tuple[str, ...]
    shifts: Mapping[str, Array]

    def scale(self, factors: Array) -> None:
        """Divide the channels between the layers by the factors."""
        self.first.scale("out", 1 / factors)
        for shift in self.shifts.values():
            shift /= factors
        for reader in self.readers:
            reader.scale("in", factors)

    def factors(self) -> Array:
        """E3: 1 where a side is all zero."""
        ours = self.first.peaks("out")
        if self.first.bias is not None:
            ours = np.maximum(ours, np.abs(self.first.bias))
        theirs = np.max([reader.peaks("in") for reader in self.readers], axis=0)
        return np.where((ours > 0) & (theirs > 0), np.sqrt(_floored(ours) / _floored(theirs)), 1)

    def quietest(self, seen: Seen) -> Array:
        """E4: 1 where a side is all zero."""
        known = [reader.products() for reader in self.readers]
        theirs = np.max([largest.max(1).ravel() for largest, _, _ in known], axis=0)
        alive = (seen.largest > 0) & (theirs > 0)
        ours, theirs = _floored(seen.largest), _floored(theirs)
        found = [
            np.where(alive, ours**p / theirs**q, 1.0) for p, q in itertools.product(POWERS, POWERS)
        ]
        return min(found, key=lambda s: sum(_noise(*one, s, seen) for one in known))


@dataclass(frozen=True)
class Seen:
    """What a channel's activation was on the samples: its largest size and its mean square."""

    largest: Array
    power: Array


def _floored(values: Array) -> Array:
    """Let no channel count as hardly anything; 1 for all when there is nothing at all."""
    top = float(values.max())
    return np.maximum(values, FLOOR * top) if top > 0 else np.ones_like(values)


def _noise(largest: Array, squares: Array, taps: int, factors: Array, seen: Seen) -> float:
    """Return the expected squared error at a reader's outputs, up to a common factor."""
    group, _, each = largest.shape
    scale = factors.reshape(group, 1, each)
    step = float((seen.largest / factors).max()) / 255
    grain = (largest * scale).max(2) / 127
    power = (seen.power / factors**2).reshape(group, 1, each).sum(2)
    return float(step**2 * (squares * scale**2).sum() + (grain**2 * power).sum() * taps)


def equalize(graph: Path, out: Path, samples: Samples | None = None) -> Facts:
    """Write the float ONNX ``graph`` with evened-out channels to the file ``out``.

    ``graph`` is the shared graph of `prepare`. Facts: ``pairs``, how many layers were evened out
    with their readers, and ``largest_scale``, the largest factor of any channel, either way.
    """
    import onnx

    proto = onnx.load(graph)
    view = View.of(proto)
    layers = _layers(view)
    pairs = list(_pairs(view, layers, shapes_of(proto)))
    largest = _even_out(pairs, None if samples is None else _seen(proto, pairs, samples))
    for pair in pairs:
        for name, shift in pair.shifts.items():
            _put(proto, view, view.made[name], shift)
    changed = {layer.node.output[0]: layer for p in pairs for layer in (p.first, *p.readers)}
    for layer in changed.values():
        layer.node.input[1] = add_constant(proto.graph, layer.node.input[1], layer.weight)
        if layer.bias is not None:
            layer.node.input[2] = add_constant(proto.graph, layer.node.input[2], layer.bias)
    drop_unused(proto.graph)
    onnx.save(proto, out)
    return {"pairs": len(pairs), "largest_scale": round(largest, 2)}


def _even_out(pairs: list[Pair], seen: Mapping[str, Seen] | None) -> float:
    """Scale the pairs; return the largest factor of any channel, either way.

    What E3 does to a pair moves the next, so it goes round until nothing moves; E4 looks at what
    no other pair changes.
    """
    total = {pair.first.node.output[0]: np.ones(1) for pair in pairs}
    for _ in range(ROUNDS if seen is None else 1):
        moved = 0.0
        for pair in pairs:
            name = pair.first.node.output[0]
            factors = pair.factors() if seen is None else pair.quietest(seen[name])
            pair.scale(factors)
            total[name] = total[name] * factors
            moved = max(moved, float(np.abs(np.log(factors)).max()))
        if moved < STILL:
            break
    return max((float(np.exp(np.abs(np.log(t)).max())) for t in total.values()), default=1.0)


def _layers(view: View) -> dict[str, Layer]:
    """Read the layers with constant weights, by output."""
    found = {}
    for node in view.proto.graph.node:
        if node.op_type not in LAYERS or any(a.name == "transA" and a.i for a in node.attribute):
            continue
        weight = view.array(node.input[1])
        bias = view.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if weight is None or (len(node.input) > 2 and node.input[2] and bias is None):
            continue
        layer = Layer(node, np.array(weight, np.float64), None)
        if bias is not None:
            if bias.size != layer.peaks("out").size:
                continue
            layer = Layer(node, layer.weight, np.array(bias, np.float64).ravel())
        found[node.output[0]] = layer
    return found


def _pairs(view: View, layers: Mapping[str, Layer], shapes: Mapping[str, Shape]) -> Iterator[Pair]:
    """E1: follow each layer's output to the layers that read it."""
    count = uses(view.proto.graph)
    for name, first in layers.items():
        readers: list[Layer] = []
        tensors: list[str] = []
        shifts: dict[str, Array] = {}
        ahead: list[str] | None = [name]
        while ahead:
            tensor = ahead.pop()
            nodes = view.readers.get(tensor, ())
            ends = [node for node in nodes if _reads(node, tensor, layers)]
            steps = [
                _step(view, node, first.peaks("out").size, shapes)
                for node in nodes
                if node not in ends
            ]
            if not nodes or count[tensor] != len(nodes) or None in steps:
                ahead = None  # it is given out, a subgraph reads it, or it meets other channels
                break
            readers += [layers[node.output[0]] for node in ends]
            tensors += [tensor] if ends else []
            for made, shift in filter(None, steps):
                ahead.append(made)
                shifts.update({made: shift} if shift is not None else {})
        if ahead is not None:
            yield Pair(first, tuple(readers), tuple(tensors), shifts)


def _reads(node: NodeProto, tensor: str, layers: Mapping[str, Layer]) -> bool:
    return node.output[0] in layers and node.input[0] == tensor


def _step(
    view: View, node: NodeProto, channels: int, shapes: Mapping[str, Shape]
) -> tuple[str, Array | None] | None:
    """Return the output of a node that passes a factor on, with what it adds to each channel."""
    if _passes(view, node, shapes):
        return node.output[0], None
    shift = _shift(view, node, channels, shapes)
    return None if shift is None else (node.output[0], shift)


def _passes(view: View, node: NodeProto, shapes: Mapping[str, Shape]) -> bool:
    """Whether a node, its channels scaled by positive factors, gives out the same scaled."""
    if any(node.output[1:]) or len(view.varying(node)) != 1 or node.input[0] in view.constants:
        return False
    given, made = shapes.get(node.input[0], ()), shapes.get(node.output[0])
    if node.op_type == "Flatten":
        return made == given[:2] and all(size == 1 for size in given[2:])
    if node.op_type == "Mul":
        return made == given
    if node.op_type == "Clip":
        low, *high = [view.array(name) for name in node.input[1:]] or [None]
        return low is not None and float(low) == 0.0 and all(value is None for value in high)
    if node.op_type == "Pad":
        mode = [a.s for a in node.attribute if a.name == "mode"] or [b"constant"]
        pads, *rest = (view.array(name) for name in node.input[1:])
        zero = all(value is not None and not value.any() for value in rest)
        half = 0 if pads is None else len(pads) // 2
        return (
            mode == [b"constant"]
            and zero
            and pads is not None
            and not any(pads[[0, 1, half, half + 1]])
        )
    return node.op_type in PASSING


def _shift(view: View, node: NodeProto, channels: int, shapes: Mapping[str, Shape]) -> Array | None:
    """Return what an Add node adds to each channel; None when it is no such node."""
    varying = view.varying(node)
    if node.op_type != "Add" or len(varying) != 1:
        return None
    value = next(v for name in node.input if (v := view.array(name)) is not None)
    rank = len(shapes.get(varying[0], ()))
    if not per_channel(value, rank) or value.size != channels:
        return None
    return np.array(value, np.float64).ravel()


def _put(proto: ModelProto, view: View, node: NodeProto, shift: Array) -> None:
    """Give an Add node its new constant."""
    index = next(i for i, name in enumerate(node.input) if name in view.constants)
    shape = view.constants[node.input[index]].dims
    node.input[index] = add_constant(proto.graph, node.input[index], shift.reshape(shape))


def _seen(proto: ModelProto, pairs: list[Pair], samples: Samples) -> dict[str, Seen]:
    """Measure the channels between the layers of each pair, over all samples."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    shapes = shapes_of(proto)
    for name in {tensor for pair in pairs for tensor in pair.tensors}:
        _measure(copy.graph, name, len(shapes[name]) > 2)
    if not pairs:
        return {}
    session = host_session(copy)
    names = [value.name for value in copy.graph.output]
    largest: dict[str, Array] = {}
    squares: dict[str, Array] = {}
    count = 0
    for batch in samples.batches(batch_of(proto)):
        found = dict(zip(names, session.run(names, batch), strict=True))
        count += len(next(iter(batch.values())))
        for name, value in found.items():
            rows = value.reshape(len(value), -1).astype(np.float64)
            if name.endswith(LARGEST):
                largest[name] = np.maximum(largest.get(name, 0.0), rows.max(0))
            else:
                squares[name] = squares.get(name, 0.0) + rows.sum(0)
    return {
        pair.first.node.output[0]: Seen(
            np.max([largest[f"{name}{LARGEST}"] for name in pair.tensors], axis=0),
            np.max([squares[f"{name}{SQUARE}"] for name in pair.tensors], axis=0) / max(1, count),
        )
        for pair in pairs
    }


def _measure(graph: GraphProto, name: str, spatial: bool) -> None:
    """Have a graph give out the largest size and the mean square of each channel of a tensor."""
    from onnx import TensorProto, helper

    kinds = (("Abs", 1, "GlobalMaxPool", LARGEST), ("Mul", 2, "GlobalAveragePool", SQUARE))
    for kind, count, pool, suffix in kinds:
        made = f"{name}{suffix}"
        inner = f"{made}/each" if spatial else made
        graph.node.append(helper.make_node(kind, [name] * count, [inner]))
        if spatial:
            graph.node.append(helper.make_node(pool, [inner], [made]))
        graph.output.append(helper.make_tensor_value_info(made, TensorProto.FLOAT, None))
