"""What training makes small: loss(net, batch) → scalar."""

from __future__ import annotations

from torch import Tensor, nn

from torchopt2edge.tasks.task import Task
from torchopt2edge.training.batch import Batch


class Loss(nn.Module):
    """The loss of one batch: ``loss(net, batch)``, a scalar.

    It runs the net itself, in the mode that it finds it in. Its own parameters are trained.
    ``steps`` are the batches that a weight which changes with time has seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def learned(self) -> dict[str, Tensor]:
        """Return its own parameters, less what is frozen: a checkpoint keeps them and ``steps``."""
        own = self.named_parameters()
        return {name: value.detach() for name, value in own if value.requires_grad}

    def prepare(self, net: nn.Module, batch: Batch) -> None:
        """Meet the net and a batch before the optimizer is made; nothing is learned yet."""


class TaskLoss(Loss):
    """What the task itself asks for: the targets of the data."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, net: nn.Module, batch: Batch) -> Tensor:
        """Run the net on the batch and hold its outputs against the targets."""
        return self.task.loss(net(batch.inputs), batch.targets)
