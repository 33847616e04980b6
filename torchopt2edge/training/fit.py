"""The training loop that every stage uses: Lightning, without its litter."""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from torchopt2edge.data.dataset import Samples, loader
from torchopt2edge.errors import TrainError
from torchopt2edge.training.batch import Batch
from torchopt2edge.training.control import Control
from torchopt2edge.training.loss import Loss
from torchopt2edge.training.recipe import Recipe, seeded

_LOG = logging.getLogger("torchopt2edge")
_HUSHED = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")


def fit(
    net: nn.Module,
    loss: Loss,
    samples: Samples,
    recipe: Recipe,
    name: str,
    controls: Sequence[Control] = (),
) -> float | None:
    """Train ``net`` in place and return the mean loss of the last epoch (None without epochs).

    ``name`` stands in the progress lines, which go to the ``torchopt2edge`` logger, one an epoch.
    ``controls`` change the net while it trains. The net comes back in eval mode, on the CPU.

    Raises:
        TrainError: the loss is not a number, or there are fewer samples than one batch of two.
    """
    recipe.check()
    if recipe.epochs == 0:
        net.eval()
        return None
    if len(samples) < 2:
        raise TrainError(f"{len(samples)} samples are too few to train {name}")
    batches = loader(samples, recipe.batch_size, True, recipe.seed, recipe.workers, spare_one=True)
    module = Fit(net, loss, recipe)
    progress = Progress(name)
    with seeded(recipe.seed), _quiet(), tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=recipe.epochs,
            accelerator=recipe.accelerator,
            devices=1,
            default_root_dir=folder,
            callbacks=[progress, Controls(controls)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module.train(), batches)
    module.cpu().eval()
    return progress.mean


class Fit(L.LightningModule):  # type: ignore[misc]
    """Ties a net, a loss and a recipe together for Lightning."""

    def __init__(self, net: nn.Module, loss: Loss, recipe: Recipe) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.recipe = recipe

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Float [N, C, H, W] and int [N] → the batch's loss.

        Raises:
            TrainError: the loss is not a number.
        """
        loss = self.loss(self.net, Batch(*batch))
        if not torch.isfinite(loss):
            place = f"epoch {self.current_epoch + 1}, batch {index + 1}"
            raise TrainError(
                f"the loss is {float(loss.detach())} in {place}",
                mend=f"a smaller lr than {self.recipe.lr}, or a longer warmup",
            )
        return loss

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimizer and its schedule, which moves at every batch."""
        recipe = self.recipe
        groups = recipe.parameters(self.net)
        optimizer: torch.optim.Optimizer
        if recipe.optimizer == "sgd":
            nesterov = recipe.momentum > 0
            optimizer = torch.optim.SGD(
                groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov
            )
        else:
            optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        shape = CosineWithWarmup(steps, round(recipe.warmup * steps / recipe.epochs))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class CosineWithWarmup:
    """The share of the peak learning rate at a step: up a line, then down a half cosine."""

    def __init__(self, steps: int, warmup: int) -> None:
        self.steps = steps
        self.warmup = min(warmup, steps - 1)

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Progress(L.Callback):  # type: ignore[misc]
    """Logs one line an epoch and keeps the last epoch's mean loss in ``mean``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.losses: list[Tensor] = []
        self.mean = math.nan

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *rest: Any) -> None:
        """Note the batch's loss (still on its device: reading it would wait)."""
        self.losses.append(outputs["loss"].detach())

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Log the epoch."""
        self.mean = float(torch.stack(self.losses).mean())
        self.losses.clear()
        epoch = trainer.current_epoch + 1
        _LOG.info("%s: epoch %d of %d, loss %.4f", self.name, epoch, trainer.max_epochs, self.mean)


class Controls(L.Callback):  # type: ignore[misc]
    """Calls the controls at their places."""

    def __init__(self, controls: Sequence[Control]) -> None:
        self.controls = controls

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Let them meet the net and its optimizer."""
        for control in self.controls:
            control.attach(module.net, trainer.optimizers[0])

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """Tell them which epoch comes."""
        for control in self.controls:
            control.before_epoch(trainer.current_epoch)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *rest: Any) -> None:
        """Tell them that a step is done."""
        for control in self.controls:
            control.after_step(trainer.global_step)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Tell them that it is over."""
        for control in self.controls:
            control.finish()


@contextmanager
def _quiet() -> Iterator[None]:
    """Hush Lightning's advice, which is about its own features and not about this run."""
    levels = {name: logging.getLogger(name).level for name in _HUSHED}
    for name in _HUSHED:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for advice in (
                ".*does not have many workers.*",  # small data in memory: workers cost more
                ".*smaller than the logging interval.*",
                ".*GPU available but not used.*",
                ".*in eval mode at the start of training.*",  # the teacher, on purpose
                r".*isinstance\(treespec, LeafSpec\).* is deprecated.*",  # its own call of torch
            ):
                warnings.filterwarnings("ignore", message=advice)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
