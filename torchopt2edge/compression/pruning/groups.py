"""The channels of a net that can only be cut together, how much they matter and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from torchopt2edge.compression.pruning.importance import scorer
from torchopt2edge.models.count import Layer
from torchopt2edge.models.cut_plan import Cut, trace


@dataclass(frozen=True)
class Group:
    """Everything that loses a channel when the output of ``layer`` does.

    ``channels`` are the layer's outputs. ``unit`` of them go at a time (1; for a grouped
    convolution in the group, one in each of its groups). ``order`` holds the positions within
    such a part, least important first, and ``importance`` their scores in that order. ``outputs``
    and ``inputs`` tell how many channels each layer loses for each channel of the root.
    """

    layer: str
    channels: int
    unit: int
    order: tuple[int, ...]
    importance: tuple[float, ...]
    outputs: Mapping[str, float]
    inputs: Mapping[str, float]

    def cut(self, count: int) -> Cut:
        """Return the cut of the ``count`` least important channels (a multiple of ``unit``)."""
        part = self.channels // self.unit
        chosen = self.order[: count // self.unit]
        indices = sorted(p + k * part for p in chosen for k in range(self.unit))
        return Cut(self.layer, True, tuple(indices))

    def share(self, count: int) -> float:
        """Return which share of the group's importance the ``count`` least important hold."""
        return sum(self.importance[: count // self.unit]) / max(sum(self.importance), 1e-12)


def find(net: nn.Module, shape: tuple[int, ...], importance: str, seed: int = 0) -> list[Group]:
    """Return the groups of ``net`` that do not reach its output, for samples of ``shape``.

    Raises:
        ConfigError: no such importance.
        PruneError: it needs gradients, and there are none.
        ModelError: the net cannot be traced.
    """
    score = scorer(importance, net, seed)
    graph = trace(net, shape)
    names = {module: name for name, module in net.named_modules()}
    groups = []
    for found in graph.get_all_groups():
        ends = [
            item.dep
            for item in found
            if graph.is_out_channel_pruning_fn(item.dep.handler) and not item.dep.target.outputs
        ]
        scores = None if ends else score(found)
        if scores is not None:
            groups.append(_group(graph, found, names, scores.flatten().tolist()))
    return groups


def _group(graph: Any, found: Any, names: Mapping[Any, str], scores: list[float]) -> Group:
    root = found[0].dep.target.module
    channels, unit = len(found[0].idxs), _unit(graph, found)
    part = channels // unit
    means = [sum(scores[p::part]) / unit for p in range(part)]
    order = sorted(range(part), key=means.__getitem__)
    outputs: dict[str, float] = {}
    inputs: dict[str, float] = {}
    for item in found:
        module = item.dep.target.module
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            out = graph.is_out_channel_pruning_fn(item.dep.handler)
            side = outputs if out else inputs
            side[names[module]] = len(item.idxs) / channels
    ordered = tuple(means[p] for p in order)
    return Group(names[root], channels, unit, tuple(order), ordered, outputs, inputs)


def _unit(graph: Any, found: Any) -> int:
    """Return how many channels must go together: the groups of a grouped layer in the group."""
    units = [1]
    for item in found:
        module = item.dep.target.module
        depthwise = getattr(module, "groups", 1) == getattr(module, "out_channels", 0)
        if depthwise or not isinstance(module, nn.Module):
            continue
        pruner = graph.get_pruner_of_module(module)
        if pruner is not None:
            out = graph.is_out_channel_pruning_fn(item.dep.handler)
            groups = pruner.get_out_channel_groups if out else pruner.get_in_channel_groups
            units.append(groups(module))
    return max(units)


Price = Callable[[str, Layer], float]
"""What a layer of that name costs once it has that shape."""


def macs(name: str, layer: Layer) -> float:
    """Price a layer in multiply-accumulates per sample."""
    return layer.macs


def params(name: str, layer: Layer) -> float:
    """Price a layer in weights."""
    return layer.params


@dataclass(frozen=True)
class Costs:
    """What a net costs under some cuts: each layer as its groups have left it."""

    layers: Mapping[str, Layer]
    groups: Sequence[Group]
    price: Price

    def touched(self, index: int) -> set[str]:
        """Return the layers that a group's cut makes smaller."""
        group = self.groups[index]
        return (group.outputs.keys() | group.inputs.keys()) & self.layers.keys()

    def left(self, counts: Sequence[int], only: Collection[str] | None = None) -> dict[str, Layer]:
        """Return the layers (or ``only`` some) when each group has lost its count of channels."""
        names = self.layers.keys() if only is None else only
        out, into = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        for group, count in zip(self.groups, counts, strict=True):
            if not count:
                continue
            for lost, side in ((out, group.outputs), (into, group.inputs)):
                for name in side.keys() & lost.keys():
                    lost[name] += count * side[name]
        return {name: _cut(self.layers[name], out[name], into[name]) for name in names}

    def total(self, counts: Sequence[int], only: Collection[str] | None = None) -> float:
        """Return the price of the layers, or of ``only`` some, under these cuts."""
        return sum(self.price(name, layer) for name, layer in self.left(counts, only).items())

    def share(self, counts: Sequence[int]) -> float:
        """Return which share of the price is left under these cuts."""
        return self.total(counts) / self.total([0] * len(counts))


def _cut(layer: Layer, out: float, into: float) -> Layer:
    outputs = layer.outputs - round(out)
    if layer.groups == layer.outputs > 1:  # depthwise: inputs, outputs and groups go together
        return replace(layer, inputs=layer.inputs - round(out), outputs=outputs, groups=outputs)
    return replace(layer, inputs=layer.inputs - round(into), outputs=outputs)
