"""Weights that are not a layer's own: computed, or another layer's too; grids that waste."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests import nets
from torchopt2edge.compression.pruning.control import PruneControl
from torchopt2edge.compression.pruning.optimizer_surgery import cut, uncut
from torchopt2edge.compression.pruning.search import PRICES, prepare
from torchopt2edge.compression.pruning.spec import Prune
from torchopt2edge.compression.schedules import Linear, OneShot
from torchopt2edge.compression.sparsity.control import MaskControl
from torchopt2edge.compression.sparsity.mask import zeros
from torchopt2edge.compression.sparsity.spec import Sparsify
from torchopt2edge.errors import ConfigError, PruneError

SHAPE = (3, 12, 12)


class Tied(nets.Net):
    """Two convolutions with one weight between others."""

    def __init__(self) -> None:
        super().__init__(16)
        self.stem, self.wide = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 1)
        self.one, self.two = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)
        self.two.weight = self.one.weight
        self.last = nn.Conv2d(32, 16, 1)

    def body(self, x: Tensor) -> Tensor:
        x = torch.relu(self.wide(torch.relu(self.stem(x))))
        return self.last(torch.relu(self.two(torch.relu(self.one(x)))))


def test_layers_with_one_weight_stay_whole_and_together() -> None:
    net = Tied()
    control = PruneControl(Prune(macs=0.9, round_to=1), SHAPE)
    control.attach(net, None)
    assert net.one.weight is net.two.weight
    assert net.one.weight.shape == (32, 32, 1, 1)
    assert net.stem.out_channels < 16
    assert any("also that of" in why for why in control.kept.values())


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_layers_whose_weight_is_computed_stay_whole(norm: object) -> None:
    net = nets.Residual()
    norm(net.inner)  # type: ignore[operator]
    control = PruneControl(Prune(macs=0.9, round_to=1), SHAPE)
    with pytest.raises(PruneError, match=r"inner: its weight is computed.*remove_param"):
        control.attach(net, None)
    net = nets.Depthwise()
    norm(net.head)  # type: ignore[operator]
    control = PruneControl(Prune(macs=0.7, round_to=1), SHAPE)
    control.attach(net, None)
    assert net.widen.out_channels < 32
    assert net.narrow.out_channels == 16


def test_zeros_do_not_stay_in_a_computed_weight() -> None:
    net = nets.Residual()
    parametrizations.weight_norm(net.inner)
    spec = Sparsify(sparsity=0.5, schedule=OneShot())
    with pytest.raises(ConfigError, match="zeros do not stay in 'inner'"):
        MaskControl(spec).attach(net, None)
    MaskControl(Sparsify(sparsity=0.5, schedule=OneShot(), ignore=("inner",))).attach(net, None)
    assert zeros(net)["stem"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_net_that_cannot_be_copied_is_said_so() -> None:
    net = nets.Residual()
    torch.nn.utils.weight_norm(net.inner)
    net(torch.randn(2, *SHAPE))
    with pytest.raises(PruneError, match=r"cannot be copied.*remove_weight_norm"):
        prepare(net, SHAPE, Prune(macs=0.5))


def narrow() -> nn.Module:
    """Thirty-two channels between layers that cost little: a multiple of 16 halves all of it."""
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
    return nn.Sequential(*body, nn.Conv2d(32, 4, 1), nn.Flatten(), nn.Linear(4 * 144, 4))


def test_a_coarse_grid_takes_no_more_than_it_must() -> None:
    found = prepare(narrow(), SHAPE, Prune(macs=0.5)).cut(0.5, PRICES["macs"], {})
    assert found.facts["round_to"] == 8
    assert found.facts["share"] > 0.35


def test_a_part_never_takes_more_than_the_whole_schedule() -> None:
    net = narrow()
    spec = Prune(macs=0.5, round_to=16, schedule=Linear(begin=0, end=4, every=1))
    control = PruneControl(spec, SHAPE)
    control.attach(net, None)
    for step in range(1, 4):
        control.after_step(step)
        assert control.facts()["macs_share"] >= 0.5
    control.after_step(4)
    assert control.facts()["macs_share"] <= 0.5


def test_an_unmet_budget_is_said_before_the_training() -> None:
    spec = Prune(macs=0.001, schedule=Linear(begin=100, end=4000))
    with pytest.raises(PruneError, match=r"not 0\.1%"):
        PruneControl(spec, SHAPE).attach(nets.Residual(), None)


def test_a_cut_is_taken_back() -> None:
    net = nets.lively(nets.Depthwise())
    whole, x = copy.deepcopy(net), torch.randn(2, *SHAPE)
    wanted = net(x)
    control = PruneControl(Prune(macs=0.5, round_to=1), SHAPE)
    control.attach(net, None)
    uncut(net, whole)
    assert torch.equal(net(x), wanted)
    cut(net, control.plan)
    assert net.each.groups == net.each.in_channels < 32
