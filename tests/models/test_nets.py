from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from torchopt2edge.errors import ModelError
from torchopt2edge.models.timm_net import timm_net
from torchopt2edge.models.torchvision_net import torchvision_net

Factory = Callable[..., nn.Module]


@pytest.mark.parametrize(
    ("factory", "name"),
    [
        (torchvision_net, "mobilenet_v2"),
        (torchvision_net, "squeezenet1_1"),
        (torchvision_net, "resnet18"),
        (timm_net, "efficientnet_lite0"),
    ],
)
def test_small_stem_keeps_the_resolution_and_the_checkpoint(factory: Factory, name: str):
    usual = factory(name, num_classes=5)
    small = factory(name, num_classes=5, small_input=True)
    assert {k: v.shape for k, v in small.state_dict().items()} == {
        k: v.shape for k, v in usual.state_dict().items()
    }
    sizes = []
    for net in (usual, small):
        seen: list[int] = []
        convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
        for conv in convs:
            conv.register_forward_hook(lambda m, i, o, seen=seen: seen.append(o.shape[-1]))
        with torch.no_grad():
            assert net.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
        sizes.append(seen)
    assert sizes[0][0] < 64 - 2 <= sizes[1][0]
    assert sizes[1][1] >= 2 * sizes[0][1]


def test_width_multiplier_makes_it_smaller():
    half, whole = (torchvision_net("mobilenet_v2", 5, width=w) for w in (0.5, None))
    assert (
        sum(p.numel() for p in half.parameters()) < sum(p.numel() for p in whole.parameters()) / 2
    )
    with pytest.raises(ModelError, match="no width multiplier"):
        torchvision_net("resnet18", width=0.5)


def test_weights_load_from_a_file(tmp_path: Path):
    source = torchvision_net("squeezenet1_1", 5)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    back = torchvision_net("squeezenet1_1", 5, weights=str(tmp_path / "w.pth"))
    assert torch.equal(back.features[0].weight, source.features[0].weight)


@pytest.mark.parametrize("factory", [torchvision_net, timm_net])
def test_unknown_names_are_refused(factory: Factory):
    with pytest.raises(ModelError, match="mobilenet_v99"):
        factory("mobilenet_v99")
