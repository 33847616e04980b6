"""Compression in a Lightning Trainer: one callback, the LightningModule stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from torchopt2edge.compression.distillation.hooks import Hook
from torchopt2edge.compression.distillation.spec import Distill
from torchopt2edge.compression.pruning.control import PruneControl
from torchopt2edge.compression.pruning.optimizer_surgery import cut, trains
from torchopt2edge.compression.pruning.spec import Prune
from torchopt2edge.compression.sparsity.spec import Sparsify
from torchopt2edge.errors import ConfigError
from torchopt2edge.integrations.parts import Parts, example_of, parts_of
from torchopt2edge.integrations.session import Compression
from torchopt2edge.interfaces import Meter
from torchopt2edge.models.cut_plan import Plan
from torchopt2edge.training.batch import Batch


class Compress(L.Callback):  # type: ignore[misc]
    """Prunes, sparsifies and distills the net of a LightningModule while a Trainer trains it.

    ``net`` is the attribute that holds the net (``model.backbone``), or "" for the module itself,
    None to take its only child with parameters. Inputs are seen when they pass through it. What a
    teacher says is mixed into the loss that ``training_step`` returns. A checkpoint of the Trainer
    holds the cuts, and a Trainer that goes on from it cuts the net before its weights are loaded.

    After the training ``plan`` holds the cuts; a folder ``out``, or that of `save`, has them with
    the weights, as `rebuild` takes them.
    """

    def __init__(
        self,
        prune: Prune | None = None,
        sparsify: Sparsify | None = None,
        distill: Distill | None = None,
        net: str | None = None,
        meter: Meter | None = None,
        out: str | Path | None = None,
    ) -> None:
        self.specs = (prune, sparsify, distill, meter)
        self.path, self.out = net, out
        self.session: Compression | None = None
        self.kept: dict[str, Any] = {}
        self.undo: list[Callable[[], None]] = []
        self.seen: tuple[Tensor, Any] | None = None
        self.steps = 0

    @property
    def plan(self) -> Plan:
        """All cuts so far."""
        if self.session is None:
            raise ConfigError("nothing was trained yet", hint="trainer.fit(module)")
        return self.session.plan

    def save(self, folder: str | Path) -> None:
        """Write ``plan.json`` and ``weights.pt`` of the net, as `rebuild` takes them."""
        if self.session is None:
            raise ConfigError("nothing was trained yet", hint="trainer.fit(module)")
        self.session.save(folder)

    def facts(self) -> dict[str, Any]:
        """Say what was done: shares of MACs and parameters, channels, zeros."""
        return {} if self.session is None else self.session.facts()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take a place in the module's training step and in its loading of checkpoints."""
        if stage != "fit":
            return
        prune, sparsify, distill, _ = self.specs
        if prune is None and sparsify is None and distill is None:
            raise ConfigError("there is nothing to do", hint="prune=, sparsify= or distill=")
        if prune is not None and trainer.world_size > 1:
            raise ConfigError(
                "channels cannot be cut while several devices train the same net",
                hint="devices=1, or prune first and train the small net on several",
            )
        if distill is not None and not pl_module.automatic_optimization:
            raise ConfigError(
                "a teacher cannot be mixed into a manual optimization",
                hint="t2e.compress() inside training_step, or automatic optimization",
            )
        net = self.net(pl_module)
        hook = net.register_forward_hook(Hook(self._passed))
        self.undo = [hook.remove]
        self._wrap(pl_module, "training_step", self._taught)
        self._wrap(pl_module, "on_load_checkpoint", self._loading(net))

    def net(self, pl_module: nn.Module) -> nn.Module:
        """Return the net inside the LightningModule.

        Raises:
            ConfigError: it has no such attribute, or several children could be meant.
        """
        if self.path is not None:
            try:
                return pl_module.get_submodule(self.path)
            except AttributeError as error:
                names = ", ".join(name for name, _ in pl_module.named_children())
                raise ConfigError(
                    f"the module has no net called {self.path!r}", hint=f"net= one of {names}"
                ) from error
        inside = [child for child in pl_module.children() if any(True for _ in child.parameters())]
        own = any(True for _ in pl_module.parameters(recurse=False))
        if len(inside) == 1 and not own:
            return inside[0]
        return pl_module

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """Do what is due when an optimizer step was taken."""
        if self.session is None or trainer.global_step == self.steps:
            return  # gradients are being accumulated
        self.steps = trainer.global_step
        self.session.advance(*self._optimizers(trainer))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the net small, its statistics measured, and nothing of ours on it."""
        if self.session is not None:
            self.session.finish(self.out)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give the module its own methods back."""
        for undo in self.undo:
            undo()
        self.undo = []

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint of the Trainer keeps."""
        return self.session.state_dict() if self.session is not None else self.kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back; the net was cut before (`on_load_checkpoint` of the module)."""
        self.kept = dict(state)

    def _wrap(self, pl_module: Any, name: str, around: Callable[..., Any]) -> None:
        before = getattr(pl_module, name)
        setattr(pl_module, name, lambda *args, **named: around(before, *args, **named))
        self.undo.append(lambda: delattr(pl_module, name))

    def _loading(self, net: nn.Module) -> Callable[..., None]:
        def load(before: Callable[[Any], None], checkpoint: dict[str, Any]) -> None:
            state = checkpoint.get("callbacks", {}).get(self.state_key, {})
            for one in state.get("controls", ()):
                if "plan" in one:
                    cut(net, Plan.from_json(one["plan"]))
            before(checkpoint)

        return load

    def _passed(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if module.training and inputs and isinstance(inputs[0], Tensor):
            self.seen = (inputs[0], output)

    def _taught(self, before: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Run the module's own training step and add what the specs add."""
        batch = args[0] if args else None
        if self.session is None:
            self._open(batch)
        assert self.session is not None
        parts = self.session.parts
        if parts.distillation is not None:
            names = [term.student for term in parts.distillation.features]
            parts.distillation.mine.watch(self.session.model, names, "student")
        self.seen = None
        result = before(*args, **named)
        if self.seen is None:
            raise ConfigError(
                "the net was not run in training_step, or not on one tensor",
                hint="Compress(net=…) names the attribute that training_step calls",
            )
        self.session.show(self.seen[0])
        loss = result["loss"] if isinstance(result, dict) else result
        if not isinstance(loss, Tensor):
            return result
        loss = self._mixed(parts, loss, batch)
        return {**result, "loss": loss} if isinstance(result, dict) else loss

    def _mixed(self, parts: Parts, loss: Tensor, batch: Any) -> Tensor:
        assert self.seen is not None
        inputs, outputs = self.seen
        if parts.distillation is not None:
            targets = batch[1] if isinstance(batch, list | tuple) and len(batch) > 1 else None
            soft = parts.distillation.soft(outputs, Batch(inputs, targets))
            alpha = parts.distillation.alpha
            loss = alpha * soft + (1 - alpha) * loss
        for control in parts.controls:
            extra = control.penalty()
            loss = loss if extra is None else loss + extra
        return loss

    def _open(self, batch: Any) -> None:
        """Begin at the first batch: it shows what an input looks like."""
        inputs = batch[0] if isinstance(batch, list | tuple) else batch
        if isinstance(inputs, dict):
            inputs = next(iter(inputs.values()))
        if not isinstance(inputs, Tensor):
            raise ConfigError(
                f"a batch of {type(batch).__name__} does not show the net's input",
                hint="batches of (inputs, targets)",
            )
        module = self._owner
        example = example_of(module, inputs.detach())
        prune, sparsify, distill, meter = self.specs
        parts = parts_of(module, example, prune, sparsify, distill, meter)
        self.session = Compression(module, example, parts, self._at_start)
        if self.kept:
            self._resume(parts)
        self.session.begin()
        self.session.take_back(self.kept)

    def _resume(self, parts: Parts) -> None:
        assert self.session is not None
        parts.check_state(self.kept)
        self.session.steps = int(self.kept["steps"])
        for control, state in zip(parts.controls, self.kept["controls"], strict=True):
            if isinstance(control, PruneControl):
                control.resume(state)
            else:
                control.restore(self.session.model, state)
        parts.check_ends(self.session.steps)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Note the net and the optimizer: the session begins with the first batch."""
        self._owner = self.net(pl_module)
        self._at_start, self.steps = self._optimizers(trainer), trainer.global_step

    def _optimizers(self, trainer: Any) -> list[torch.optim.Optimizer]:
        """Return the optimizers that train the net."""
        found = [one for one in trainer.optimizers if trains(one, self._owner)]
        if not found:
            raise ConfigError(
                "no optimizer trains the net", hint="Compress(net=…) names the net that is trained"
            )
        return found
