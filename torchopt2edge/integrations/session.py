"""A compression under way, whoever drives the loop."""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from torchopt2edge.compression.pruning.optimizer_surgery import trains, uncut
from torchopt2edge.compression.pruning.statistics import refresh
from torchopt2edge.errors import ConfigError
from torchopt2edge.integrations.parts import Parts, through_of
from torchopt2edge.models.cut_plan import Plan
from torchopt2edge.training.batch import Batch
from torchopt2edge.training.weight_checks import refuse_broken

_SHOWN = 16  # batches whose inputs are kept to measure BatchNorm statistics after a cut
_LOOP = "loss = c.loss(x, y, criterion); loss.backward(); optimizer.step(); c.step()"
Criterion = Callable[[Any, Any], Tensor]
Optimizers = Sequence[torch.optim.Optimizer]


class Compression:
    """A compression under way; `compress` makes it."""

    def __init__(
        self, model: nn.Module, example: Tensor, parts: Parts, optimizers: Optimizers = ()
    ) -> None:
        self.model = model
        self.steps = 0
        self.parts, self._example = parts, example
        self._optimizers = WeakSet(optimizers)  # one that the loop replaces may go
        self._given = bool(optimizers)
        self._shown: deque[Tensor] = deque(maxlen=_SHOWN)
        self._adapting: torch.optim.Optimizer | None = None
        self._whole: nn.Module | None = None  # as it was, if it was cut before the first step
        self._hook: Any = None
        self._pending = False
        self._ended = False

    def loss(
        self,
        inputs: Tensor,
        targets: Any,
        criterion: Criterion,
        through: nn.Module | None = None,
    ) -> Tensor:
        """Run the model on a batch and return what to call ``backward`` on.

        ``criterion(outputs, targets)`` is the loop's own loss; with ``distill`` the teacher's
        terms are mixed in, with a regularised pruning its penalty is added. ``through`` is what
        wraps the model (``torch.compile(model)``, DistributedDataParallel): the batch runs there.

        Raises:
            ConfigError: the session is finished, or ``through`` does not wrap this model.
        """
        self._alive()
        net = through_of(self.model, through, self.parts)
        self.show(inputs)
        distillation = self.parts.distillation
        if distillation is None:
            loss = criterion(net(inputs), targets)
        else:
            distillation.hard = criterion
            loss = distillation(net, Batch(inputs, targets))
        for control in self.parts.controls:
            extra = control.penalty()
            loss = loss if extra is None else loss + extra
        self._pending = True
        return loss

    def show(self, inputs: Tensor) -> None:
        """Note a batch's inputs: BatchNorm statistics are measured on them after a cut.

        Raises:
            ConfigError: they are not one tensor.
        """
        if not isinstance(inputs, Tensor):
            raise ConfigError(
                f"a net under compression runs on one tensor, not on a {type(inputs).__name__}",
                hint="c.loss(x, y, criterion), with everything else in y",
            )
        self._shown.append(inputs.detach())

    def step(self) -> None:
        """Do what is due after an optimizer step: call it behind every ``optimizer.step()``.

        Raises:
            ConfigError: no loss was computed since the last call, channels are to be cut and no
                optimizer has stepped, or the session is finished.
        """
        self._alive()
        if not self._pending:
            raise ConfigError("step() was called without a loss since the last one", hint=_LOOP)
        pruning = self.parts.pruning
        due = pruning is not None and pruning.spec.schedule.due(self.steps + 1)
        if due and not self._optimizers:
            raise ConfigError(
                "channels are to be cut, but no optimizer of the model has stepped yet: "
                "it would train on the weights of before",
                hint=f"{_LOOP}, in this order; or compress(optimizer=…)",
            )
        self._pending = False
        self.advance(*self._optimizers)

    def advance(self, *optimizers: torch.optim.Optimizer) -> None:
        """Do what is due after a step of ``optimizers``, whoever called it."""
        if self._adapting is not None:
            self._adapting.step()
            self._adapting.zero_grad()
        self.steps += 1
        self._whole = None
        for control in self.parts.controls:
            control.attach(self.model, *optimizers)
            control.after_step(self.steps)

    def finish(self, out: str | Path | None = None) -> nn.Module:
        """End it and return the model, small and free of hooks, in the mode it is in.

        A folder ``out`` gets its plan and weights, as `save` writes them.

        Raises:
            ConfigError: it was finished before, or a schedule has not come to its end.
            TrainError: weights are not finite.
        """
        self._alive()
        if self._pending and not self.steps:
            raise ConfigError("losses were computed, but step() was never called", hint=_LOOP)
        early = [schedule.last for control, schedule in self.parts.schedules if not control.settled]
        if early:
            raise ConfigError(
                f"after {self.steps} steps a schedule has not come to its end, step {early[0]:g}",
                hint="train on, or an earlier `end` of the schedule",
            )
        refuse_broken(self.model, self.steps)
        for control in self.parts.controls:
            control.finish()
        refresh(self.model, self._batches())
        self.close()
        if out is not None:
            self.save(out)
        return self.model

    def close(self) -> None:
        """Take everything off the model and let go of the optimizer; harmless when called again."""
        self._ended = True
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if self.parts.distillation is not None:
            self.parts.distillation.close()
        self._shown.clear()
        self._whole = None

    def __enter__(self) -> Compression:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def plan(self) -> Plan:
        """All cuts so far, as plain data; no cuts without a pruning."""
        pruning = self.parts.pruning
        return Plan(tuple(self._example.shape[1:]), ()) if pruning is None else pruning.plan

    def facts(self) -> dict[str, Any]:
        """Say what was done: shares of MACs and parameters, channels, zeros."""
        return self.parts.facts(self.model)

    def save(self, folder: str | Path) -> None:
        """Write ``plan.json`` and ``weights.pt``, which `rebuild` takes; nothing is pickled."""
        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        (out / "plan.json").write_text(json.dumps(self.plan.to_json()))
        state = {key: value.detach().cpu() for key, value in self.model.state_dict().items()}
        torch.save(state, out / "weights.pt")

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors for the loop's checkpoint, beside model and optimizer."""
        state = {
            "steps": self.steps,
            "controls": [control.state_dict() for control in self.parts.controls],
        }
        if self.parts.distillation is not None:
            state["distillation"] = {
                "steps": self.parts.distillation.steps,
                "learned": self.parts.distillation.learned(),
                "optimizer": None if self._adapting is None else self._adapting.state_dict(),
            }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: call it before the model's weights are loaded.

        The model is cut as the saved one had been, whatever was cut before the first step. Make
        the optimizer afterwards.

        Raises:
            ConfigError: the session has been used, or the checkpoint is that of another one.
        """
        if self.steps or self._pending:
            raise ConfigError(
                "this session has begun, so a checkpoint cannot be loaded into it",
                hint="a fresh model and compress(), then load_state_dict() before the first step",
            )
        self.parts.check_state(state)
        if self._whole is not None:
            uncut(self.model, self._whole)
            self._whole = None
        for control, one in zip(self.parts.controls, state["controls"], strict=True):
            control.restore(self.model, one)
        self.steps = state["steps"]
        self.parts.check_ends(self.steps)
        if self.parts.distillation is not None:
            self._teach()
            self.take_back(state)

    def take_back(self, state: dict[str, Any]) -> None:
        """Give the adapters of hints and their optimizer what they had learned."""
        kept = state.get("distillation")
        if self.parts.distillation is None or kept is None:
            return
        self.parts.distillation.steps = kept["steps"]
        self.parts.distillation.load_state_dict(kept["learned"], strict=False)
        if self._adapting is not None and kept["optimizer"] is not None:
            self._adapting.load_state_dict(kept["optimizer"])

    def begin(self) -> None:
        """Meet the model: do what is due before the first step."""
        pruning = self.parts.pruning
        if pruning is not None:
            pruning.refresh = lambda net: refresh(net, self._batches(), frozen=True)
            if pruning.done < 0 and pruning.spec.schedule.due(0):
                self._whole = copy.deepcopy(self.model)
        for control in self.parts.controls:
            control.attach(self.model, *self._optimizers)
        if self.parts.distillation is not None:
            self._teach()
        if not self._given:
            self._hook = register_optimizer_step_post_hook(self._notice)

    def _teach(self) -> None:
        """Hold student and teacher against each other as they are now."""
        distillation = self.parts.distillation
        assert distillation is not None
        device = next(self.model.parameters()).device
        distillation.adapters.clear()
        distillation.to(device).train()
        distillation.prepare(self.model, Batch(self._example.to(device)))
        own = [p for p in distillation.parameters() if p.requires_grad]
        self._adapting = torch.optim.Adam(own, lr=1e-3) if own else None

    def _notice(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Remember an optimizer that has just moved the model's parameters."""
        if optimizer not in self._optimizers and trains(optimizer, self.model):
            self._optimizers.add(optimizer)

    def _batches(self) -> Iterator[Tensor]:
        """Yield the inputs shown last; single samples together, since they have no variance."""
        single = [inputs for inputs in self._shown if len(inputs) == 1]
        if len(single) > 1 and len({inputs.shape for inputs in single}) == 1:
            yield torch.cat(single)
        yield from (inputs for inputs in self._shown if len(inputs) > 1)

    def _alive(self) -> None:
        if self._ended:
            raise ConfigError(
                "this compression is finished: the net is c.model", hint="compress() begins another"
            )
