"""Push channels towards zero before they are cut, so that cutting them costs less."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from torchopt2edge.compression.pruning.spec import Prune
from torchopt2edge.errors import ConfigError

Penalty = Callable[[], Tensor]


def penalty_of(spec: Prune, net: nn.Module, layers: Sequence[str]) -> Penalty:
    """Return what is added to the loss: ``strength`` times a norm of what can be cut.

    ``bn_gamma``: the sum of the absolute scales of the normalisations (Liu et al. 2017, "Network
    Slimming"). ``group_lasso``: the sum over the channels of ``layers`` of the Euclidean norm of
    the weights that make each (Wen et al. 2016).

    Raises:
        ConfigError: there is nothing to push.
    """
    modules = dict(net.named_modules())
    if spec.regularize == "bn_gamma":
        norms = [
            m
            for m in modules.values()
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine
        ]
        if not norms:
            raise ConfigError(
                "bn_gamma needs batch normalizations, and the net has none",
                hint="regularize=group_lasso",
            )
        return lambda: spec.strength * torch.stack([m.weight.abs().sum() for m in norms]).sum()
    cut = [modules[name] for name in layers]
    if not cut:
        raise ConfigError("no layer of this net can be cut", hint="regularize=none")
    return lambda: spec.strength * torch.stack([_norms(module) for module in cut]).sum()


def _norms(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    total: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1).sum()
    return total
