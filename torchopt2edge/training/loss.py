"""What training makes small: loss(net, batch) → scalar."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from torchopt2edge.tasks.task import Task
from torchopt2edge.training.batch import Batch


class Loss(Protocol):
    """The loss of one batch; it runs the net itself, in the mode that it finds it in."""

    def __call__(self, net: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the batch, a scalar."""


class TaskLoss(nn.Module):
    """What the task itself asks for: the targets of the data."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, net: nn.Module, batch: Batch) -> Tensor:
        """Run the net on the batch and hold its outputs against the targets."""
        return self.task.loss(net(batch.inputs), batch.targets)
