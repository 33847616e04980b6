"""A moving average of the weights: what a training ends with, less its last wobbles."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """The average net, with decay min(``decay``, (1 + n) / (10 + n)) after n steps.

    Weights and BatchNorm statistics are averaged, counters taken over. A net whose shapes
    change while it trains, because channels were cut, begins its average anew.
    Source: Polyak & Juditsky 1992; the warm-up of the decay as in Tan & Le 2019's code.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.net = copy.deepcopy(net).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Take in the net as it is after an optimizer step."""
        mine, theirs = _tensors(self.net), _tensors(net)
        if [one.shape for one in mine] != [one.shape for one in theirs]:
            self.net = copy.deepcopy(net).eval().requires_grad_(False)
            self.steps = 0
            return
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        floats = [(a, b) for a, b in zip(mine, theirs, strict=True) if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], weight)
        for own, other in zip(mine, theirs, strict=True):
            if not own.is_floating_point():
                own.copy_(other)


def _tensors(net: nn.Module) -> list[Tensor]:
    return list(net.state_dict().values())
