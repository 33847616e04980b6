"""Choose what to cut so that a net costs a given share of its multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torchopt2edge.errors import PruneError
from torchopt2edge.models.count import Layer
from torchopt2edge.pruning.groups import Group, macs_after


@dataclass(frozen=True)
class Budget:
    """The wanted share of multiply-accumulates, and the grid of channel counts to reach it on.

    Every layer that is cut keeps a multiple of ``round_to`` channels, and at least
    1 - ``max_cut`` of those it had.
    """

    macs: float
    round_to: int
    max_cut: float

    def steps(self, group: Group) -> tuple[int, ...]:
        """Return how many channels may go from the group, from none upwards."""
        grid = math.lcm(self.round_to, group.unit)
        least = max(grid, math.ceil(group.channels * (1 - self.max_cut) - 1e-9))
        kept = (k for k in range(group.channels - 1, least - 1, -1) if k % grid == 0)
        return (0, *(group.channels - k for k in kept))


def choose(layers: Mapping[str, Layer], groups: Sequence[Group], budget: Budget) -> tuple[int, ...]:
    """Return how many channels each group loses: at most the budget, and close to it.

    Step by step, the cut that loses the least importance for the operations it saves; a group
    that has lost much already pays more. Then steps that turn out to be needless are given back.

    Raises:
        PruneError: the budget cannot be met; it names the closest share.
    """
    steps = [budget.steps(group) for group in groups]
    at = [0] * len(groups)
    whole = macs_after(layers, groups, at)

    def share(places: Sequence[int]) -> float:
        return (
            macs_after(layers, groups, [s[p] for s, p in zip(steps, places, strict=True)]) / whole
        )

    now = share(at)
    while now > budget.macs:
        best, then = None, now
        lowest = math.inf
        for i, group in enumerate(groups):
            if at[i] + 1 == len(steps[i]):
                continue
            after = share(_moved(at, i, 1))
            price = _price(group, steps[i][at[i]], steps[i][at[i] + 1])
            if after < now and price / (now - after) < lowest:
                lowest, best, then = price / (now - after), i, after
        if best is None:
            raise PruneError(
                f"pruning reaches {now:.1%} of the multiply-accumulates, not {budget.macs:.1%}",
                mend=f"macs={math.ceil(now * 100) / 100}, a smaller round_to or a larger max_cut",
            )
        at, now = _moved(at, best, 1), then
    return tuple(s[p] for s, p in zip(steps, _given_back(at, share, budget.macs), strict=True))


def _price(group: Group, before: int, after: int) -> float:
    lost = group.share(after) - group.share(before)
    return lost * (group.channels / (group.channels - after)) ** 2


def _moved(places: Sequence[int], index: int, by: int) -> list[int]:
    moved = list(places)
    moved[index] += by
    return moved


def _given_back(at: list[int], share: Callable[[Sequence[int]], float], limit: float) -> list[int]:
    """Undo steps as long as the share stays within the limit, each time the largest that does."""
    while True:
        undone = [_moved(at, i, -1) for i in range(len(at)) if at[i]]
        within = [(share(places), places) for places in undone]
        within = [pair for pair in within if pair[0] <= limit]
        if not within:
            return at
        at = max(within)[1]
