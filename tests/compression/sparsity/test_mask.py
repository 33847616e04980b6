"""Which weights stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests import nets
from torchopt2edge.compression.schedules import OneShot
from torchopt2edge.compression.sparsity.mask import masks_of, prunable, zeros
from torchopt2edge.compression.sparsity.spec import Sparsify
from torchopt2edge.errors import ConfigError

SMALL = torch.tensor([[0.1, -0.2], [0.3, -0.4]])
LARGE = torch.tensor([[5.0, -6.0], [7.0, 0.05]])


def test_of_each_layer_or_of_all() -> None:
    weights = {"a": SMALL, "b": LARGE}
    each = masks_of(weights, Sparsify(), 0.5)
    assert each["a"].tolist() == [[False, False], [True, True]]
    assert each["b"].tolist() == [[False, True], [True, False]]
    joint = masks_of(weights, Sparsify(scope="global"), 0.5)
    assert joint["a"].tolist() == [[False, False], [False, True]]
    assert joint["b"].tolist() == [[True, True], [True, False]]


def test_equal_weights_go_one_by_one() -> None:
    mask = masks_of({"a": torch.ones(4, 5)}, Sparsify(), 0.35)["a"]
    assert int(mask.sum()) == 13


def test_two_of_four_along_the_inputs() -> None:
    torch.manual_seed(0)
    kernel, odd = torch.randn(3, 8, 3, 3), torch.randn(3, 6, 1, 1)
    masks = masks_of({"a": kernel, "b": odd}, Sparsify(pattern="2:4"), 0.5)
    blocks = masks["a"].movedim(1, -1).reshape(-1, 4)
    assert set(blocks.sum(1).tolist()) == {2}
    kept = kernel.movedim(1, -1).reshape(-1, 4).abs()
    assert bool((kept.masked_fill(~blocks, 9).amin(1) >= kept.masked_fill(blocks, 0).amax(1)).all())
    assert bool(masks["b"].all())  # six inputs are not fours


def test_names() -> None:
    net = nets.Residual()
    assert set(prunable(net)) == {"stem", "inner", "outer", "head"}
    assert set(prunable(net, ("he*", "stem"))) == {"inner", "outer"}
    with pytest.raises(ConfigError, match=r"'innr'.*inner"):
        prunable(net, ("innr",))


def test_zeros_are_counted() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].weight.data.zero_()
    assert zeros(net) == {"0": 1.0, "1": 0.0, "all": 0.5}


@pytest.mark.parametrize("pattern", ["4:2", "two", "0:4"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ConfigError, match="2:4"):
        masks_of({"a": SMALL}, Sparsify(pattern=pattern, schedule=OneShot()), 0.5)
