"""BatchNorm statistics after a cut: the old ones describe another net."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn

from torchopt2edge.data.dataset import Samples, loader
from torchopt2edge.models.eval_mode import modes_kept


def refresh(net: nn.Module, batches: Iterable[Tensor], frozen: bool = False) -> None:
    """Measure the statistics again, as plain averages over some batches of inputs.

    The modes of the modules and the momenta stay as they were; without batches so do the
    statistics, and without ``frozen`` those that stand still in a net that trains.
    Source: Li et al. 2020, "EagleEye".
    """
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    measured = {
        norm: norm.momentum
        for norm in norms
        if norm.track_running_stats and (frozen or norm.training or not net.training)
    }
    inputs = iter(batches)
    first = next(inputs, None)
    if not measured or first is None:
        return
    for norm in measured:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad(), modes_kept(net):
        net.train()
        for norm in norms:
            norm.training = norm in measured  # whatever the net's own train() makes of it
        for seen in chain((first,), inputs):
            net(seen)
    for norm, momentum in measured.items():
        norm.momentum = momentum


def from_samples(
    net: nn.Module, samples: Samples, batch_size: int, seed: int, batches: int = 16
) -> None:
    """Measure them on the first ``batches`` of a shuffled split."""
    device = next(net.parameters()).device
    drawn = (inputs.to(device) for inputs, _ in loader(samples, batch_size, True, seed))
    shown = (inputs for _, inputs in zip(range(batches), drawn, strict=False) if len(inputs) > 1)
    refresh(net, shown, frozen=True)
