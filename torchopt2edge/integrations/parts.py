"""What a compression is made of, whoever drives the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from torchopt2edge.distillation.loss import Distillation
from torchopt2edge.distillation.spec import Distill
from torchopt2edge.errors import ConfigError
from torchopt2edge.protocols import Meter
from torchopt2edge.pruning.control import PruneControl
from torchopt2edge.pruning.spec import Prune
from torchopt2edge.ramp import Iterative, OneShot, Polynomial
from torchopt2edge.sparsity.control import MaskControl
from torchopt2edge.sparsity.mask import zeros
from torchopt2edge.sparsity.spec import Sparsify
from torchopt2edge.training.control import Control
from torchopt2edge.types import Facts


@dataclass(frozen=True)
class Parts:
    """The controls in their order, and the loss of the teachers if there are any."""

    controls: tuple[Control, ...]
    pruning: PruneControl | None = None
    masking: MaskControl | None = None
    distillation: Distillation | None = None

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
        raise ConfigError("there is nothing to do", mend="prune=, sparsify= or distill=")
    _plain(net)
    for spec in (prune, sparsify):
        if spec is not None:
            _in_steps(spec.schedule)
    pruning = PruneControl(prune, tuple(example.shape[1:]), meter=meter) if prune else None
    masking = MaskControl(sparsify) if sparsify else None
    if pruning and masking:
        raise ConfigError(
            "channels and single weights cannot go at the same time: a mask has a shape",
            mend="one compression after the other: prune first, then sparsify",
        )
    distillation = None
    if distill is not None:
        distillation = Distillation(distill.teaching, distill.teachers, _unset)
    controls: list[Control] = [one for one in (pruning, masking) if one is not None]
    return Parts(tuple(controls), pruning, masking, distillation)


def single_input(example_inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the one input that channels are followed with.

    Raises:
        ConfigError: there are several, or none.
    """
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    if len(given) != 1 or not isinstance(given[0], Tensor) or given[0].ndim < 2:
        raise ConfigError(
            f"a compression takes one example input, batch first, not {len(given)}",
            mend="compress(model, (torch.randn(2, 3, 224, 224),), …)",
        )
    return given[0][:2] if len(given[0]) > 1 else given[0].repeat(2, *[1] * (given[0].ndim - 1))


def _plain(net: nn.Module) -> None:
    kind = type(net).__name__
    if kind in ("OptimizedModule", "DistributedDataParallel", "FullyShardedDataParallel"):
        raise ConfigError(
            f"a net inside {kind} cannot be changed while it trains",
            artifact=kind,
            mend="compress the net itself, and compile or wrap it afterwards",
        )


def _in_steps(schedule: object) -> None:
    if isinstance(schedule, OneShot | Polynomial | Iterative):
        given = [getattr(schedule, name, 0) for name in ("begin", "end", "between")]
        if any(isinstance(value, float) and value != int(value) for value in given):
            raise ConfigError(
                f"the schedule {schedule} is in shares of a training whose length is not known",
                mend="whole optimizer steps, such as Polynomial(begin=1000, end=3000)",
            )


def _unset(outputs: Any, targets: Any) -> Tensor:
    raise ConfigError("a loss needs a criterion", mend="c.loss(x, y, criterion)")
