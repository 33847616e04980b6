"""How much a channel matters: torch-pruning's measures by name, and chance to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from torchopt2edge.errors import ConfigError, PruneError
from torchopt2edge.training.augmented_views import mixed
from torchopt2edge.training.recipe import seeded

Score = Callable[[Any], Any]
"""A group of torch-pruning → one score for each channel of its root, a mean of 1; None: no say."""


def scorer(name: str, net: nn.Module, seed: int = 0) -> Score:
    """Return the importance called ``name``.

    ``group_l1``, ``group_l2``: the norm of all weights that go with a channel (Li et al. 2017;
    summed over the group as in Fang et al. 2023). ``bn_scale``: the scale of its normalisation
    (Liu et al. 2017, "Network Slimming"). ``fpgm``: the distance to the other filters (He et al.
    2019). ``taylor``: weight times gradient (Molchanov et al. 2019), of the gradients that the
    net holds. ``random``: chance, drawn with ``seed``.

    Raises:
        ConfigError: no such importance.
        PruneError: ``taylor`` without gradients.
    """
    from torch_pruning import importance

    makers: dict[str, Callable[[], Score]] = {
        "group_l1": lambda: importance.GroupMagnitudeImportance(p=1),
        "group_l2": lambda: importance.GroupMagnitudeImportance(p=2),
        "bn_scale": importance.BNScaleImportance,
        "fpgm": lambda: importance.FPGMImportance(p=2),
        "taylor": importance.GroupTaylorImportance,
        "random": lambda: _Chance(seed),
    }
    if name not in makers:
        raise ConfigError(f"there is no importance {name!r}", hint=f"one of {', '.join(makers)}")
    if name == "taylor" and all(p.grad is None for p in net.parameters()):
        raise PruneError(
            "the importance taylor needs gradients, and the net has none",
            hint="a schedule from step 1 on, with c.step() before optimizer.zero_grad(); "
            "or importance=group_l2",
        )
    return makers[name]()


class _Chance:
    """Random scores, another draw for each group that is asked about."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.asked = 0

    def __call__(self, group: Any) -> Any:
        import torch

        self.asked += 1
        with seeded(mixed(self.seed, self.asked)):
            return torch.rand(len(group[0].idxs)) + 0.5
