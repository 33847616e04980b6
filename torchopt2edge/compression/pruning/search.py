"""Find the cuts that bring a net within its budget: tried on a copy before they are used."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

from torchopt2edge.compression.pruning import groups as grouping
from torchopt2edge.compression.pruning.budget import Budget, choose
from torchopt2edge.compression.pruning.groups import Costs, Group, Price
from torchopt2edge.compression.pruning.masking_check import unsound
from torchopt2edge.compression.pruning.spec import Prune
from torchopt2edge.errors import ConfigError, ModelError, PruneError
from torchopt2edge.models import count
from torchopt2edge.models.count import Layer
from torchopt2edge.models.cut_plan import Plan
from torchopt2edge.training.weight_checks import COMPUTED, PLAIN, computed, shared
from torchopt2edge.types import Facts

PRICES: dict[str, Price] = {"macs": grouping.macs, "params": grouping.params}
UNSOUND = "cutting it changes what the rest computes (a fixed reshape, padding or statistic)"


GRIDS = (16, 8)
"""Multiples of channels to try in turn. Integer kernels compute 16 outputs at a time, so that a
layer of 8 costs them as much as one of 16; narrow nets cannot be cut to that."""
_NEAR = 0.75  # of the wanted share: a grid that leaves less takes channels for nothing


@dataclass(frozen=True)
class Found:
    """The cuts, the layers that stay and why, and what the rounding of channels did."""

    plan: Plan
    kept: Mapping[str, str] = field(default_factory=dict)
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """A net's groups, tried, ready to be cut to any budget.

    ``groups`` can be cut soundly; ``kept`` says why the others cannot or must not.
    """

    net: nn.Module
    shape: tuple[int, ...]
    spec: Prune
    layers: Mapping[str, Layer]
    groups: Sequence[Group]
    kept: Mapping[str, str]

    def cut(self, share: float | None, price: Price, widths: Mapping[str, int]) -> Found:
        """Return the cuts after which ``share`` of the cost is left (None: only the ratios).

        ``widths`` are the channels that each layer had before any cut.

        Raises:
            PruneError: it cannot be met, or cuts that are sound each are not so together.
        """
        kept = dict(self.kept)
        while True:
            free = [group for group in self.groups if group.layer not in kept]
            costs = Costs(self.layers, free, price)
            try:
                budget, counts = self._grid(costs, share, widths)
            except PruneError as error:
                raise _with_reasons(error, kept) from error
            chosen = [g.cut(n) for g, n in zip(free, counts, strict=True) if n]
            culprits = unsound(self.net, self.shape, chosen)
            if not culprits:
                facts = self._rounding(costs, budget, counts, share)
                return Found(Plan(tuple(self.shape), tuple(chosen)), kept, facts)
            kept |= {cut.layer: UNSOUND for cut in culprits}

    def _grid(
        self, costs: Costs, share: float | None, widths: Mapping[str, int]
    ) -> tuple[Budget, tuple[int, ...]]:
        """Choose on the spec's grid, or on the coarsest of `GRIDS` that comes near the budget.

        Raises:
            PruneError: the budget cannot be met.
        """
        spec = self.spec
        *coarse, fine = GRIDS if spec.round_to is None else (spec.round_to,)
        for round_to in coarse if share is not None else ():
            budget = Budget(share or 1.0, round_to, spec.max_cut, spec.scope, widths)
            try:
                counts = self._chosen(costs, budget, share)
            except PruneError:
                continue
            if costs.share(counts) >= _NEAR * budget.share:
                return budget, counts
        budget = Budget(share or 1.0, fine, spec.max_cut, spec.scope, widths)
        return budget, self._chosen(costs, budget, share)

    def _chosen(self, costs: Costs, budget: Budget, share: float | None) -> tuple[int, ...]:
        fixed = self._fixed(costs.groups, budget)
        if share is None:
            return tuple(fixed.get(i, 0) for i in range(len(costs.groups)))
        return choose(costs, budget, fixed)

    def _fixed(self, groups: Sequence[Group], budget: Budget) -> dict[int, int]:
        """Return the groups whose loss the ratios settle: the step nearest to the ratio."""
        settled = {}
        for i, group in enumerate(groups):
            for pattern, ratio in self.spec.ratios.items():
                if fnmatchcase(group.layer, pattern):
                    free = Budget(1.0, budget.round_to, 0.999)
                    wanted = ratio * group.channels
                    settled[i] = min(free.steps(group), key=lambda n, w=wanted: abs(n - w))  # type: ignore[misc]
        return settled

    def _rounding(
        self, costs: Costs, budget: Budget, counts: Sequence[int], share: float | None
    ) -> Facts:
        """Say what the grid of channels costs: against the same search without one."""
        facts: Facts = {"share": round(costs.share(counts), 4)}
        if budget.round_to == 1 or share is None:
            return facts
        fine = Budget(budget.share, 1, budget.max_cut, budget.scope, budget.widths)
        free = self._chosen(costs, fine, share)
        return facts | {
            "round_to": budget.round_to,
            "share_unrounded": round(costs.share(free), 4),
            "importance_lost": round(_lost(costs.groups, counts), 4),
            "importance_lost_unrounded": round(_lost(costs.groups, free), 4),
        }


def prepare(net: nn.Module, shape: tuple[int, ...], spec: Prune, seed: int = 0) -> Search:
    """Find the groups of ``net`` and try each on a copy, with half of its channels.

    Raises:
        PruneError: the net cannot be traced, or a group cannot be cut and that is an error.
        ConfigError: a pattern of ``ignore`` or ``ratios`` names no layer; names the nearest.
    """
    _copied(net)
    layers = count.layers(net, shape)
    for pattern in (*spec.ignore, *spec.ratios):
        _known(pattern, list(layers))
    try:
        groups = grouping.find(net, shape, spec.importance, seed)
    except ModelError as error:
        raise PruneError(
            f"the net cannot be pruned: {error.what}", hint="leave this stage out"
        ) from error
    kept = {
        group.layer: "ignored"
        for group in groups
        if any(fnmatchcase(name, p) for name in _names(group) for p in spec.ignore)
    }
    bound = dict.fromkeys(computed(net), COMPUTED)
    bound |= {name: f"its weight is also that of {other}" for name, other in shared(net).items()}
    for group in groups:
        for name in sorted(bound.keys() & (group.outputs.keys() | group.inputs.keys())):
            why = bound[name] if name == group.layer else f"{name} goes with it, and {bound[name]}"
            kept.setdefault(group.layer, why)
    trials = [group.cut(group.channels // group.unit // 2 * group.unit) for group in groups]
    trials = [trial for trial in trials if trial.indices and trial.layer not in kept]
    kept |= {cut.layer: UNSOUND for cut in unsound(net, shape, trials)}
    if spec.uncuttable == "error" and UNSOUND in kept.values():
        wrong = [name for name, why in kept.items() if why == UNSOUND]
        raise PruneError(
            f"these layers cannot be cut: {', '.join(wrong)}: {UNSOUND}",
            hint="uncuttable=skip leaves them whole, or name them in ignore",
        )
    return Search(net, tuple(shape), spec, layers, groups, kept)


def _with_reasons(error: PruneError, kept: Mapping[str, str]) -> PruneError:
    """Return the error of a budget with the layers that stand in its way."""
    if not kept:
        return error
    layers: dict[str, list[str]] = {}
    for layer, why in kept.items():
        layers.setdefault(why, []).append(layer)
    shown = "; ".join(f"{', '.join(some)}: {why}" for why, some in list(layers.items())[:3])
    more = "; …" if len(layers) > 3 else ""
    plain = f"{PLAIN}; " if any(COMPUTED in why for why in layers) else ""
    return PruneError(f"{error.what}. These stay whole: {shown}{more}", hint=f"{plain}{error.hint}")


def _names(group: Group) -> set[str]:
    return {group.layer, *group.outputs}


def _copied(net: nn.Module) -> None:
    """Refuse a net that no cut can be tried on: each is, on a copy."""
    try:
        copy.deepcopy(net)
    except (RuntimeError, TypeError) as error:
        raise PruneError(
            f"the net cannot be pruned: it cannot be copied ({str(error).split('.')[0]})",
            hint=f"{PLAIN}; no tensor of a computation as an attribute",
        ) from error


def _known(pattern: str, names: list[str]) -> None:
    if not any(fnmatchcase(name, pattern) for name in names):
        near = difflib.get_close_matches(pattern, names, 3) or names[:3]
        raise ConfigError(f"no layer is called {pattern!r}", hint=f"such as {', '.join(near)}")


def _lost(groups: Sequence[Group], counts: Sequence[int]) -> float:
    """Return the share of all importance that goes."""
    whole = sum(sum(group.importance) for group in groups)
    lost = sum(g.share(n) * sum(g.importance) for g, n in zip(groups, counts, strict=True))
    return lost / max(whole, 1e-12)


def widths_of(net: nn.Module) -> dict[str, int]:
    """Return the output channels of every convolution and linear layer."""
    return {
        name: module.out_features if isinstance(module, nn.Linear) else module.out_channels
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    }
