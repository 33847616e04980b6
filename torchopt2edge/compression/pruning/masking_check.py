"""Try cuts on a copy: a cut is sound when the smaller net computes what masking computes.

torch-pruning follows channels through a net by rules; an operation it has no rule for (a padding
of channels, a shuffle) or a statistic over channels (layer norm) makes it cut the wrong thing
without a word. So every plan is tried before it is used.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchopt2edge.errors import ModelError
from torchopt2edge.models.cut_plan import Cut, Plan, trace
from torchopt2edge.training.recipe import seeded

_CLOSE = 1e-3  # of the output's standard deviation; float32 rounding stays far below


def unsound(net: nn.Module, shape: tuple[int, ...], cuts: Sequence[Cut]) -> list[Cut]:
    """Return the cuts that change what the remaining channels compute.

    Halves a plan that is not sound until the culprits stand alone; when the halves are sound
    each but not together, all of them are returned.
    """
    if not cuts or sound(net, shape, cuts):
        return []
    if len(cuts) == 1:
        return list(cuts)
    middle = len(cuts) // 2
    found = unsound(net, shape, cuts[:middle]) + unsound(net, shape, cuts[middle:])
    return found or list(cuts)


def sound(net: nn.Module, shape: tuple[int, ...], cuts: Sequence[Cut]) -> bool:
    """Tell whether cutting a copy of ``net`` gives the outputs that masking gives."""
    with seeded(0):
        images = torch.randn(4, *shape)
        masked = probe(net, images)
    smaller = copy.deepcopy(masked)
    mask(masked, shape, cuts)
    try:
        Plan(tuple(shape), tuple(cuts)).apply(smaller)
        with torch.no_grad():
            wanted, got = _flat(masked(images)), _flat(smaller(images))
    except (ModelError, RuntimeError, IndexError, AssertionError, TypeError, ValueError):
        return False  # the cut net does not even run
    if wanted.shape != got.shape:
        return False
    return bool((wanted - got).abs().max() <= _CLOSE * wanted.std())


def probe(net: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy in eval mode whose normalisations fit ``images``: no signal dies in it."""
    twin = copy.deepcopy(net).cpu().float()
    norms = [m for m in twin.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        twin.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return twin.eval()


def mask(net: nn.Module, shape: tuple[int, ...], cuts: Sequence[Cut]) -> None:
    """Zero, with hooks on ``net``, the channels that ``cuts`` would take; shapes stay."""
    graph = trace(net, shape)
    modules = dict(net.named_modules())
    for cut in cuts:
        pruner = graph.get_pruner_of_module(modules[cut.layer])
        handler = pruner.prune_out_channels if cut.out else pruner.prune_in_channels
        for item in graph.get_pruning_group(modules[cut.layer], handler, list(cut.indices)):
            module = item.dep.target.module
            if not isinstance(module, nn.Module):
                continue
            dim = -1 if isinstance(module, nn.Linear) else 1
            zero = _Zero(dim, torch.tensor(sorted(item.idxs)))
            if graph.is_out_channel_pruning_fn(item.dep.handler):
                module.register_forward_hook(zero.output)
            else:
                module.register_forward_pre_hook(zero.input)


@dataclass(frozen=True)
class _Zero:
    """Hooks that zero channels ``indices`` of dimension ``dim``."""

    dim: int
    indices: Tensor

    def output(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.index_fill(self.dim, self.indices, 0.0)

    def input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].index_fill(self.dim, self.indices, 0.0), *inputs[1:])


def _flat(output: object) -> Tensor:
    if isinstance(output, Tensor):
        return output.flatten(1)
    parts = output.values() if isinstance(output, dict) else output
    assert isinstance(parts, tuple | list | type({}.values()))
    return torch.cat([_flat(part) for part in parts], dim=1)
