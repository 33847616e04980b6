"""BatchNorm statistics after a cut: the old ones describe another net."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from torchopt2edge.data.dataset import Samples, loader
from torchopt2edge.models.mode import modes_kept


def refresh(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure the statistics again, as plain averages over some batches of inputs.

    The modes of the modules and the momenta stay as they were.
    Source: Li et al. 2020, "EagleEye".
    """
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad(), modes_kept(net):
        net.train()
        for inputs in batches:
            net(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def from_samples(
    net: nn.Module, samples: Samples, batch_size: int, seed: int, batches: int = 16
) -> None:
    """Measure them on the first ``batches`` of a shuffled split."""
    device = next(net.parameters()).device
    drawn = (inputs.to(device) for inputs, _ in loader(samples, batch_size, True, seed))
    refresh(
        net, (inputs for _, inputs in zip(range(batches), drawn, strict=False) if len(inputs) > 1)
    )
