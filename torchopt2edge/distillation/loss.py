"""The loss of a student that learns from a teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchopt2edge.tasks.task import Task
from torchopt2edge.training.batch import Batch


class Distillation(nn.Module):
    """Soft targets of a teacher, mixed with the labels.

    ``alpha`` of KL(teacher ∥ student) at ``temperature`` T, times T² so that its gradients keep
    their size, and 1 - ``alpha`` of the task's loss. The teacher, frozen and in eval mode, sees
    the very batch the student sees, augmentation included (Beyer et al. 2022 call it a
    consistent teacher). Source: Hinton, Vinyals & Dean 2015.
    """

    def __init__(self, teacher: nn.Module, task: Task, temperature: float, alpha: float) -> None:
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.task = task
        self.temperature = temperature
        self.alpha = alpha

    def train(self, mode: bool = True) -> Distillation:
        """Stay in eval mode: the teacher does not learn, nor do its statistics move."""
        return super().train(False)

    def forward(self, net: nn.Module, batch: Batch) -> Tensor:
        """Run both nets on the batch and return a scalar."""
        with torch.no_grad():
            target = F.log_softmax(self.teacher(batch.inputs) / self.temperature, dim=1)
        logits = net(batch.inputs)
        own = F.log_softmax(logits / self.temperature, dim=1)
        soft = F.kl_div(own, target, reduction="batchmean", log_target=True)
        hard = self.task.loss(logits, batch.targets)
        return self.alpha * self.temperature**2 * soft + (1 - self.alpha) * hard
