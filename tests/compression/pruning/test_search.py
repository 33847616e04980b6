"""On which grid of channels the search settles."""

from __future__ import annotations

import pytest
from torch import nn

from torchopt2edge.compression.pruning.search import PRICES, prepare
from torchopt2edge.compression.pruning.spec import Prune


def chain(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4)]
    return nn.Sequential(*layers, *head).eval()


@pytest.mark.parametrize(
    ("widths", "share", "grid"),
    [((64, 128, 64), 0.5, 16), ((16, 24, 16), 0.5, 8), ((16, 128, 64), 0.3, 16)],
)
def test_channels_stay_a_multiple_of_sixteen_where_the_budget_allows_it(
    widths: tuple[int, ...], share: float, grid: int
) -> None:
    net = chain(*widths)
    found = prepare(net, (3, 16, 16), Prune(macs=share)).cut(share, PRICES["macs"], {})
    assert found.facts["round_to"] == grid
    assert found.facts["share"] <= share
    width = dict(zip(("0", "3", "6"), widths, strict=True))
    for cut in found.plan.cuts:
        assert (width[cut.layer] - len(cut.indices)) % grid == 0


def test_a_grid_of_the_users_own_is_kept() -> None:
    net = chain(64, 128, 64)
    found = prepare(net, (3, 16, 16), Prune(macs=0.5, round_to=8)).cut(0.5, PRICES["macs"], {})
    assert found.facts["round_to"] == 8
