"""What changes a net while it trains: cuts, masks, frozen statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Control:
    """A seam of every training loop, ours, Lightning's or the user's; each hook does nothing here.

    The order is: `attach` (which does what is due before the first step), then for each epoch
    `before_epoch`, for each batch the loss plus `penalty`, the optimizer's step, `after_step`;
    at the end `finish`. A run that goes on from
    a checkpoint calls `restore` before the weights are loaded, so that the net has the shapes
    they were saved with.
    """

    reshapes = False
    """Whether it takes channels away: the weights' shapes change, and several devices cannot."""

    @property
    def settled(self) -> bool:
        """Whether the net keeps its form from now on: only then an epoch can be the best."""
        return True

    def attach(self, net: nn.Module, *optimizers: torch.optim.Optimizer | None) -> None:
        """Meet the net, and the optimizers whose state must follow what is done to it."""

    def before_epoch(self, epoch: int) -> None:
        """Called with the number of epochs that are done, 0 for the first."""

    def penalty(self) -> Tensor | None:
        """Return what is added to the loss of the batch, if anything."""
        return None

    def after_step(self, step: int) -> None:
        """Called with the number of optimizer steps that are done; gradients are still there."""

    def finish(self) -> None:
        """The training is over."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain data that `restore` takes, for a checkpoint."""
        return {}

    def restore(self, net: nn.Module, state: dict[str, Any]) -> None:
        """Bring ``net`` and this object to where they were when ``state`` was taken."""
