"""Zero the smallest weights while a net trains, and keep them zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchopt2edge.compression.sparsity.mask import final_share, masks_of, pattern_of, prunable
from torchopt2edge.compression.sparsity.spec import Sparsify
from torchopt2edge.errors import ConfigError
from torchopt2edge.training.control import Control
from torchopt2edge.training.weight_checks import refuse_broken


class MaskControl(Control):
    """Masks by ``spec.schedule``, which stay between its steps: after every step of the optimizer
    what they leave out is zero again, in the weights and in the momentum.

    A mask is never stored: a weight that is exactly zero is what it leaves out. With
    ``spec`` None the zeros that the net comes with are kept.

    Raises:
        ConfigError: the spec's numbers cannot work.
    """

    def __init__(self, spec: Sparsify | None = None) -> None:
        if spec is not None and not 0 <= final_share(spec) < 1:
            raise ConfigError(
                f"a sparsity of {spec.sparsity} cannot be reached", hint="0 to below 1, such as 0.7"
            )
        self.spec = spec
        self.masks: dict[str, Tensor] = {}
        self.net: nn.Module | None = None
        self.weights: dict[str, Tensor] = {}
        self.optimizers: tuple[torch.optim.Optimizer, ...] = ()
        self.done = -1
        self.reached = False
        if spec is not None:
            pattern_of(spec)

    @property
    def settled(self) -> bool:
        """Whether the masks are the last ones."""
        return self.spec is None or self.reached

    @property
    def _goal(self) -> list[Any] | None:
        """What the last masks leave out: how much, of what together, by which pattern."""
        spec = self.spec
        return None if spec is None else [final_share(spec), spec.scope, spec.pattern]

    def attach(self, net: nn.Module, *optimizers: torch.optim.Optimizer | None) -> None:
        """Meet the net; mask what is due before the first step."""
        self.optimizers = tuple(one for one in optimizers if one) or self.optimizers
        self.net, self.weights = net, _weights(net, self.spec)
        if self.spec is None and not self.masks:
            self.masks = {name: weight != 0 for name, weight in self.weights.items()}
        if self.done < 0:
            self.after_step(0)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Renew the masks when the schedule says so, and apply them.

        Raises:
            TrainError: weights are not finite.
        """
        spec = self.spec
        ahead = step > self.done and not self.reached
        if spec is not None and ahead and spec.schedule.due(step):
            assert self.net is not None
            refuse_broken(self.net, step)
            share = spec.schedule.amount(step, final_share(spec))
            self.masks = masks_of(self.weights, spec, share)
            self.done, self.reached = step, step >= spec.schedule.last
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Zero what the masks leave out."""
        for name, mask in self.masks.items():
            weight = self.weights[name]
            if mask.device != weight.device:
                self.masks[name] = mask = mask.to(weight.device)
            weight.mul_(mask)
            for optimizer in self.optimizers:
                for value in optimizer.state.get(weight, {}).values():
                    if isinstance(value, Tensor) and value.shape == weight.shape:
                        value.mul_(mask)

    def finish(self) -> None:
        """Leave exact zeros, in an averaged net too."""
        self.apply()

    def state_dict(self) -> dict[str, Any]:
        """Return the masks and the last step that made them."""
        return {
            "masks": self.masks,
            "done": self.done,
            "reached": self._goal if self.settled else None,
        }

    def restore(self, net: nn.Module, state: dict[str, Any]) -> None:
        """Take the masks back."""
        self.masks, self.done = dict(state["masks"]), state["done"]
        self.reached = self.spec is not None and state["reached"] == self._goal


def _weights(net: nn.Module, spec: Sparsify | None) -> dict[str, Tensor]:
    """Return the layers' weights; in a net traced for quantization all kernels and matrices."""
    found = prunable(net, spec.ignore if spec else ())
    if found or spec is not None:
        return found
    return {name: p for name, p in net.named_parameters() if p.ndim > 1}
