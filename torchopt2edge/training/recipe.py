"""How to train: the fields that training, distillation and fine-tuning share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from torchopt2edge.errors import ConfigError
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.task import Task

_BESIDE: Any = {"identity": False}  # where and how it runs, not what comes out
_CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "lr_schedule": ("cosine", "step", "constant"),
    "precision": ("32", "16-mixed", "bf16-mixed"),
    "logger": ("none", "csv", "tensorboard", "mlflow"),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Epochs of SGD with Nesterov momentum, or of AdamW, under a schedule with a warm-up.

    ``lr`` is the peak learning rate, reached after ``warmup`` epochs (a fraction will do) and
    then lowered along half a cosine (Loshchilov & Hutter 2017), by ``gamma`` at each of the
    ``milestones`` (shares of the training), or not at all. ``weight_decay`` spares biases and
    normalisations. ``clip`` bounds the norm of the gradient. ``task`` is what the net is for.

    ``ema`` is the decay of a moving average of the weights, which is what comes out then.
    ``mixup`` and ``cutmix`` are the alphas of Zhang et al. 2018 and Yun et al. 2019; with both,
    each batch takes one of them. ``views`` is the number of different augmentations of each
    sample, one an epoch, None for a new one every epoch.

    ``validation`` samples of the training split are held out; then ``best`` keeps the epoch that
    scores highest on them and ``patience`` ends the training that many epochs after it.

    ``seed`` decides the initial weights, the order of the samples and, unless ``view_seed`` is
    given, the augmentation. ``deterministic`` allows only kernels that repeat to the bit (on a
    CPU they all do). ``precision`` is ``32``, ``16-mixed`` or ``bf16-mixed``. ``devices`` and
    ``strategy`` are Lightning's (``ddp_spawn``, ``ddp_fork``, or ``ddp`` under torchrun).
    ``logger`` writes into ``log_dir``. ``checkpoint_s`` is how many seconds a killed run loses at
    most.
    """

    epochs: int = 10
    lr: float = 0.1
    batch_size: int = 64
    weight_decay: float = 5e-4
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    lr_schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup: float = 1.0
    clip: float | None = None
    ema: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    views: int | None = None
    validation: int = 0
    best: bool = False
    patience: int | None = None
    task: Task = field(default_factory=Classification)
    seed: int = 0
    view_seed: int | None = None
    deterministic: bool = False
    precision: Literal["32", "16-mixed", "bf16-mixed"] = "32"
    accelerator: str = field(default="auto", metadata=_BESIDE)
    devices: int = field(default=1, metadata=_BESIDE)
    strategy: str = field(default="auto", metadata=_BESIDE)
    workers: int = field(default=0, metadata=_BESIDE)
    logger: Literal["none", "csv", "tensorboard", "mlflow"] = field(
        default="none", metadata=_BESIDE
    )
    log_dir: str = field(default="outputs/training", metadata=_BESIDE)
    checkpoint_s: float = field(default=30.0, metadata=_BESIDE)

    def check(self) -> None:
        """Refuse numbers that cannot work.

        Raises:
            ConfigError: it names the field.
        """
        if self.epochs < 0 or self.batch_size < 2:
            raise ConfigError(
                f"epochs={self.epochs}, batch_size={self.batch_size} cannot be trained with",
                hint="epochs of at least 0 and a batch_size of at least 2",
            )
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"there is no {name} {getattr(self, name)!r}", hint=f"one of {', '.join(known)}"
                )
        for name in ("clip", "ema", "views", "patience"):
            value = getattr(self, name)
            if value is not None and (value <= 0 or (name == "ema" and value >= 1)):
                raise ConfigError(
                    f"{name}={value} cannot be trained with",
                    hint="an ema between 0 and 1; clip, views and patience above 0; or null",
                )
        if (self.best or self.patience) and not self.validation:
            raise ConfigError(
                "best and patience need samples that judge", hint="validation=500, or another count"
            )

    def parameters(self, net: nn.Module) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups: only matrices and kernels decay."""
        trained = [p for p in net.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        spared = [p for p in trained if p.ndim <= 1]
        return [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": spared, "weight_decay": 0.0},
        ]

    def optimizer_of(self, net: nn.Module, loss: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the optimizer of the net's parameters, and of the loss's where it has any."""
        groups = self.parameters(net)
        own = [p for p in loss.parameters() if p.requires_grad] if loss is not None else []
        if own:
            groups.append({"params": own, "weight_decay": self.weight_decay})
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=self.lr)
        nesterov = self.momentum > 0
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=nesterov)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside, and put its generators back afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
