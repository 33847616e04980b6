from __future__ import annotations

import pytest

from torchopt2edge.errors import PruneError
from torchopt2edge.models.count import Layer
from torchopt2edge.pruning.budget import Budget, choose
from torchopt2edge.pruning.groups import Group, macs_after

LAYERS = {
    "a": Layer(3, 32, 1, 9, 100),
    "b": Layer(32, 64, 1, 9, 100),
    "c": Layer(64, 48, 1, 9, 25),
    "d": Layer(48, 10, 1, 1, 1),
}


def _group(layer: str, after: str, channels: int, unit: int = 1) -> Group:
    order = tuple(range(channels // unit))
    return Group(
        layer, channels, unit, order, tuple(1.0 + i for i in order), {layer: 1.0}, {after: 1.0}
    )


GROUPS = [_group("a", "b", 32), _group("b", "c", 64), _group("c", "d", 48)]


def _share(counts: tuple[int, ...]) -> float:
    return macs_after(LAYERS, GROUPS, counts) / macs_after(LAYERS, GROUPS, [0, 0, 0])


@pytest.mark.parametrize("macs", [0.2, 0.35, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("round_to", [1, 4, 8])
def test_the_budget_is_met_and_nothing_is_cut_in_vain(macs: float, round_to: int):
    budget = Budget(macs, round_to, 0.75)
    counts = choose(LAYERS, GROUPS, budget)
    assert _share(counts) <= macs
    for i, group in enumerate(GROUPS):
        steps = budget.steps(group)
        assert (group.channels - counts[i]) % round_to == 0
        place = steps.index(counts[i])
        if place:
            fewer = (*counts[:i], steps[place - 1], *counts[i + 1 :])
            assert _share(fewer) > macs
    if round_to == 1:
        assert _share(counts) > macs - 0.02


def test_nothing_is_cut_for_the_whole_budget():
    assert choose(LAYERS, GROUPS, Budget(1.0, 8, 0.75)) == (0, 0, 0)


def test_a_budget_out_of_reach_names_the_closest():
    lowest = _share((16, 32, 24))
    with pytest.raises(PruneError, match=f"reaches {lowest:.1%} .* not 5.0%"):
        choose(LAYERS, GROUPS, Budget(0.05, 8, 0.5))


def test_steps_leave_multiples_and_at_least_the_floor():
    assert Budget(0.5, 8, 0.75).steps(_group("a", "b", 32)) == (0, 8, 16, 24)
    assert Budget(0.5, 8, 0.75).steps(_group("a", "b", 20)) == (0, 4, 12)
    assert Budget(0.5, 8, 0.5).steps(_group("a", "b", 20)) == (0, 4)
    assert Budget(0.5, 8, 0.75).steps(_group("a", "b", 8)) == (0,)
    assert Budget(0.5, 8, 0.75).steps(_group("a", "b", 36, unit=12)) == (0, 12)


def test_the_unimportant_layer_pays_more():
    cheap = Group("b", 64, 1, tuple(range(64)), (0.001,) * 60 + (50.0,) * 4, {"b": 1.0}, {"c": 1.0})
    counts = choose(LAYERS, [GROUPS[0], cheap, GROUPS[2]], Budget(0.6, 8, 0.9))
    assert counts[0] == 0
    assert counts[1] >= 24
