from __future__ import annotations

import pytest

from torchopt2edge.compression.pruning.budget import Budget, choose
from torchopt2edge.compression.pruning.groups import Costs, Group, macs, params
from torchopt2edge.errors import PruneError
from torchopt2edge.models.count import Layer

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
COSTS = Costs(LAYERS, GROUPS, macs)


def _share(counts: tuple[int, ...]) -> float:
    return COSTS.total(counts) / COSTS.total([0, 0, 0])


@pytest.mark.parametrize("wanted", [0.2, 0.35, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("round_to", [1, 4, 8])
def test_the_budget_is_met_and_nothing_is_cut_in_vain(wanted: float, round_to: int):
    budget = Budget(wanted, round_to, 0.75)
    counts = choose(COSTS, budget)
    assert _share(counts) <= wanted
    for i, group in enumerate(GROUPS):
        steps = budget.steps(group)
        assert (group.channels - counts[i]) % round_to == 0
        place = steps.index(counts[i])
        if place:
            fewer = (*counts[:i], steps[place - 1], *counts[i + 1 :])
            assert _share(fewer) > wanted
    if round_to == 1:
        assert _share(counts) > wanted - 0.02


def test_nothing_is_cut_for_the_whole_budget():
    assert choose(COSTS, Budget(1.0, 8, 0.75)) == (0, 0, 0)


def test_a_budget_out_of_reach_names_the_closest():
    lowest = _share((16, 32, 24))
    with pytest.raises(PruneError, match=f"reaches {lowest:.1%} .* not 5.0%"):
        choose(COSTS, Budget(0.05, 8, 0.5))


def test_steps_leave_multiples_and_at_least_the_floor():
    assert Budget(0.5, 8, 0.75).steps(_group("a", "b", 32)) == (0, 8, 16, 24)
    assert Budget(0.5, 8, 0.75).steps(_group("a", "b", 20)) == (0, 4, 12)
    assert Budget(0.5, 8, 0.5).steps(_group("a", "b", 20)) == (0, 4)
    assert Budget(0.5, 8, 0.75).steps(_group("a", "b", 8)) == (0,)
    assert Budget(0.5, 8, 0.75).steps(_group("a", "b", 36, unit=12)) == (0, 12)


def test_the_unimportant_layer_pays_more():
    cheap = Group("b", 64, 1, tuple(range(64)), (0.001,) * 60 + (50.0,) * 4, {"b": 1.0}, {"c": 1.0})
    counts = choose(Costs(LAYERS, [GROUPS[0], cheap, GROUPS[2]], macs), Budget(0.6, 8, 0.9))
    assert counts[0] == 0
    assert counts[1] >= 24


def test_a_budget_of_weights_spares_where_the_weights_are_few():
    by_macs = choose(COSTS, Budget(0.6, 1, 0.9))
    by_params = choose(Costs(LAYERS, GROUPS, params), Budget(0.6, 1, 0.9))
    left = Costs(LAYERS, GROUPS, params)
    assert left.total(by_params) <= 0.6 * left.total([0, 0, 0])
    assert by_params[0] < by_macs[0]  # the first layer has many positions and few weights


@pytest.mark.parametrize("wanted", [0.3, 0.6, 0.9])
def test_uniform_takes_the_same_share_everywhere(wanted: float):
    counts = choose(COSTS, Budget(wanted, 1, 0.9, "uniform"))
    assert _share(counts) <= wanted
    shares = [n / g.channels for n, g in zip(counts, GROUPS, strict=True)]
    assert max(shares) - min(shares) < 1 / 32


def test_uniform_names_the_closest_too():
    with pytest.raises(PruneError, match=r"not 1\.0%"):
        choose(COSTS, Budget(0.01, 8, 0.5, "uniform"))


def test_a_settled_group_is_left_as_it_is():
    counts = choose(COSTS, Budget(0.5, 8, 0.75), {1: 40})
    assert counts[1] == 40
    assert _share(counts) <= 0.5


def test_what_was_lost_before_counts_for_the_floor():
    half = Budget(0.5, 8, 0.5, widths={"a": 64})
    assert half.steps(_group("a", "b", 40)) == (0, 8)


def test_the_cost_of_a_move_is_the_cost_of_the_place():
    """The walk adds up differences; they are those of counting everything again."""
    from torchopt2edge.compression.pruning.budget import _Walk

    walk = _Walk(COSTS, [Budget(0.5, 4, 0.75).steps(group) for group in GROUPS])
    walk.cheapest(0.4 * walk.whole)
    assert walk.now == pytest.approx(COSTS.total(walk._counts(walk.at)))
