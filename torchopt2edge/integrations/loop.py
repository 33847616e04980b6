"""Compression around a training loop of the user's own: a few lines, no change to the model."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from torchopt2edge.distillation.spec import Distill
from torchopt2edge.errors import ConfigError
from torchopt2edge.integrations.parts import Parts, parts_of, single_input
from torchopt2edge.models.plan import Plan
from torchopt2edge.protocols import Meter
from torchopt2edge.pruning import explain as pruning
from torchopt2edge.pruning.explain import Explanation
from torchopt2edge.pruning.spec import Prune
from torchopt2edge.pruning.statistics import refresh
from torchopt2edge.sparsity.spec import Sparsify
from torchopt2edge.training.batch import Batch

_SHOWN = 16  # batches whose inputs are kept to measure BatchNorm statistics after a cut
Criterion = Callable[[Any, Any], Tensor]


def compress(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    prune: Prune | None = None,
    sparsify: Sparsify | None = None,
    distill: Distill | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    meter: Meter | None = None,
) -> Compression:
    """Prune, sparsify and distill ``model`` in place while a loop of one's own trains it.

    ::

        c = t2e.compress(model, example, prune=t2e.Prune(macs=0.5), distill=t2e.Distill(teacher))
        for x, y in loader:
            loss = c.loss(x, y, criterion)
            loss.backward(); optimizer.step(); optimizer.zero_grad()
            c.step()
        small = c.finish()

    What is due at step 0 (a one-shot pruning) happens here, before the optimizer needs to exist.
    The optimizer that steps is noticed by itself; its momentum loses the channels that the net
    loses, and its groups, hence any learning-rate schedule, stay.

    Args:
        model: the net that the optimizer trains; not compiled, not wrapped for several devices.
        example_inputs: one input, batch first, of the shape that the net will see.
        prune: which channels go, how many and when, in optimizer steps.
        sparsify: which weights become zero.
        distill: who teaches, and what is copied.
        optimizer: given, it is not looked for.
        meter: measures, for a budget in milliseconds (``torchopt2edge.meter.Meter()``).

    Raises:
        ConfigError: nothing to do, or a model that cannot be changed while it trains.
        PruneError: a budget that cannot be met.
    """
    example = single_input(example_inputs)
    parts = parts_of(model, example, prune, sparsify, distill, meter)
    session = Compression(model, example, parts, optimizer)
    session.begin()
    return session


class Compression:
    """A compression under way; `compress` makes it."""

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        parts: Parts,
        optimizer: torch.optim.Optimizer | None,
    ) -> None:
        self.model = model
        self.steps = 0
        self.parts, self._example, self._optimizer = parts, example, optimizer
        self._shown: deque[Tensor] = deque(maxlen=_SHOWN)
        self._adapting: torch.optim.Optimizer | None = None
        self._hook: Any = None
        self._pending = False
        self._ended = False

    def loss(self, inputs: Tensor, targets: Any, criterion: Criterion) -> Tensor:
        """Run the model on a batch and return what to call ``backward`` on.

        ``criterion(outputs, targets)`` is the loop's own loss; with ``distill`` the teacher's
        terms are mixed in, with a regularised pruning its penalty is added.

        Raises:
            ConfigError: the session is finished.
        """
        self._alive()
        self.show(inputs)
        distillation = self.parts.distillation
        if distillation is None:
            loss = criterion(self.model(inputs), targets)
        else:
            distillation.hard = criterion
            loss = distillation(self.model, Batch(inputs, targets))
        for control in self.parts.controls:
            extra = control.penalty()
            loss = loss if extra is None else loss + extra
        self._pending = True
        return loss

    def show(self, inputs: Tensor) -> None:
        """Note a batch's inputs: BatchNorm statistics are measured on them after a cut."""
        self._shown.append(inputs.detach())

    def step(self) -> None:
        """Do what is due after an optimizer step: call it behind every ``optimizer.step()``.

        Raises:
            ConfigError: no loss was computed since the last call, or the session is finished.
        """
        self._alive()
        if not self._pending:
            raise ConfigError(
                "step() was called without a loss since the last one",
                mend="loss = c.loss(x, y, criterion); loss.backward(); optimizer.step(); c.step()",
            )
        self._pending = False
        self.advance(self._optimizer)

    def advance(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Do what is due after a step of ``optimizer``, whoever called it."""
        if self._adapting is not None:
            self._adapting.step()
            self._adapting.zero_grad()
        self.steps += 1
        for control in self.parts.controls:
            control.attach(self.model, optimizer)
            control.after_step(self.steps)

    def finish(self, out: str | Path | None = None) -> nn.Module:
        """End it and return the model, small and free of hooks, in the mode it is in.

        A folder ``out`` gets its plan and weights, as `save` writes them.

        Raises:
            ConfigError: it was finished before, or a schedule has not come to its end.
        """
        self._alive()
        early = [c for c in self.parts.controls if not c.settled]
        if early:
            raise ConfigError(
                f"after {self.steps} steps a schedule has not come to its end",
                mend="train on, or an earlier `end` of the schedule",
            )
        for control in self.parts.controls:
            control.finish()
        self._refresh(self.model)
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
        return {
            "steps": self.steps,
            "controls": [control.state_dict() for control in self.parts.controls],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: call it before the model's weights are loaded.

        The model is cut as the saved one had been. Make the optimizer afterwards.

        Raises:
            ConfigError: the session has been used, or cuts at step 0 were made already.
        """
        if self.steps or self._pending or self.plan.cuts:
            raise ConfigError(
                "this session has begun, so a checkpoint cannot be loaded into it",
                mend="a fresh model and session, a schedule from step 1 on, then load at once",
            )
        for control, one in zip(self.parts.controls, state["controls"], strict=True):
            control.restore(self.model, one)
        self.steps = state["steps"]

    def begin(self) -> None:
        """Meet the model: do what is due before the first step."""
        if self.parts.pruning is not None:
            self.parts.pruning.refresh = self._refresh
        for control in self.parts.controls:
            control.attach(self.model, self._optimizer)
        distillation = self.parts.distillation
        if distillation is not None:
            device = next(self.model.parameters()).device
            distillation.to(device).train()
            distillation.prepare(self.model, Batch(self._example.to(device)))
            own = [p for p in distillation.parameters() if p.requires_grad]
            self._adapting = torch.optim.Adam(own, lr=1e-3) if own else None
        if self._optimizer is None:
            self._hook = register_optimizer_step_post_hook(self._notice)

    def _notice(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Remember the optimizer that has just moved the model's parameters."""
        mine = {id(p) for p in self.model.parameters()}
        if any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
            self._optimizer = optimizer

    def _refresh(self, net: nn.Module) -> None:
        if self._shown:
            refresh(net, (inputs for inputs in self._shown if len(inputs) > 1))

    def _alive(self) -> None:
        if self._ended:
            raise ConfigError("this compression is finished", mend="call compress() again")


def explain(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    prune: Prune,
    meter: Meter | None = None,
) -> Explanation:
    """Return what ``prune`` would cut of ``model``, which stays as it is; printed, it is a table.

    With a ``meter`` each layer's latency is predicted.

    Raises:
        PruneError: the budget cannot be met, or the net cannot be traced.
    """
    shape = tuple(single_input(example_inputs).shape[1:])
    return pruning.explain(model, shape, prune, meter)


def rebuild(model: nn.Module, folder: str | Path) -> nn.Module:
    """Cut a freshly built ``model`` and load its weights as `Compression.save` wrote them.

    Raises:
        ModelError: a file is missing or damaged, or made for another net.
    """
    from torchopt2edge.models.artifact import load_checkpoint, load_plan

    out = Path(folder)
    plan = load_plan(out)
    if plan is not None and plan.cuts:
        plan.apply(model)
    load_checkpoint(model, out / "weights.pt")
    return model
