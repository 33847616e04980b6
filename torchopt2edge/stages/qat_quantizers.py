"""Where a net is quantized in training: the tensors that both runtimes hold as integers.

The rules, cited in the code:

S1. What an arithmetic operation makes is quantized, and so is what it reads.
S2. Inside convolution, batch normalization and activation nothing is: the runtimes fuse them.
S3. What only moves values (a reshape, a slice, a maximum) is on the grid of what it moves.
S4. What goes nowhere but into a concatenation takes the grid of its result.
S5. A sigmoid and a softmax have the grid k/256, which TFLite fixes.
S6. Weights have a scale per output channel, the largest magnitude over 127: the grid that a
    quantizer finds again in the weights alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import (
    FakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)

_TINY = 2.0**-60  # a channel of small weights keeps its grid; a channel of zeros gets this scale
_WEIGHTED = {"conv1d": 0, "conv2d": 0, "conv3d": 0, "linear": 0} | {
    f"conv_transpose{n}d": 1 for n in (1, 2, 3)
}  # name → the weight's axis of output channels
_ACTIVATIONS = {"relu", "relu6", "hardtanh", "clamp", "clamp_min"}
_FIXED = {"sigmoid", "softmax"}
_MIXING = {
    *("add", "sub", "mul", "div", "cat", "mean", "batch_norm", "leaky_relu", "prelu", "tanh"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "hardswish"),
    *("hardsigmoid", "elu", "gelu", "matmul", "bmm", "upsample_bilinear2d"),
}
_SPOTS = {*_WEIGHTED, *_ACTIVATIONS, *_FIXED, *_MIXING}
_MOVING = {
    *("view", "reshape", "flatten", "permute", "transpose", "unsqueeze", "squeeze", "slice"),
    *("select", "chunk", "split", "split_with_sizes", "getitem", "contiguous", "clone", "expand"),
    *("dropout", "pad", "constant_pad_nd", "pixel_shuffle", "channel_shuffle", "max_pool1d"),
    *("max_pool2d", "adaptive_max_pool2d", "upsample_nearest2d", "unbind", "narrow", "alias"),
}


class WeightPerChannel(FakeQuantize):  # type: ignore[misc]
    """Fake quantization of weights on 2·``levels`` + 1 steps, all of them on the grid of S6.

    Below 127 levels the steps are k·127/levels rounded to whole ones: what is trained is what
    an int8 file holds. Straight through for the gradient, as in Jacob et al. 2018.
    """

    def __init__(self, levels: int = 127, **kwargs: Any) -> None:
        super().__init__(
            observer=MovingAveragePerChannelMinMaxObserver.with_args(
                averaging_constant=1.0, eps=_TINY
            ),
            **kwargs,
        )
        self.levels = levels

    def forward(self, X: Tensor) -> Tensor:
        """Weights of any shape → the same shape, on the grid."""
        coarse: Tensor = super().forward(X)
        if self.levels == 127 or not self.fake_quant_enabled[0]:
            return coarse
        shape = [1] * X.ndim
        shape[self.ch_axis] = -1
        step = self.scale.reshape(shape)
        codes = on_int8(torch.round(coarse.detach() / step), self.levels)
        fine: Tensor = codes * (step * self.levels / 127)
        return coarse + (fine - coarse).detach()


def on_int8(codes: Tensor, levels: int) -> Tensor:
    """Whole numbers in -levels … levels → the nearest whole numbers in -127 … 127."""
    return torch.round(codes * (127 / levels))


class Spots(Quantizer):  # type: ignore[misc]
    """Annotates an exported graph by the rules S1 to S6; ``bits`` (2 to 8) are the weights'."""

    def __init__(self, bits: int = 8) -> None:
        levels = 2 ** (bits - 1) - 1
        self._weights = {axis: _weight(axis, levels) for axis in (0, 1)}
        self._values = QuantizationSpec(
            torch.uint8,
            FakeQuantize.with_args(observer=MovingAverageMinMaxObserver),
            quant_min=0,
            quant_max=255,
            qscheme=torch.per_tensor_affine,
        )
        self._share = FixedQParamsQuantizationSpec(
            torch.uint8, 1 / 256, 0, 0, 255, torch.per_tensor_affine
        )

    def annotate(self, model: GraphModule) -> GraphModule:
        """Write ``quantization_annotation`` into the nodes' meta."""
        live = _live(model)
        ends = {_end(node, live) for node in live if name_of(node) in _SPOTS}  # S1, S2
        ends |= {_root(read) for node in ends for read in _reads(node, live)}
        for node in live:
            weighted = _WEIGHTED.get(name_of(node))
            made = self._spec(node) if node in ends and not _only_joined(node) else None
            inputs = {}
            if weighted is not None:
                inputs = {node.args[0]: None, node.args[1]: self._weights[weighted]}
            if made is not None or inputs:
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    inputs, made, allow_implicit_sharing=False, _annotated=True
                )
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to check: what is not named in the rules stays in float."""

    def _spec(self, node: Node) -> QuantizationSpec | FixedQParamsQuantizationSpec:
        return self._share if name_of(node) in _FIXED else self._values  # S5


def _weight(axis: int, levels: int) -> QuantizationSpec:
    """S6."""
    return QuantizationSpec(
        torch.int8,
        WeightPerChannel.with_args(levels=levels),
        quant_min=-levels,
        quant_max=levels,
        qscheme=torch.per_channel_symmetric,
        ch_axis=axis,
    )


def name_of(node: Node) -> str:
    """Return the operator's bare name: ``conv2d`` for ``aten.conv2d.padding``."""
    if node.op != "call_function":
        return node.op
    schema = getattr(node.target, "_schema", None)
    return schema.name.partition("::")[2] if schema else str(getattr(node.target, "__name__", ""))


def _live(model: GraphModule) -> dict[Node, None]:
    """Return, in order, the inputs in float and what is computed from them in float."""
    live: dict[Node, None] = {}
    changing: set[Node] = set()
    for node in model.graph.nodes:
        if node.op == "placeholder" or any(read in changing for read in node.all_input_nodes):
            changing.add(node)
            value = node.meta.get("val")
            parts = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(part, Tensor) and part.is_floating_point() for part in parts):
                live[node] = None
    return live


def _reads(node: Node, live: dict[Node, None]) -> Iterator[Node]:
    """Yield the tensors that the fused chain of which ``node`` is a part reads."""
    if name_of(node) == "cat":  # S4 says how they are held
        return
    end = _end(node, live)
    for read in node.all_input_nodes:
        if read in live:
            yield from _reads(read, live) if _end(read, live) is end else (read,)


def _end(node: Node, live: dict[Node, None]) -> Node:
    """S2: return the last node of what is fused with ``node``."""
    if name_of(node) in {*_ACTIVATIONS, *_FIXED} or len(node.users) != 1:
        return node
    (user,) = node.users
    follows = user in live and user.args[0] is node
    if follows and name_of(user) == "batch_norm" and name_of(node).startswith("conv"):
        return _end(user, live)
    return user if follows and name_of(user) in _ACTIVATIONS and name_of(node) in _SPOTS else node


def _root(node: Node) -> Node:
    """S3: return what made the values that ``node`` moves."""
    while name_of(node) in _MOVING and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _only_joined(node: Node) -> bool:
    """S4: tell whether every way from ``node`` ends in a concatenation."""
    if name_of(node) in _FIXED or not node.users:
        return False
    return all(
        name_of(user) == "cat" or (name_of(user) in _MOVING and _only_joined(user))
        for user in node.users
    )
