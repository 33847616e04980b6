from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests import nets
from torchopt2edge.compression.pruning import groups as grouping
from torchopt2edge.compression.pruning.groups import Costs, Group, macs
from torchopt2edge.errors import ConfigError, PruneError
from torchopt2edge.models import count
from torchopt2edge.models.cut_plan import Plan

SHAPE = (3, 10, 10)

# By hand: which modules' outputs must vanish at the indices that a root loses.
COUPLED = {
    nets.Residual: {
        "stem": ("stem_bn", "outer_bn"),
        "outer": ("stem_bn", "outer_bn"),
        "inner": ("inner_bn",),
    },
    nets.Depthwise: {
        "widen": ("widen_bn", "each_bn"),
        "each": ("widen_bn", "each_bn"),
        "narrow": ("narrow",),
    },
    nets.Grouped: {"stem": ("stem",), "four": ("four_bn",), "last": ("last",)},
    nets.Squeeze: {
        "stem": ("stem_bn",),
        "up": ("stem_bn",),
        "down": ("down",),
        "last": ("last",),
    },
}


def _masked(net: nn.Module, modules: tuple[str, ...], indices: tuple[int, ...]) -> nn.Module:
    twin = copy.deepcopy(net)
    zeroed = torch.tensor(indices)
    for name in modules:
        twin.get_submodule(name).register_forward_hook(lambda m, i, o: o.index_fill(1, zeroed, 0.0))
    return twin


def _pruned(net: nn.Module, group: Group, number: int) -> nn.Module:
    twin = copy.deepcopy(net)
    Plan(SHAPE, (group.cut(number),)).apply(twin)
    return twin


@pytest.mark.parametrize("make", COUPLED)
def test_cutting_computes_what_masking_computes(make: Callable[[], nn.Module]):
    net = nets.lively(make())
    images = torch.randn(3, *SHAPE)
    found = grouping.find(net, SHAPE, "group_l2")
    assert {group.layer for group in found} <= COUPLED[make].keys()
    assert len(found) >= 2
    for group in found:
        number = group.channels // 2
        cut = group.cut(number)
        assert len(cut.indices) == number
        small = _pruned(net, group, number)
        assert count.params(small) < count.params(net)
        wanted = _masked(net, COUPLED[make][group.layer], cut.indices)(images)
        assert not torch.allclose(wanted, net(images), atol=1e-3)
        torch.testing.assert_close(small(images), wanted, rtol=1e-4, atol=1e-5)


def test_cutting_a_concatenated_branch_takes_its_own_slice():
    """Sigmoid makes 0.5 of a masked channel, so here the columns of the next layer are masked."""
    net = nets.lively(nets.Concat())
    images = torch.randn(3, *SHAPE)
    found = {group.layer: group for group in grouping.find(net, SHAPE, "group_l2")}
    for layer, offset in (("left", 0), ("right", 16)):
        cut = found[layer].cut(4)
        masked = copy.deepcopy(net)
        with torch.no_grad():
            masked.joint.weight[:, [offset + i for i in cut.indices]] = 0
        small = _pruned(net, found[layer], 4)
        torch.testing.assert_close(small(images), masked(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [*COUPLED, nets.Concat])
def test_predicted_macs_are_those_of_the_cut_net(make: Callable[[], nn.Module]):
    net = nets.lively(make())
    layers = count.layers(net, SHAPE)
    found = grouping.find(net, SHAPE, "group_l1")
    counts = [group.channels // 2 for group in found]
    small = copy.deepcopy(net)
    cuts = tuple(g.cut(n) for g, n in zip(found, counts, strict=True))
    Plan(SHAPE, cuts).apply(small)
    costs = Costs(layers, found, macs)
    assert costs.total(counts) == count.macs(small, SHAPE)
    assert costs.total([0] * len(found)) == count.macs(net, SHAPE)


def test_the_classifier_is_never_in_a_group():
    for make in (*COUPLED, nets.Concat):
        found = grouping.find(make().eval(), SHAPE, "group_l2")
        assert "head" not in {group.layer for group in found}


def test_a_grouped_convolution_loses_the_same_from_each_group():
    found = {g.layer: g for g in grouping.find(nets.lively(nets.Grouped()), SHAPE, "group_l2")}
    assert found["four"].unit == 4
    parts = sorted(index % 8 for index in found["four"].cut(8).indices)
    assert parts[::4] == parts[3::4]
    assert len(set(parts)) == 2


def test_the_least_important_channels_go_first():
    net = nets.lively(nets.Residual())
    with torch.no_grad():
        for i in (3, 17):
            net.inner.weight[i] = net.inner_bn.weight[i] = 0
            net.outer.weight[:, i] = 0
    for importance in ("group_l1", "group_l2", "bn_scale"):
        found = {g.layer: g for g in grouping.find(net, SHAPE, importance)}
        assert found["inner"].cut(2).indices == (3, 17)
        assert found["inner"].share(2) == 0
        assert found["inner"].share(24) == pytest.approx(1)


def test_unknown_importance_is_refused():
    with pytest.raises(ConfigError, match="group_l2"):
        grouping.find(nets.Residual(), SHAPE, "hessian")


def test_taylor_asks_for_gradients_and_follows_them():
    net = nets.lively(nets.Residual())
    with pytest.raises(PruneError, match="gradients"):
        grouping.find(net, SHAPE, "taylor")
    net(torch.randn(4, *SHAPE)).square().sum().backward()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith(("inner", "outer.weight")):
                rows = parameter.grad[5] if name.startswith("inner") else parameter.grad[:, 5]
                rows.zero_()
    found = {g.layer: g for g in grouping.find(net, SHAPE, "taylor")}
    assert found["inner"].cut(1).indices == (5,)


def test_chance_repeats_by_its_seed():
    def order(seed: int) -> list[tuple[int, ...]]:
        return [g.order for g in grouping.find(nets.Residual().eval(), SHAPE, "random", seed)]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_fpgm_ranks_by_distance_and_not_by_size():
    """Twice the same filter is not small, yet one of the two is not missed (He et al. 2019)."""
    net = nets.lively(nets.Residual())
    orders = {
        importance: {g.layer: g.order for g in grouping.find(net, SHAPE, importance)}["inner"]
        for importance in ("fpgm", "group_l2")
    }
    assert sorted(orders["fpgm"]) == sorted(orders["group_l2"]) == list(range(24))
    assert orders["fpgm"] != orders["group_l2"]
