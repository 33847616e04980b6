"""Before fine-tuning, a pruned net computes what the dense net computes with those channels zero.

On the nets of `conf/model`; those of more than a few seconds are the zoo's.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.test_configs import composed
from torchopt2edge.compression.pruning.masking_check import mask, probe
from torchopt2edge.compression.pruning.search import PRICES, prepare
from torchopt2edge.compression.pruning.spec import Prune
from torchopt2edge.models import count

SHAPE = (3, 32, 32)
LIGHT = ("resnet8", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1", "mobilenetv4_conv_small")
HEAVY = ("mobilenet_v3_large", "efficientnet_lite0", "efficientnet_b0", "resnet18", "resnet50")


def built(name: str) -> Any:
    from hydra.utils import instantiate

    config = composed("compare", f"model={name}").model
    given = {"num_classes": 10} | ({"small_input": True} if "small_input" in config else {})
    return instantiate(config, _convert_="all", **given)()


@pytest.mark.parametrize(
    "name", [*LIGHT, *(pytest.param(one, marks=pytest.mark.zoo) for one in HEAVY)]
)
def test_cut_is_masked(name: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, *SHAPE)
    net = probe(built(name), images)
    found = prepare(net, SHAPE, Prune(macs=0.6, round_to=4)).cut(0.6, PRICES["macs"], {})
    small = copy.deepcopy(net)
    found.plan.apply(small)
    assert count.macs(small, SHAPE) <= 0.6 * count.macs(net, SHAPE)
    mask(net, SHAPE, found.plan.cuts)
    with torch.no_grad():
        wanted, got = net(images), small(images)
    assert float(wanted.std()) > 0
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3 * float(wanted.std()))
