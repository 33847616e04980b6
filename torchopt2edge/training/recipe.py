"""How to train: the fields that training, distillation and fine-tuning share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from torchopt2edge.errors import ConfigError
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Epochs of SGD with Nesterov momentum, or of AdamW, under a cosine with a warm-up.

    ``lr`` is the peak learning rate, reached after ``warmup`` epochs (a fraction will do) and
    lowered to zero along a half cosine (Loshchilov & Hutter 2017). ``weight_decay`` spares biases
    and normalisations. ``task`` is what the net is for. ``seed`` decides the
    initial weights, the order of the samples and the augmentation.
    """

    epochs: int = 10
    lr: float = 0.1
    batch_size: int = 64
    weight_decay: float = 5e-4
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    warmup: float = 1.0
    task: Task = field(default_factory=Classification)
    seed: int = 0
    accelerator: str = field(default="auto", metadata={"identity": False})
    workers: int = field(default=0, metadata={"identity": False})

    def check(self) -> None:
        """Refuse numbers that cannot work.

        Raises:
            ConfigError: it names the field.
        """
        if self.epochs < 0 or self.batch_size < 2:
            raise ConfigError(
                f"epochs={self.epochs}, batch_size={self.batch_size} cannot be trained with",
                mend="epochs of at least 0 and a batch_size of at least 2",
            )
        if self.optimizer not in ("sgd", "adamw"):
            raise ConfigError(f"there is no optimizer {self.optimizer!r}", mend="sgd or adamw")

    def parameters(self, net: nn.Module) -> list[dict[str, object]]:
        """Return the optimizer's parameter groups: only matrices and kernels decay."""
        trained = [p for p in net.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        spared = [p for p in trained if p.ndim <= 1]
        return [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": spared, "weight_decay": 0.0},
        ]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside, and put its generators back afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
