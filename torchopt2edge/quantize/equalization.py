"""Even out the channels of a float ONNX before it is quantized: cross-layer equalization.

Between two layers a channel may be divided by a positive number and multiplied by it again: what
lies between (ReLU, LeakyReLU, PReLU, pooling, zero padding, per-channel Mul and Add) passes a
positive factor on, and the outputs stay the same up to rounding. Channels of similar range then
lose less by sharing one scale per tensor (Nagel et al. 2019, "Data-free quantization through
weight equalization and bias correction", section 4.1).

E1. A layer's output channels may be scaled when all that reads them leads, over such nodes only, to
    layers with constant weights. Several readers are scaled together.
E2. A ReLU6 does not pass a factor on: what it bounds at 6 would have to be bounded at 6 / s per
    channel, and no runtime has a fused kernel for that. Such pairs stay as they are.
E3. Without samples: s = sqrt(r1 / r2) with the largest weight of each channel on either side,
    repeated until nothing changes. A bias counts as a weight: where a channel has hardly more than
    a bias, its activation would be blown up with it (the paper absorbs biases for that).
E4. With samples: of all s = a^p / r2^q, with the channel's largest activation a, its largest weight
    r2 relative to that of the output channel, and p, q in quarters from 0 to 1, the one with the
    least expected noise at the readers. A step of the activations is 1/255 of the largest a / s,
    and a step of the weights 1/127 of the output channel's largest, since both runtimes have a
    scale for each of those; the errors are taken as uniform and independent. With p = q = 0 a pair
    stays as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.quantize.graph.activations import batch_size_of
from torchopt2edge.quantize.graph.canonicalize import drop_unused
from torchopt2edge.quantize.graph.fold_affine import add_weight, per_channel
from torchopt2edge.quantize.graph.host_session import host_session
from torchopt2edge.quantize.graph.index import GraphIndex, attributes_of
from torchopt2edge.quantize.graph.macs import Shape, shapes_of
from torchopt2edge.quantize.graph.op_types import Trait, having
from torchopt2edge.quantize.layer_channels import Layer, constant_layers
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.types import Facts

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Array = np.ndarray[Any, Any]
HOMOGENEOUS = having(Trait.HOMOGENEOUS)
ROUNDS = 50
UNCHANGED = 1e-3
# No channel counts as less than this share of the largest one: a dead one would be blown up.
FLOOR = 1e-4
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
LARGEST, SQUARE = "/largest", "/square"


@dataclass(frozen=True)
class Pair:
    """A layer, the layers that read it, and what lies between.

    Attributes:
        first: the layer whose output channels are scaled.
        readers: the layers whose input channels are scaled back.
        tensors: the tensors that the readers read.
        shifts: the constants [channels] that Add nodes between add, by the Add's output.
    """

    first: Layer
    readers: tuple[Layer, ...]
    tensors: tuple[str, ...]
    shifts: Mapping[str, Array]

    def scale(self, factors: Array) -> None:
        """Divide the channels between the layers by the factors."""
        self.first.scale("output", 1 / factors)
        for shift in self.shifts.values():
            shift /= factors
        for reader in self.readers:
            reader.scale("input", factors)

    def even_factors(self) -> Array:
        """E3; 1 where a side is all zero."""
        ours = self.first.peaks("output")
        if self.first.bias is not None:
            ours = np.maximum(ours, np.abs(self.first.bias))
        theirs = np.max([reader.peaks("input") for reader in self.readers], axis=0)
        alive = (ours > 0) & (theirs > 0)
        return np.where(alive, np.sqrt(_floored(ours) / _floored(theirs)), 1)

    def least_noise_factors(self, stats: ChannelStats) -> Array:
        """E4; 1 where a side is all zero."""
        products = [reader.products() for reader in self.readers]
        theirs = np.max([largest.max(1).ravel() for largest, _, _ in products], axis=0)
        alive = (stats.largest > 0) & (theirs > 0)
        ours, theirs = _floored(stats.largest), _floored(theirs)
        candidates = [
            np.where(alive, ours**p / theirs**q, 1.0) for p, q in itertools.product(POWERS, POWERS)
        ]
        return min(candidates, key=lambda s: sum(_noise(*parts, s, stats) for parts in products))


@dataclass(frozen=True)
class ChannelStats:
    """The activation of each channel on the samples: its largest |value| and its mean square."""

    largest: Array
    power: Array


def _floored(values: Array) -> Array:
    """Raise small values to a share of the largest one; 1 for all when all are 0."""
    top = float(values.max())
    return np.maximum(values, FLOOR * top) if top > 0 else np.ones_like(values)


def _noise(largest: Array, squares: Array, taps: int, factors: Array, stats: ChannelStats) -> float:
    """Return the expected squared error at a reader's outputs, up to a common factor."""
    groups, _, inputs = largest.shape
    scale = factors.reshape(groups, 1, inputs)
    activation_step = float((stats.largest / factors).max()) / 255
    weight_step = (largest * scale).max(2) / 127
    power = (stats.power / factors**2).reshape(groups, 1, inputs).sum(2)
    of_activations = activation_step**2 * (squares * scale**2).sum()
    return float(of_activations + (weight_step**2 * power).sum() * taps)


def equalize(proto: ModelProto, samples: Samples | None = None) -> tuple[ModelProto, Facts]:
    """Return a copy of a float graph with evened-out channels.

    Args:
        proto: the shared graph of `prepare`.
        samples: calibration samples, for rule E4; without them E3 applies.

    Returns:
        The graph, and facts: ``pairs``, how many layers were evened out with their readers, and
        ``largest_scale``, the largest factor of any channel, in either direction.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    index = GraphIndex.of(copy)
    pairs = list(_pairs(index, constant_layers(index), shapes_of(copy)))
    stats = None if samples is None else _channel_stats(copy, pairs, samples)
    largest = _even_out(pairs, stats)
    for pair in pairs:
        for name, shift in pair.shifts.items():
            _set_shift(index, index.producers[name], shift)
    changed = {layer.node.output[0]: layer for p in pairs for layer in (p.first, *p.readers)}
    for layer in changed.values():
        layer.node.input[1] = add_weight(copy.graph, layer.node.input[1], layer.weight)
        if layer.bias is not None:
            layer.node.input[2] = add_weight(copy.graph, layer.node.input[2], layer.bias)
    drop_unused(copy.graph)
    return copy, {"pairs": len(pairs), "largest_scale": round(largest, 2)}


def _even_out(pairs: list[Pair], stats: Mapping[str, ChannelStats] | None) -> float:
    """Scale the pairs; return the largest factor of any channel, in either direction.

    What E3 does to a pair changes the next, so it is repeated until nothing changes. E4 depends on
    nothing that another pair changes.
    """
    total = {pair.first.node.output[0]: np.ones(1) for pair in pairs}
    for _ in range(ROUNDS if stats is None else 1):
        change = 0.0
        for pair in pairs:
            name = pair.first.node.output[0]
            if stats is None:
                factors = pair.even_factors()
            else:
                factors = pair.least_noise_factors(stats[name])
            pair.scale(factors)
            total[name] = total[name] * factors
            change = max(change, float(np.abs(np.log(factors)).max()))
        if change < UNCHANGED:
            break
    return max((float(np.exp(np.abs(np.log(t)).max())) for t in total.values()), default=1.0)


def _pairs(
    index: GraphIndex, layers: Mapping[str, Layer], shapes: Mapping[str, Shape]
) -> Iterator[Pair]:
    """E1: follow each layer's output to the layers that read it."""
    for first in layers.values():
        pair = _pair(index, first, layers, shapes)
        if pair is not None:
            yield pair


def _pair(
    index: GraphIndex, first: Layer, layers: Mapping[str, Layer], shapes: Mapping[str, Shape]
) -> Pair | None:
    """Return a layer with its readers; None where a factor could not be passed on to all."""
    readers: list[Layer] = []
    tensors: list[str] = []
    shifts: dict[str, Array] = {}
    ahead = [first.node.output[0]]
    while ahead:
        tensor = ahead.pop()
        nodes = index.consumers[tensor]
        if not nodes or index.uses[tensor] != len(nodes):
            return None  # it is an output, or a subgraph reads it
        ends = [node for node in nodes if node.output[0] in layers and node.input[0] == tensor]
        readers += [layers[node.output[0]] for node in ends]
        tensors += [tensor] if ends else []
        for node in nodes:
            if node in ends:
                continue
            shift = _shift(index, node, first.peaks("output").size, shapes)
            if shift is None and not _passes_factors(index, node, shapes):
                return None
            ahead.append(node.output[0])
            shifts.update({} if shift is None else {node.output[0]: shift})
    return Pair(first, tuple(readers), tuple(tensors), shifts)


def _passes_factors(index: GraphIndex, node: NodeProto, shapes: Mapping[str, Shape]) -> bool:
    """Tell whether a node passes a positive factor per channel from its input to its output."""
    if any(node.output[1:]) or len(index.varying(node)) != 1 or node.input[0] in index.constants:
        return False
    source, target = shapes.get(node.input[0], ()), shapes.get(node.output[0])
    if node.op_type == "Flatten":
        return target == source[:2] and all(size == 1 for size in source[2:])
    if node.op_type == "Mul":
        return target == source
    if node.op_type == "Clip":
        low, *high = [index.array(name) for name in node.input[1:]] or [None]
        return low is not None and float(low) == 0.0 and all(value is None for value in high)
    if node.op_type == "Pad":
        return _pads_with_zeros(index, node)
    return node.op_type in HOMOGENEOUS


def _pads_with_zeros(index: GraphIndex, node: NodeProto) -> bool:
    """Tell whether a Pad adds zeros, and neither samples nor channels."""
    mode = attributes_of(node).get("mode", b"constant")
    pads, *rest = (index.array(name) for name in node.input[1:])
    zero = all(value is not None and not value.any() for value in rest)
    if mode != b"constant" or not zero or pads is None:
        return False
    half = len(pads) // 2
    return not any(pads[[0, 1, half, half + 1]])


def _shift(
    index: GraphIndex, node: NodeProto, channels: int, shapes: Mapping[str, Shape]
) -> Array | None:
    """Return what an Add node adds to each channel, None for any other node."""
    varying = index.varying(node)
    if node.op_type != "Add" or len(varying) != 1:
        return None
    value = next(v for name in node.input if (v := index.array(name)) is not None)
    rank = len(shapes.get(varying[0], ()))
    if not per_channel(value, rank) or value.size != channels:
        return None
    return np.array(value, np.float64).ravel()


def _set_shift(index: GraphIndex, node: NodeProto, shift: Array) -> None:
    """Give an Add node a new constant."""
    place = next(i for i, name in enumerate(node.input) if name in index.constants)
    shape = index.constants[node.input[place]].dims
    node.input[place] = add_weight(index.proto.graph, node.input[place], shift.reshape(shape))


def _channel_stats(
    proto: ModelProto, pairs: list[Pair], samples: Samples
) -> dict[str, ChannelStats]:
    """Measure the channels between the layers of each pair over all samples."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    shapes = shapes_of(proto)
    for name in {tensor for pair in pairs for tensor in pair.tensors}:
        _add_statistics(copy.graph, name, spatial=len(shapes[name]) > 2)
    if not pairs:
        return {}
    session = host_session(copy)
    names = [value.name for value in copy.graph.output]
    largest: dict[str, Array] = {}
    squares: dict[str, Array] = {}
    count = 0
    for batch in samples.feeds(batch_size_of(proto)):
        values = dict(zip(names, session.run(names, batch), strict=True))
        count += len(next(iter(batch.values())))
        for name, value in values.items():
            rows = value.reshape(len(value), -1).astype(np.float64)
            if name.endswith(LARGEST):
                largest[name] = np.maximum(largest.get(name, 0.0), rows.max(0))
            else:
                squares[name] = squares.get(name, 0.0) + rows.sum(0)
    return {
        pair.first.node.output[0]: ChannelStats(
            np.max([largest[f"{name}{LARGEST}"] for name in pair.tensors], axis=0),
            np.max([squares[f"{name}{SQUARE}"] for name in pair.tensors], axis=0) / max(1, count),
        )
        for pair in pairs
    }


def _add_statistics(graph: GraphProto, name: str, *, spatial: bool) -> None:
    """Add outputs for the largest |value| and the mean square of each channel of a tensor."""
    from onnx import TensorProto, helper

    rows = (("Abs", 1, "GlobalMaxPool", LARGEST), ("Mul", 2, "GlobalAveragePool", SQUARE))
    for op_type, operands, pooling, suffix in rows:
        result = f"{name}{suffix}"
        inner = f"{result}/each" if spatial else result
        graph.node.append(helper.make_node(op_type, [name] * operands, [inner]))
        if spatial:
            graph.node.append(helper.make_node(pooling, [inner], [result]))
        graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, None))
