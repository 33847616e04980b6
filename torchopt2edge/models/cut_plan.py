"""The plan of a pruned net: which channels to cut after building it, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchopt2edge.errors import ModelError
from torchopt2edge.models.eval_mode import modes_kept, zeros

# What torch-pruning raises on an operation it cannot follow (channel shuffle: a division by zero).
_UNTRACED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Cut:
    """Channels taken from ``layer`` (outputs, or inputs when not ``out``), with all that depends.

    ``indices`` count in the net as the cuts before this one left it.
    """

    layer: str
    out: bool
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Cuts in order; ``shape`` (C, H, W) is an input that the dependency graph is traced with."""

    shape: tuple[int, ...]
    cuts: tuple[Cut, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in ``plan.json``."""
        cuts = [[cut.layer, cut.out, list(cut.indices)] for cut in self.cuts]
        return {"shape": list(self.shape), "cuts": cuts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Read what ``to_json`` wrote."""
        cuts = tuple(Cut(layer, out, tuple(indices)) for layer, out, indices in data["cuts"])
        return cls(tuple(data["shape"]), cuts)

    def apply(self, net: nn.Module) -> None:
        """Cut ``net`` in place; it is left in the mode it was in.

        Raises:
            ModelError: the net is not the one the plan was made for.
        """
        graph = trace(net, self.shape)
        history = [[cut.layer, cut.out, list(cut.indices)] for cut in self.cuts]
        try:
            graph.load_pruning_history(history)
        except (AttributeError, AssertionError, IndexError, ValueError) as error:
            raise ModelError(
                f"a pruning plan does not fit the model: {error}",
                artifact=type(net).__name__,
                hint="give the net that was cut, made anew by the same call",
            ) from error


def trace(net: nn.Module, shape: tuple[int, ...]) -> Any:
    """Return torch-pruning's dependency graph of ``net`` for one sample of ``shape``.

    Source: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning".

    Raises:
        ModelError: the net cannot be traced.
    """
    import torch_pruning

    frozen = [p for p in net.parameters() if not p.requires_grad]
    try:
        with torch.enable_grad(), modes_kept(net):
            for parameter in frozen:
                parameter.requires_grad_(True)  # the graph is read off autograd
            example = zeros(net, 2, shape)
            return torch_pruning.DependencyGraph().build_dependency(net, example, verbose=False)
    except _UNTRACED as error:
        raise ModelError(
            f"torch-pruning cannot trace this net: {error}", artifact=type(net).__name__
        ) from error
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
