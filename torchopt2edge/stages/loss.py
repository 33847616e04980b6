"""What training makes small: loss(net, images, labels) → scalar."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Loss(Protocol):
    """The loss of one batch; it runs the net itself, in the mode that it finds it in."""

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Float [N, C, H, W] and int [N] → scalar."""


class CrossEntropy(nn.Module):
    """Cross entropy with the labels."""

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Float [N, C, H, W] and int [N] → scalar."""
        return F.cross_entropy(net(images), labels, label_smoothing=self.smoothing)


class Distillation(nn.Module):
    """Soft targets of a teacher, mixed with the labels.

    ``alpha`` of KL(teacher ∥ student) at ``temperature`` T, times T² so that its gradients keep
    their size, and 1 - ``alpha`` of the cross entropy. The teacher, frozen and in eval mode, sees
    the very batch the student sees, augmentation included (Beyer et al. 2022 call it a
    consistent teacher). Source: Hinton, Vinyals & Dean 2015.
    """

    def __init__(
        self, teacher: nn.Module, temperature: float, alpha: float, smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.temperature = temperature
        self.alpha = alpha
        self.smoothing = smoothing

    def train(self, mode: bool = True) -> Distillation:
        """Stay in eval mode: the teacher does not learn, nor do its statistics move."""
        return super().train(False)

    def forward(self, net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Float [N, C, H, W] and int [N] → scalar."""
        with torch.no_grad():
            target = F.log_softmax(self.teacher(images) / self.temperature, dim=1)
        logits = net(images)
        own = F.log_softmax(logits / self.temperature, dim=1)
        soft = F.kl_div(own, target, reduction="batchmean", log_target=True)
        hard = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        return self.alpha * self.temperature**2 * soft + (1 - self.alpha) * hard
