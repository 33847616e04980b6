"""Find what in a float graph will cost accuracy or speed in int8, and what to do about it.

Nothing here changes the graph. A rule that applies to several nodes makes one finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from torchopt2edge.quantize.graph.index import GraphIndex
from torchopt2edge.quantize.graph.op_types import Trait, having, name_of
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

NAMED = 3
# One scale for ranges this many times apart leaves the narrow one five of its eight bits.
CONCAT_RATIO = 8.0
# One scale for channels this many times apart leaves the narrow one fewer than four steps.
CHANNEL_RATIO = 32.0
ACTIVATIONS = having(Trait.ACTIVATION)

Places = Iterator[tuple[str, float]]
"""Names of nodes (or of inputs and outputs), each with how bad it is there."""


@dataclass(frozen=True)
class Lint:
    """One finding.

    Attributes:
        rule: the rule's name.
        nodes: up to three of the ``count`` names that it applies to, the worst first.
        count: how many nodes (or inputs, outputs) it applies to.
        says: what the problem is.
        hint: what to do about it.
    """

    rule: str
    nodes: tuple[str, ...]
    count: int
    says: str
    hint: str


@dataclass(frozen=True)
class Rule:
    """How a finding is made; ``says`` may hold ``{size}``, the number of the worst place."""

    name: str
    find: Callable[[GraphIndex, Ranges | None], Places]
    says: str
    hint: str


def lint(proto: ModelProto, ranges: Ranges | None = None) -> list[Lint]:
    """Return the findings of every rule.

    Args:
        proto: a float graph.
        ranges: its activation ranges; without them the rules on ranges find nothing.
    """
    index = GraphIndex.of(proto)
    findings = []
    for rule in RULES:
        places = sorted(rule.find(index, ranges), key=lambda place: -place[1])
        if places:
            names = tuple(name for name, _ in places)
            says = rule.says.format(size=f"{places[0][1]:.0f}")
            findings.append(Lint(rule.name, names[:NAMED], len(names), says, rule.hint))
    return findings


def _op_types(*op_types: str) -> Callable[[GraphIndex, Ranges | None], Places]:
    """Find every node of these types."""

    def find(index: GraphIndex, ranges: Ranges | None) -> Places:
        for node in index.proto.graph.node:
            if node.op_type in op_types:
                yield name_of(node), 0.0

    return find


def _pad_values(index: GraphIndex, ranges: Ranges | None) -> Places:
    """Find constant padding with a value other than zero."""
    for node in index.proto.graph.node:
        if node.op_type != "Pad" or _text(node, "mode", "constant") != "constant":
            continue
        value = index.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if value is not None and value.size and float(value.ravel()[0]) != 0.0:
            pooled = any("Pool" in reader.op_type for reader in index.consumers[node.output[0]])
            yield name_of(node), float(pooled)


def _concat_ranges(index: GraphIndex, ranges: Ranges | None) -> Places:
    """Find concatenations of tensors whose ranges are far apart."""
    bounds = ranges.bounds if ranges else {}
    for node in index.proto.graph.node:
        if node.op_type != "Concat":
            continue
        widths = [max(map(abs, bounds[name])) for name in node.input if name in bounds]
        widths = [width for width in widths if width > 0]
        if len(widths) > 1 and max(widths) >= CONCAT_RATIO * min(widths):
            yield name_of(node), max(widths) / min(widths)


def _late_norms(index: GraphIndex, ranges: Ranges | None) -> Places:
    """Find norms that no layer could take: BatchNormalization, or the Mul and Add it became."""
    for node in index.proto.graph.node:
        if node.op_type == "BatchNormalization":
            if index.producer_type(node.input[0]) in ACTIVATIONS:
                yield name_of(node), 0.0
        elif node.op_type == "Mul" and _per_channel(index, node):
            readers = index.consumers[node.output[0]]
            adds = [reader for reader in readers if reader.op_type == "Add"]
            if len(adds) == len(readers) == 1 and _per_channel(index, adds[0]):
                yield name_of(node), 0.0


def _per_channel(index: GraphIndex, node: NodeProto) -> bool:
    """Tell whether one input is a constant with more than one channel."""
    values = [index.array(name) for name in node.input]
    return len(index.varying(node)) == 1 and any(v is not None and v.size > 1 for v in values)


def _silus(index: GraphIndex, ranges: Ranges | None) -> Places:
    """Find x · sigmoid(x)."""
    for node in index.proto.graph.node:
        if node.op_type != "Mul" or len(node.input) != 2:
            continue
        for gate, value in (node.input, reversed(node.input)):
            if index.producer_type(gate) == "Sigmoid" and index.producers[gate].input[0] == value:
                yield name_of(node), 0.0


def _attention(index: GraphIndex, ranges: Ranges | None) -> Places:
    """Find the parts of transformers: norms over features, products of two activations."""
    for node in index.proto.graph.node:
        inner = node.op_type == "Softmax" and not index.outputs.intersection(node.output)
        product = node.op_type == "MatMul" and len(index.varying(node)) == 2
        if inner or product or node.op_type in ("LayerNormalization", "Attention"):
            yield name_of(node), 0.0


def _free_sizes(index: GraphIndex, ranges: Ranges | None) -> Places:
    """Find inputs with a free dimension besides the batch."""
    for value in index.proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        free = [dim for dim in dims[1:] if not dim.HasField("dim_value")]
        if value.name not in index.constants and free:
            yield value.name, float(len(free))


def _integer_outputs(index: GraphIndex, ranges: Ranges | None) -> Places:
    """Find outputs of 64-bit integers."""
    from onnx import TensorProto

    for value in index.proto.graph.output:
        if value.type.tensor_type.elem_type == TensorProto.INT64:
            yield value.name, 0.0


def _old_opset(index: GraphIndex, ranges: Ranges | None) -> Places:
    """Find an opset that has no scale per channel."""
    for entry in index.proto.opset_import:
        if entry.domain == "" and entry.version < 13:
            yield f"opset {entry.version}", 0.0


def _channel_spread(index: GraphIndex, ranges: Ranges | None) -> Places:
    """Find depthwise convolutions whose channels' weights are far apart.

    (Nagel et al. 2019, figure 2.) The narrow end is the 5th percentile of the channels: a single
    dead channel costs nothing.
    """
    for node in index.proto.graph.node:
        weight = index.array(node.input[1]) if node.op_type == "Conv" else None
        if weight is None or weight.shape[1] != 1 or len(weight) < 2:
            continue
        peaks = np.abs(weight.reshape(len(weight), -1)).max(1)
        peaks = peaks[peaks > 0]
        ratio = float(peaks.max() / np.percentile(peaks, 5)) if peaks.size else 1.0
        if ratio >= CHANNEL_RATIO:
            yield name_of(node), ratio


def _never_active(index: GraphIndex, ranges: Ranges | None) -> Places:
    """Find tensors that were the same number on every calibration sample."""
    bounds = ranges.bounds if ranges else {}
    for node in index.proto.graph.node:
        for name in node.output:
            if name in bounds and bounds[name][0] == bounds[name][1]:
                yield name_of(node), 0.0


def _text(node: NodeProto, name: str, default: str) -> str:
    return next((a.s.decode() for a in node.attribute if a.name == name), default)


RULES = (
    Rule(
        "pad-value",
        _pad_values,
        "A constant padding with a value other than 0 widens the range of what is padded, and "
        "the steps between the real values grow with it.",
        "Pad with 0, or give a pooling its padding as an argument instead of a layer before it.",
    ),
    Rule(
        "concat-ranges",
        _concat_ranges,
        "A concatenation has one scale for all its inputs, and here the widest input's range is "
        "{size} times the narrowest one's, which loses that much resolution.",
        "Try quantize.equalize, or leave the concatenation and the layers before it in float.",
    ),
    Rule(
        "late-norm",
        _late_norms,
        "A batch norm behind an activation (or before a padded convolution) cannot be folded: it "
        "runs as a Mul and an Add of its own, and each rounds to 8 bits.",
        "Put the norm between the convolution and the activation and fine-tune, or leave these "
        "nodes in float.",
    ),
    Rule(
        "silu",
        _silus,
        "A SiLU is a Sigmoid and a Mul in int8, and its small negative values share their steps "
        "with a wide positive range.",
        "Take observer=mse or percentile; if that is not enough, fine-tune with ReLU6 or "
        "train with quantization (QAT).",
    ),
    Rule(
        "hard-swish",
        _op_types("HardSwish", "HardSigmoid"),
        "HardSwish and HardSigmoid have no integer kernels in ONNX Runtime or in XNNPACK: they "
        "stay in float, with a conversion before and behind each.",
        "For speed in int8 use ReLU or ReLU6 in their place and fine-tune.",
    ),
    Rule(
        "leaky-relu",
        _op_types("PRelu", "LeakyRelu"),
        "PReLU and LeakyReLU stay in float in LiteRT (PReLU in ONNX Runtime too), and each "
        "splits the integer part of the graph.",
        "For speed in int8 use ReLU in their place and fine-tune.",
    ),
    Rule(
        "smooth-activation",
        _op_types("Elu", "Selu", "Celu", "Gelu", "Erf", "Mish", "Softplus", "Softsign"),
        "ELU, GELU, Mish and similar functions stay in float in both runtimes, each as a whole.",
        "For speed in int8 use ReLU in their place and fine-tune.",
    ),
    Rule(
        "attention",
        _attention,
        "Layer norms, softmaxes and products of two activations stay in float in both runtimes, "
        "and so does what only they read. Only the layers with weights are on integers, with a "
        "conversion before and behind each.",
        "Compare its latency with that of fp32 and int8_dynamic before shipping static int8.",
    ),
    Rule(
        "channel-spread",
        _channel_spread,
        "The widest channel of a depthwise convolution has weights {size} times as large as the "
        "narrow channels: one scale for the whole tensor would leave those hardly a step.",
        "Keep the scales per channel (the default here), or use quantize.equalize before a tool "
        "that has one scale per tensor.",
    ),
    Rule(
        "never-active",
        _never_active,
        "A tensor had the same value on all calibration samples, so its range says nothing about "
        "other inputs.",
        "Calibrate on more varied samples; if it stays so, that part of the net can be pruned.",
    ),
    Rule(
        "free-size",
        _free_sizes,
        "An input has a free dimension besides the batch, which LiteRT's converter does not take.",
        "Export with a fixed input size.",
    ),
    Rule(
        "integer-output",
        _integer_outputs,
        "An output is int64: where it is an arg-max, one rounding in int8 can flip it, and no "
        "error measure on it says by how much.",
        "Return the scores and take the arg-max outside the net.",
    ),
    Rule(
        "old-opset",
        _old_opset,
        "An opset before 13 has no scale per channel.",
        "Export in opset 18; here the graph is brought to 13 first.",
    ),
)
