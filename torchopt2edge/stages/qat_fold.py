"""Fold batch normalization into a trained graph, as its fake quantizers saw it.

torchao's own fold finds its patterns by tracing 96 of them anew, some 20 seconds for any net, and
takes every eps for 1e-5; here the graph that its preparation makes is read as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

_ATEN = torch.ops.aten


def fold(graph: GraphModule) -> None:
    """Fold what stands behind a convolution; write what does not as a product and a sum."""
    with torch.no_grad():
        for index, node in enumerate(list(graph.graph.nodes)):
            if node.target == _ATEN.batch_norm.default:
                conv = _convolution(node)
                if conv is None:
                    _as_product(graph, node, index)
                else:
                    _into(graph, conv, node, index)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def constant(graph: GraphModule, node: Any) -> Any:
    """Return what a ``get_attr`` node stands for, or the literal itself."""
    if not isinstance(node, Node):
        return node
    value: Any = graph
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def put(graph: GraphModule, name: str, value: Tensor, before: Node) -> Node:
    """Add a constant to the graph and return the node that reads it."""
    graph.register_parameter(name, nn.Parameter(value.detach().clone(), requires_grad=False))
    with graph.graph.inserting_before(before):
        made = graph.graph.get_attr(name)
    made.meta["val"] = value.detach()
    return made


def _convolution(norm: Node) -> Node | None:
    """Return the convolution that was fused with a normalization: conv / factor (+ bias) → norm."""
    at = norm.args[0]
    if isinstance(at, Node) and at.target == _ATEN.add.Tensor:
        at = at.args[0]
    if not isinstance(at, Node) or at.target != _ATEN.div.Tensor:
        return None
    conv = at.args[0]
    if not isinstance(conv, Node) or "conv" not in str(conv.target):
        return None
    weight = conv.args[1]
    return conv if isinstance(weight, Node) and weight.op == "call_module" else None


def _into(graph: GraphModule, conv: Any, norm: Any, index: int) -> None:
    """Weights times gamma over the deviation, through the fake quantizer that follows them."""
    fake = conv.args[1]
    product = fake.args[0]
    scale, shift = _affine(graph, norm)
    weight, axes = constant(graph, product.args[0]), product.args[1].args[1]
    divided = norm.args[0]
    if divided.target == _ATEN.add.Tensor:  # the convolution's own bias, added behind the division
        shift = shift + constant(graph, divided.args[1].args[0]) * scale
    fake.args = (put(graph, f"_weight_{index}", weight * scale.reshape(axes), fake),)
    bias = put(graph, f"_bias_{index}", shift, conv)
    conv.args = (*conv.args[:2], bias, *conv.args[3:])
    norm.replace_all_uses_with(conv)


def _as_product(graph: GraphModule, norm: Any, index: int) -> None:
    shape = [1, -1, *[1] * (norm.meta["val"].ndim - 2)]
    scale, shift = (value.reshape(shape) for value in _affine(graph, norm))
    factor = put(graph, f"_scale_{index}", scale, norm)
    term = put(graph, f"_shift_{index}", shift, norm)
    with graph.graph.inserting_before(norm):
        product = graph.graph.call_function(_ATEN.mul.Tensor, (norm.args[0], factor))
        total = graph.graph.call_function(_ATEN.add.Tensor, (product, term))
    product.meta, total.meta = dict(norm.meta), dict(norm.meta)
    norm.replace_all_uses_with(total)


def _affine(graph: GraphModule, norm: Any) -> tuple[Tensor, Tensor]:
    """Return factor and term of a normalization with its running statistics, as torchao does."""
    gamma, beta, mean, variance = (constant(graph, arg) for arg in norm.args[1:5])
    factor = gamma / torch.sqrt(variance + norm.args[7])
    return factor, beta - mean * factor
