"""Run a net in eval mode and leave every module in the mode it was in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def modes_kept(net: nn.Module) -> Iterator[None]:
    """Put the training flag of each module back at the end: some may be frozen one by one."""
    training = {module: module.training for module in net.modules()}
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def zeros(net: nn.Module, batch: int, shape: tuple[int, ...]) -> Tensor:
    """Return a batch of zeros of the device and dtype of the net's parameters."""
    like = next(net.parameters(), torch.zeros(()))
    return torch.zeros(batch, *shape, device=like.device, dtype=like.dtype)
