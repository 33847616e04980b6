"""What a compression is made of, whoever drives the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchopt2edge.compression.distillation.loss import Distillation
from torchopt2edge.compression.distillation.spec import Distill
from torchopt2edge.compression.pruning.control import PruneControl
from torchopt2edge.compression.pruning.spec import Prune
from torchopt2edge.compression.schedules import Iterative, OneShot, Polynomial, Schedule
from torchopt2edge.compression.sparsity.control import MaskControl
from torchopt2edge.compression.sparsity.mask import zeros
from torchopt2edge.compression.sparsity.spec import Sparsify
from torchopt2edge.errors import ConfigError
from torchopt2edge.interfaces import Meter
from torchopt2edge.models.eval_mode import modes_kept
from torchopt2edge.training.control import Control
from torchopt2edge.training.unwrap import unwrapped, wrapper_of
from torchopt2edge.types import Facts


@dataclass(frozen=True)
class Parts:
    """The controls in their order, and the loss of the teachers if there are any."""

    controls: tuple[Control, ...]
    pruning: PruneControl | None = None
    masking: MaskControl | None = None
    distillation: Distillation | None = None

    @property
    def schedules(self) -> list[tuple[Control, Schedule]]:
        """The controls that follow a schedule, with it."""
        both = (self.pruning, self.masking)
        return [(one, one.spec.schedule) for one in both if one is not None and one.spec]

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Hold a checkpoint of a session against these parts.

        Raises:
            ConfigError: it is that of other parts.
        """
        kept = state["controls"]
        if [set(one) for one in kept] != [set(one.state_dict()) for one in self.controls]:
            raise ConfigError(
                "the checkpoint is that of another compression",
                hint="compress() with prune= and sparsify= as it was saved with; budgets and "
                "schedules may be others",
            )

    def check_ends(self, steps: int) -> None:
        """Hold the schedules of parts that go on against the ``steps`` that are done.

        Raises:
            ConfigError: one is over, and what it should reach is not reached.
        """
        for control, schedule in self.schedules:
            if not control.settled and schedule.last <= steps:
                raise ConfigError(
                    f"the schedule ends at step {schedule.last:g}, the checkpoint is of step "
                    f"{steps}, and what should be reached by then is not",
                    hint=f"an `end` beyond step {steps}",
                )

    def facts(self, net: nn.Module) -> Facts:
        """Say what was done to ``net``."""
        found: Facts = {}
        if self.pruning is not None:
            found |= self.pruning.facts()
        if self.masking is not None:
            found["zeros"] = round(zeros(net)["all"], 4)
        return found


def parts_of(
    net: nn.Module,
    example: Tensor,
    prune: Prune | None,
    sparsify: Sparsify | None,
    distill: Distill | None,
    meter: Meter | None,
) -> Parts:
    """Make the parts of a compression.

    Raises:
        ConfigError: nothing was asked for, the net is compiled or wrapped, a schedule in shares.
    """
    if prune is None and sparsify is None and distill is None:
        raise ConfigError("there is nothing to do", hint="prune=, sparsify= or distill=")
    asked = {Prune: prune, Sparsify: sparsify, Distill: distill}
    for kind, value in asked.items():
        if value is not None and not isinstance(value, kind):
            raise ConfigError(
                f"{value!r:.80} is no {kind.__name__}", hint=f"a t2e.{kind.__name__}(…)"
            )
    _plain(net)
    for spec in (prune, sparsify):
        if spec is not None:
            _in_steps(spec.schedule)
    if prune is not None and sparsify is not None:
        _in_order(prune.schedule, sparsify.schedule)
    pruning = PruneControl(prune, tuple(example.shape[1:]), meter=meter) if prune else None
    masking = MaskControl(sparsify) if sparsify else None
    distillation = None
    if distill is not None:
        _another(net, distill)
        distillation = Distillation(distill.teaching, distill.teachers, _unset)
    controls: list[Control] = [one for one in (pruning, masking) if one is not None]
    return Parts(tuple(controls), pruning, masking, distillation)


def example_of(net: nn.Module, example_inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the one input that channels are followed with, as a batch of two; the net runs on it.

    Raises:
        ConfigError: there are several, or none, or the net cannot run on it.
    """
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    if len(given) != 1 or not isinstance(given[0], Tensor) or given[0].ndim < 2:
        kinds = ", ".join(type(one).__name__ for one in given)
        raise ConfigError(
            f"a compression takes one example input, a tensor with the batch first, not ({kinds})",
            hint="compress(model, (torch.randn(2, 3, 224, 224),), …)",
        )
    one = given[0]
    example = one[:2] if len(one) > 1 else one.repeat(2, *[1] * (one.ndim - 1))
    _runs(net, example)
    return example


def through_of(net: nn.Module, through: nn.Module | None, parts: Parts) -> nn.Module:
    """Return what a batch goes through: ``net``, or what wraps it.

    Raises:
        ConfigError: it wraps another net, or gradients of several processes would not meet.
    """
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if several and parts.pruning is not None and not parts.pruning.settled:
        raise ConfigError(
            "channels cannot be cut while several devices train the same net",
            hint="cut before it is wrapped (a one-shot pruning), or prune on one device first",
        )
    if several and through is None:
        raise ConfigError(
            "several processes train, but the batch goes past what brings their gradients together",
            hint="c.loss(x, y, criterion, through=ddp), with ddp = DistributedDataParallel(model)",
        )
    if through is not None and unwrapped(through) is not net:
        raise ConfigError(
            f"through= is a {type(through).__name__} around another net than was compressed",
            hint="through=torch.compile(model), or DistributedDataParallel(model)",
        )
    return net if through is None else through


def _plain(net: nn.Module) -> None:
    kind = wrapper_of(net)
    if kind is not None:
        raise ConfigError(
            f"a net inside {kind} cannot be changed while it trains",
            artifact=kind,
            hint="compress the net itself, wrap it afterwards: "
            "c.loss(x, y, criterion, through=wrapped)",
        )


def _runs(net: nn.Module, example: Tensor) -> None:
    """Show the net the example once: what it says of a wrong one is said here."""
    like = next(net.parameters(), example)
    floats = example.is_floating_point() and like.is_floating_point()
    shown = example.to(like.device, like.dtype if floats else example.dtype)
    try:
        with torch.no_grad(), modes_kept(net):
            net.eval()(shown)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise ConfigError(
            f"the model cannot run on an example of {tuple(example.shape)}: {error}",
            artifact=type(net).__name__,
            hint="example inputs as the loop's batches are: batch first, same channels, size, type",
        ) from error


def _another(net: nn.Module, distill: Distill) -> None:
    mine = {id(parameter) for parameter in net.parameters()}
    for teacher in distill.teachers:
        if not isinstance(teacher, nn.Module):
            raise ConfigError(
                f"a teacher is a module, not a {type(teacher).__name__}",
                hint="Distill(net), built and with its weights",
            )
        if any(id(parameter) in mine for parameter in teacher.parameters()):
            raise ConfigError(
                "the teacher shares weights with the net that learns: both would stand still",
                hint="Distill(copy.deepcopy(model))",
            )


def _in_order(cuts: Schedule, zeros: Schedule) -> None:
    if any(zeros.due(step) for step in range(int(cuts.last))):
        raise ConfigError(
            "single weights cannot go before the last channel went: a mask has a shape",
            hint=f"a schedule of sparsify= that begins at step {int(cuts.last)} or later",
        )


def _in_steps(schedule: object) -> None:
    if isinstance(schedule, OneShot | Polynomial | Iterative):
        given = [getattr(schedule, name, 0) for name in ("begin", "end", "between")]
        shares = [value for value in given if isinstance(value, float) and value]
        if any(value <= 1 or value != int(value) for value in shares):
            raise ConfigError(
                f"the schedule {schedule} is in shares of a training whose length is not known",
                hint="whole optimizer steps, such as Polynomial(begin=1000, end=3000)",
            )


def _unset(outputs: Any, targets: Any) -> Tensor:
    raise ConfigError("a loss needs a criterion", hint="c.loss(x, y, criterion)")
