"""The training loop that every stage uses, on Lightning Fabric.

It carries no state of random generators: order, augmentation and dropout follow from the seed and
the step. So a run that was killed goes on from its last checkpoint to the same weights, bit for
bit on a CPU.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from torchopt2edge.data.dataset import Samples
from torchopt2edge.errors import ConfigError, TrainError
from torchopt2edge.training import augmented_views, checkpoint
from torchopt2edge.training.batch import Batch
from torchopt2edge.training.control import Control
from torchopt2edge.training.determinism import quiet, repeatable
from torchopt2edge.training.ema import Ema
from torchopt2edge.training.loggers import Logbook, open_logbook
from torchopt2edge.training.loss import Loss
from torchopt2edge.training.mix import Mix, mixing
from torchopt2edge.training.recipe import Recipe, seeded
from torchopt2edge.training.schedule import shape
from torchopt2edge.training.score import scores
from torchopt2edge.training.validation_split import Splits
from torchopt2edge.types import Facts

_LOG = logging.getLogger("torchopt2edge")
_LOOK = 50  # steps between two looks at a loss that lies on an accelerator: reading it waits


@dataclass(frozen=True)
class Fitted:
    """What a training came to: the mean ``loss`` of its last epoch (None without epochs), facts."""

    loss: float | None = None
    facts: Facts = field(default_factory=dict)


def fit(
    net: nn.Module,
    loss: Loss,
    samples: Samples | Splits,
    recipe: Recipe,
    name: str,
    controls: Sequence[Control] = (),
    work: Path | None = None,
) -> Fitted:
    """Train ``net`` in place; it comes back in eval mode, on the CPU.

    ``name`` stands in the progress lines, which go to the ``torchopt2edge`` logger, one an epoch.
    ``controls`` change the net while it trains. ``work`` is a folder for checkpoints: a training
    that finds its own there goes on from it.

    Raises:
        TrainError: the loss is not a number, there are fewer samples than one batch of two, or a
            checkpoint cannot be read.
        ConfigError: the recipe's numbers cannot work.
    """
    recipe.check()
    if recipe.epochs == 0:
        net.eval()
        return Fitted()
    splits = samples if isinstance(samples, Splits) else Splits(samples)
    if len(splits.train) < 2:
        raise TrainError(f"{len(splits.train)} samples are too few to train {name}")
    if recipe.devices > 1 and any(control.reshapes for control in controls):
        raise ConfigError(
            "channels cannot be cut while several devices train the same net",
            hint="devices=1; the net that was cut can be trained on several by another stage",
        )
    loop = _Loop(net, loss, splits, recipe, name, controls, work)
    with seeded(recipe.seed), quiet(), repeatable(recipe.deterministic):
        fabric = Fabric(
            accelerator=recipe.accelerator,
            devices=recipe.devices,
            strategy=recipe.strategy,
            precision=recipe.precision,
        )
        if recipe.devices == 1:
            return loop.run(fabric)
        with tempfile.TemporaryDirectory() as folder:
            mean, facts = fabric.launch(loop.shared, Path(folder))
            net.load_state_dict(torch.load(Path(folder) / "net.pt", weights_only=True))
        net.eval()
        return Fitted(mean, facts)


@dataclass
class _State:
    """Where a training stands; all of it is in a checkpoint."""

    epoch: int = 0
    done: int = 0  # batches of this epoch
    step: int = 0
    loss: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    mean: float = math.nan
    best: float = -math.inf
    best_epoch: int = -1
    best_net: dict[str, Tensor] = field(default_factory=dict)


class _Loop:
    """One training: the parts `fit` was given, and where it stands."""

    def __init__(
        self,
        net: nn.Module,
        loss: Loss,
        splits: Splits,
        recipe: Recipe,
        name: str,
        controls: Sequence[Control],
        work: Path | None,
    ) -> None:
        self.net, self.loss, self.splits = net, loss, splits
        self.recipe, self.name, self.controls, self.work = recipe, name, controls, work
        self.at = _State()
        self.ema: Ema | None = None
        self.saved = time.monotonic()

    def shared(self, fabric: Fabric, folder: Path) -> tuple[float | None, Facts]:
        """Train as one of several processes; the first leaves the weights in ``folder``.

        What is returned goes through a pipe that nobody empties before the process has ended.
        """
        fitted = self.run(fabric)
        if fabric.is_global_zero:
            torch.save(self.net.state_dict(), folder / "net.pt")
        return fitted.loss, fitted.facts

    def run(self, fabric: Fabric) -> Fitted:
        """Train to the end."""
        optimizer = self._begin(fabric)
        recipe, order = self.recipe, self._order(fabric)
        loading = augmented_views.batches(self.splits.train, order, recipe.workers, self._view_seed)
        model, stepper = fabric.setup(self.net, optimizer)
        for control in self.controls:
            control.attach(self.net, optimizer)
        epoch = _Epoch(self, fabric, model, stepper, order.whole)
        book = open_logbook(recipe, self.name) if fabric.is_global_zero else None
        resumed = self.at.step
        while self.at.epoch < recipe.epochs:
            order.epoch, order.done = self.at.epoch, self.at.done
            for control in self.controls:
                control.before_epoch(self.at.epoch)
            epoch.run(loading, order.view)
            if not self._close(fabric, optimizer, book, order.whole):
                break
        if book is not None:
            book.finalize("success")
        return self._end(fabric, resumed)

    @property
    def _view_seed(self) -> int:
        return self.recipe.seed if self.recipe.view_seed is None else self.recipe.view_seed

    def _order(self, fabric: Fabric) -> augmented_views.Order:
        recipe = self.recipe
        size = recipe.batch_size * fabric.world_size
        world = (fabric.global_rank, fabric.world_size)
        return augmented_views.Order(
            len(self.splits.train), size, recipe.seed, recipe.views, *world
        )

    def _begin(self, fabric: Fabric) -> torch.optim.Optimizer:
        """Bring the parts to the device, and to where a checkpoint left them."""
        kept = checkpoint.load(self.work) if self.work else None
        if kept is not None:
            for control, state in zip(self.controls, kept["controls"], strict=True):
                control.restore(self.net, state)
            self.net.load_state_dict(kept["net"])
        self.net.to(fabric.device)
        for control in self.controls if kept is None else ():
            control.attach(self.net, None)
        if any(p.ndim == 4 for p in self.net.parameters()):
            self.net.to(memory_format=torch.channels_last)
        self.loss.to(fabric.device).train()
        self.loss.prepare(self.net, self._example(fabric))
        optimizer = self.recipe.optimizer_of(self.net, self.loss)
        if self.recipe.ema is not None:
            self.ema = Ema(self.net, self.recipe.ema)
        if kept is not None:
            self._go_on(kept, optimizer)
        return optimizer

    def _example(self, fabric: Fabric) -> Batch:
        """Return two samples, as a batch shows them."""
        keys = [(0, 0), (0, 1)]
        drawn = augmented_views.Views(self.splits.train, self._view_seed).__getitems__(keys)
        return augmented_views.to_batch(augmented_views.collate(drawn), 0, fabric.device)

    def _go_on(self, kept: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        optimizer.load_state_dict(kept["optimizer"])
        self.loss.load_state_dict(kept["loss"], strict=False)
        self.loss.steps = kept["loss_steps"]
        if self.ema is not None:
            self.ema.net.load_state_dict(kept["ema"])
            self.ema.steps = kept["ema_steps"]
        self.at = _State(**kept["at"])
        _LOG.info(
            "%s: goes on from step %d, in epoch %d", self.name, self.at.step, self.at.epoch + 1
        )

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep where the training stands; with a weight that is not finite, the last one stays."""
        if self.work is None or not all(bool(p.isfinite().all()) for p in self.net.parameters()):
            return
        state: dict[str, Any] = {
            "at": dataclasses.asdict(self.at),
            "net": self.net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "loss": self.loss.learned(),
            "loss_steps": self.loss.steps,
            "controls": [control.state_dict() for control in self.controls],
        }
        if self.ema is not None:
            state |= {"ema": self.ema.net.state_dict(), "ema_steps": self.ema.steps}
        checkpoint.save(state, self.work)
        self.saved = time.monotonic()

    def _close(
        self, fabric: Fabric, optimizer: torch.optim.Optimizer, book: Logbook | None, whole: int
    ) -> bool:
        """End an epoch: log, judge, keep; return whether another one follows."""
        at, recipe = self.at, self.recipe
        at.mean = float(at.loss) / whole
        if not math.isfinite(at.mean):
            raise self.failed(at.mean)
        at.epoch, at.done, at.loss = at.epoch + 1, 0, torch.zeros_like(at.loss)
        figures = {"loss": at.mean} | self._judge(fabric)
        shown = "".join(f", {key} {value:.4g}" for key, value in figures.items() if key != "loss")
        _LOG.info(
            "%s: epoch %d of %d, loss %.4f%s",
            *(self.name, at.epoch, recipe.epochs, at.mean, shown),
            extra={"done": at.epoch, "total": recipe.epochs},
        )
        if book is not None:
            book.log_metrics(figures, step=at.step)
            book.save()
        if fabric.is_global_zero:
            self.save(optimizer)
        return recipe.patience is None or at.epoch - at.best_epoch < recipe.patience

    def _judge(self, fabric: Fabric) -> dict[str, float]:
        """Score the net, or its average, on what was held out."""
        held = self.splits.validation
        if held is None or not self.recipe.validation:
            return {}
        net = self.ema.net if self.ema is not None else self.net
        metric, value = scores(net, held, self.recipe.task, fabric.device)
        at = self.at
        if value > at.best and all(control.settled for control in self.controls):
            at.best, at.best_epoch = value, at.epoch
            if self.recipe.best:
                at.best_net = {k: v.detach().clone() for k, v in net.state_dict().items()}
        elif at.best_epoch < 0:
            at.best_epoch = at.epoch  # patience begins once nothing is being cut any more
        return {f"{metric}_validation": value}

    def failed(self, value: float) -> TrainError:
        """Return the error of a loss that is no number: where, and what is left."""
        file = self.work / checkpoint.NAME if self.work else None
        kept = f"; the last good state is kept in {file}" if file and file.exists() else ""
        place = f"epoch {self.at.epoch + 1}, batch {self.at.done + 1}"
        return TrainError(
            f"the loss is {value} in {place}{kept}",
            hint=f"a smaller lr than {self.recipe.lr}, a longer warmup, or clip=1.0",
        )

    def _end(self, fabric: Fabric, resumed: int) -> Fitted:
        at = self.at
        facts: Facts = {"epochs": at.epoch}
        if self.recipe.best and at.best_net:
            self.net.load_state_dict(at.best_net)
        elif self.ema is not None:
            self.net.load_state_dict(self.ema.net.state_dict())
        for control in self.controls:
            control.finish()
        self.net.cpu().to(memory_format=torch.contiguous_format).eval()
        if self.splits.validation is not None and at.best_epoch >= 0:
            facts |= {"best_epoch": at.best_epoch, "best_validation": round(at.best, 4)}
        if resumed:
            facts["resumed_at_step"] = resumed
        return Fitted(at.mean, facts)


class _Epoch:
    """The batches of one epoch."""

    def __init__(
        self, loop: _Loop, fabric: Fabric, model: nn.Module, stepper: Any, whole: int
    ) -> None:
        self.loop, self.fabric, self.model, self.stepper = loop, fabric, model, stepper
        self.rate = shape(loop.recipe, whole * loop.recipe.epochs)
        self.mix: Mix | None = mixing(loop.recipe, loop.splits.num_classes)
        self.on_cpu = fabric.device.type == "cpu"

    def run(self, loading: Any, view: int) -> None:
        """Train on every batch that is left of the epoch."""
        loop, recipe = self.loop, self.loop.recipe
        loop.net.train()
        for loaded in loading:
            torch.manual_seed(augmented_views.mixed(recipe.seed, loop.at.step, 2))
            batch = augmented_views.to_batch(loaded, view, self.fabric.device)
            loss = self._step(self.mix(batch) if self.mix else batch)
            loop.at.loss += loss.double().cpu() if self.on_cpu else loss.double()
            loop.at.done += 1
            due = loop.work is not None and time.monotonic() - loop.saved > recipe.checkpoint_s
            if due and self.fabric.is_global_zero and math.isfinite(float(loss)):
                loop.save(self.stepper.optimizer)

    def _step(self, batch: Any) -> Tensor:
        """Take one optimizer step and return the batch's loss."""
        loop, recipe, stepper = self.loop, self.loop.recipe, self.stepper
        at = loop.at
        for group in stepper.param_groups:
            group["lr"] = recipe.lr * self.rate(at.step)
        loss: Tensor = loop.loss(self.model, batch)
        for control in loop.controls:
            extra = control.penalty()
            loss = loss if extra is None else loss + extra
        value = loss.detach()
        if (self.on_cpu or at.step % _LOOK == 0) and not math.isfinite(float(value)):
            raise loop.failed(float(value))
        self.fabric.backward(loss)
        if recipe.clip is not None:
            self.fabric.clip_gradients(self.model, stepper, max_norm=recipe.clip)
        stepper.step()
        at.step += 1
        for control in loop.controls:
            control.after_step(at.step)
        stepper.zero_grad()
        if loop.ema is not None:
            loop.ema.update(loop.net)
        return value
