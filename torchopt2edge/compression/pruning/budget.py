"""Choose how many channels each group loses so that a net costs no more than it may."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torchopt2edge.compression.pruning.groups import Costs, Group
from torchopt2edge.errors import PruneError


@dataclass(frozen=True)
class Budget:
    """The wanted share of the cost, and the grid of channel counts to reach it on.

    Every layer that is cut keeps a multiple of ``round_to`` channels, and at least
    1 - ``max_cut`` of those it had (``widths``, by layer, where it has lost some before).
    ``scope`` ranks all channels together, or takes the same share of every group.
    """

    share: float
    round_to: int = 8
    max_cut: float = 0.75
    scope: Literal["global", "uniform"] = "global"
    widths: Mapping[str, int] = field(default_factory=dict)

    def steps(self, group: Group) -> tuple[int, ...]:
        """Return how many channels may go from the group, from none upwards."""
        had = self.widths.get(group.layer, group.channels)
        grid = math.lcm(self.round_to, group.unit)
        least = max(grid, math.ceil(had * (1 - self.max_cut) - 1e-9))
        kept = (k for k in range(group.channels - 1, least - 1, -1) if k % grid == 0)
        return (0, *(group.channels - k for k in kept))


def choose(costs: Costs, budget: Budget, fixed: Mapping[int, int] | None = None) -> tuple[int, ...]:
    """Return how many channels each group loses: at most the budget, and close to it.

    ``fixed`` are groups, by index, whose loss is settled already. With ``scope`` global, step by
    step the cut that loses the least importance for what it saves; a group that has lost
    much already pays more. Then steps that turn out to be needless are given back.

    Raises:
        PruneError: the budget cannot be met; it names the closest share.
    """
    steps = [
        (fixed[i], fixed[i]) if fixed and i in fixed else budget.steps(group)
        for i, group in enumerate(costs.groups)
    ]
    walk = _Walk(costs, steps)
    limit = budget.share * costs.total([0] * len(steps))
    if budget.scope == "uniform":
        walk.evenly(limit)
    else:
        walk.cheapest(limit)
    return tuple(s[p] for s, p in zip(steps, walk.at, strict=True))


def unmet(reached: float, wanted: float) -> PruneError:
    """Return the error of a budget that cannot be met."""
    closest = math.ceil(reached * 100) / 100
    share = f"a share of {closest}, " if closest < 1 else ""
    return PruneError(
        f"pruning reaches {reached:.1%} of the cost, not {wanted:.1%}",
        hint=f"{share}a smaller round_to, a larger max_cut or fewer ignored layers",
    )


class _Walk:
    """A place on every group's stairs, and what the net costs there."""

    def __init__(self, costs: Costs, steps: Sequence[tuple[int, ...]]) -> None:
        self.costs, self.steps = costs, steps
        self.at = [0] * len(steps)
        self.whole = costs.total([0] * len(steps))
        self.now = costs.total(self._counts(self.at))

    def _counts(self, at: Sequence[int]) -> list[int]:
        return [s[p] for s, p in zip(self.steps, at, strict=True)]

    def _moved(self, index: int, by: int) -> tuple[list[int], float]:
        """Return the places after a move, and the cost there; only touched layers are counted."""
        moved = list(self.at)
        moved[index] += by
        only = self.costs.touched(index)
        before = self.costs.total(self._counts(self.at), only)
        return moved, self.now - before + self.costs.total(self._counts(moved), only)

    def cheapest(self, limit: float) -> None:
        """Go down, each time where the least importance is lost for what is saved."""
        while self.now > limit * (1 + 1e-12):
            best, lowest = None, math.inf
            for i, group in enumerate(self.costs.groups):
                if self.at[i] + 1 >= len(self.steps[i]):
                    continue
                at, then = self._moved(i, 1)
                price = _price(group, self.steps[i][self.at[i]], self.steps[i][at[i]])
                if then < self.now and price / (self.now - then) < lowest:
                    lowest, best = price / (self.now - then), (at, then)
            if best is None:
                raise unmet(self.now / self.whole, limit / self.whole)
            self.at, self.now = best
        self._give_back(limit)

    def _give_back(self, limit: float) -> None:
        """Undo steps as long as the limit holds, each time the largest that fits."""
        while True:
            undone = [self._moved(i, -1) for i in range(len(self.at)) if self.at[i]]
            within = [(then, at) for at, then in undone if then <= limit]
            if not within:
                return
            self.now, self.at = max(within)

    def evenly(self, limit: float) -> None:
        """Take the smallest share of every group that is enough."""
        shares = sorted(
            {
                count / group.channels
                for group, steps in zip(self.costs.groups, self.steps, strict=True)
                for count in steps
            }
        )
        for share in shares:
            self.at = [
                max(p for p, count in enumerate(steps) if count <= share * group.channels or not p)
                for group, steps in zip(self.costs.groups, self.steps, strict=True)
            ]
            self.now = self.costs.total(self._counts(self.at))
            if self.now <= limit:
                return
        raise unmet(self.now / self.whole, limit / self.whole)


def _price(group: Group, before: int, after: int) -> float:
    lost = group.share(after) - group.share(before)
    return lost * (group.channels / (group.channels - after)) ** 2
