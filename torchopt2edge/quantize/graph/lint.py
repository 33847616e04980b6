"""Say what in a float graph will cost accuracy or speed in int8, and what to do about it.

Nothing here changes the graph. A rule that fits several nodes is one finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from torchopt2edge.quantize.graph.index import View
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    from onnx import NodeProto

NAMED = 3
# One scale for ranges this many times apart leaves the narrow one five of its eight bits.
CONCAT_RATIO = 8.0
# One scale for channels this many times apart leaves the narrow one fewer than four steps.
CHANNEL_RATIO = 32.0
RELUS = ("Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Sigmoid", "Elu")

Found = Iterator[tuple[str, float]]
"""Names of nodes (or of inputs and outputs), each with how bad it is there."""


@dataclass(frozen=True)
class Lint:
    """One finding: where (up to three of ``count`` names, the worst first), what, the advice."""

    rule: str
    nodes: tuple[str, ...]
    count: int
    says: str
    hint: str


@dataclass(frozen=True)
class Rule:
    """How a finding is made; ``says`` may hold ``{size}``, how bad the worst place is."""

    name: str
    find: Callable[[View, Ranges | None], Found]
    says: str
    hint: str


def lint(graph: Path, ranges: Ranges | None = None) -> list[Lint]:
    """Return the findings of every rule on a float ONNX; with ranges, those on ranges too."""
    import onnx

    view = View.of(onnx.load(graph))
    found = []
    for rule in RULES:
        places = sorted(rule.find(view, ranges), key=lambda place: -place[1])
        if places:
            names = tuple(name for name, _ in places)
            says = rule.says.format(size=f"{places[0][1]:.0f}")
            found.append(Lint(rule.name, names[:NAMED], len(names), says, rule.hint))
    return found


def _kinds(*kinds: str) -> Callable[[View, Ranges | None], Found]:
    """Find every node of these kinds."""

    def find(view: View, ranges: Ranges | None) -> Found:
        for node in view.proto.graph.node:
            if node.op_type in kinds:
                yield _name(node), 0.0

    return find


def _pad_values(view: View, ranges: Ranges | None) -> Found:
    """Constant padding with something else than zero."""
    for node in view.proto.graph.node:
        if node.op_type != "Pad" or _text(node, "mode", "constant") != "constant":
            continue
        value = view.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if value is not None and value.size and float(value.ravel()[0]) != 0.0:
            pooled = any("Pool" in reader.op_type for reader in view.readers[node.output[0]])
            yield _name(node), float(pooled)


def _concat_ranges(view: View, ranges: Ranges | None) -> Found:
    """Concatenations of ranges that are far apart."""
    bounds = ranges.bounds if ranges else {}
    for node in view.proto.graph.node:
        if node.op_type != "Concat":
            continue
        widths = [max(map(abs, bounds[name])) for name in node.input if name in bounds]
        widths = [width for width in widths if width > 0]
        if len(widths) > 1 and max(widths) >= CONCAT_RATIO * min(widths):
            yield _name(node), max(widths) / min(widths)


def _late_norms(view: View, ranges: Ranges | None) -> Found:
    """Norms that no layer could take: BatchNormalization, or the Mul and Add it became."""
    for node in view.proto.graph.node:
        if node.op_type == "BatchNormalization" and view.kind(node.input[0]) in RELUS:
            yield _name(node), 0.0
        elif node.op_type == "Mul" and _per_channel(view, node):
            readers = view.readers[node.output[0]]
            if len(readers) == 1 and readers[0].op_type == "Add" and _per_channel(view, readers[0]):
                yield _name(node), 0.0


def _per_channel(view: View, node: NodeProto) -> bool:
    """Whether one input is a constant with more than one channel."""
    values = [view.array(name) for name in node.input]
    return len(view.varying(node)) == 1 and any(v is not None and v.size > 1 for v in values)


def _silus(view: View, ranges: Ranges | None) -> Found:
    """x · sigmoid(x)."""
    for node in view.proto.graph.node:
        if node.op_type != "Mul" or len(node.input) != 2:
            continue
        for gate, value in (node.input, reversed(node.input)):
            if view.kind(gate) == "Sigmoid" and view.made[gate].input[0] == value:
                yield _name(node), 0.0


def _attention(view: View, ranges: Ranges | None) -> Found:
    """What transformers are made of: norms over features, products of two activations."""
    ends = {value.name for value in view.proto.graph.output}
    for node in view.proto.graph.node:
        inner = node.op_type == "Softmax" and not ends.intersection(node.output)
        product = node.op_type == "MatMul" and len(view.varying(node)) == 2
        if inner or product or node.op_type in ("LayerNormalization", "Attention"):
            yield _name(node), 0.0


def _free_sizes(view: View, ranges: Ranges | None) -> Found:
    """Inputs with a free dimension besides the batch."""
    for value in view.proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        free = [dim for dim in dims[1:] if not dim.HasField("dim_value")]
        if value.name not in view.constants and free:
            yield value.name, float(len(free))


def _whole_outputs(view: View, ranges: Ranges | None) -> Found:
    """Outputs of 64-bit integers."""
    from onnx import TensorProto

    for value in view.proto.graph.output:
        if value.type.tensor_type.elem_type == TensorProto.INT64:
            yield value.name, 0.0


def _old_opset(view: View, ranges: Ranges | None) -> Found:
    """An opset that has no scale per channel."""
    for entry in view.proto.opset_import:
        if entry.domain == "" and entry.version < 13:
            yield f"opset {entry.version}", 0.0


def _channel_spread(view: View, ranges: Ranges | None) -> Found:
    """Depthwise convolutions whose channels' weights are far apart (Nagel et al. 2019, figure 2).

    The narrow end is the 5th percentile of the channels: a dead one alone costs nothing.
    """
    for node in view.proto.graph.node:
        weight = view.array(node.input[1]) if node.op_type == "Conv" else None
        if weight is None or weight.shape[1] != 1 or len(weight) < 2:
            continue
        peaks = np.abs(weight.reshape(len(weight), -1)).max(1)
        peaks = peaks[peaks > 0]
        ratio = float(peaks.max() / np.percentile(peaks, 5)) if peaks.size else 1.0
        if ratio >= CHANNEL_RATIO:
            yield _name(node), ratio


def _never_active(view: View, ranges: Ranges | None) -> Found:
    """Tensors that were one and the same number on every calibration sample."""
    bounds = ranges.bounds if ranges else {}
    for node in view.proto.graph.node:
        for name in node.output:
            if name in bounds and bounds[name][0] == bounds[name][1]:
                yield _name(node), 0.0


def _name(node: NodeProto) -> str:
    return node.name or node.output[0]


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
        _kinds("HardSwish", "HardSigmoid"),
        "HardSwish and HardSigmoid have no integer kernels in ONNX Runtime or in XNNPACK: they "
        "stay in float, with a conversion before and behind each.",
        "For speed in int8 use ReLU or ReLU6 in their place and fine-tune.",
    ),
    Rule(
        "leaky-relu",
        _kinds("PRelu", "LeakyRelu"),
        "PReLU and LeakyReLU stay in float in LiteRT (PReLU in ONNX Runtime too), and each "
        "splits the integer part of the graph.",
        "For speed in int8 use ReLU in their place and fine-tune.",
    ),
    Rule(
        "smooth-activation",
        _kinds("Elu", "Selu", "Celu", "Gelu", "Erf", "Mish", "Softplus", "Softsign"),
        "ELU, GELU, Mish and their like stay in float in both runtimes, as one function each.",
        "For speed in int8 use ReLU in their place and fine-tune.",
    ),
    Rule(
        "attention",
        _attention,
        "Layer norms, softmaxes and products of two activations stay in float in both runtimes, "
        "and what they alone read does: only the layers with weights are on integers, with a "
        "conversion before and behind each.",
        "Compare its latency with that of fp32 and int8_dynamic before shipping static int8.",
    ),
    Rule(
        "channel-spread",
        _channel_spread,
        "The widest channel of a depthwise convolution has weights {size} times the narrow "
        "ones': one scale for the whole tensor would leave those hardly a step.",
        "Keep the scales per channel (the default here), or use quantize.equalize before a tool "
        "that has one scale per tensor.",
    ),
    Rule(
        "never-active",
        _never_active,
        "A tensor held one and the same value on all calibration samples, so its range says "
        "nothing about other inputs.",
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
        _whole_outputs,
        "An output is int64: where it is an arg-max, one rounding in int8 can flip it, and no "
        "error measure on it says by how much.",
        "Give out the scores and take the arg-max outside the net.",
    ),
    Rule(
        "old-opset",
        _old_opset,
        "An opset before 13 has no scale per channel.",
        "Export in opset 18; here the graph is brought to 13 first.",
    ),
)
