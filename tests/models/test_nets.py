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


SMALL = [
    (torchvision_net, "mobilenet_v2"),
    (torchvision_net, "mobilenet_v3_small"),
    (torchvision_net, "mobilenet_v3_large"),
    (torchvision_net, "efficientnet_b0"),
    (torchvision_net, "shufflenet_v2_x0_5"),
    (torchvision_net, "resnet18"),
    (torchvision_net, "resnet50"),
    (torchvision_net, "squeezenet1_1"),
    (timm_net, "efficientnet_lite0"),
    (timm_net, "tf_efficientnet_lite2"),
    (timm_net, "mobilenetv4_conv_small"),
]


@pytest.mark.parametrize(("factory", "name"), SMALL)
def test_a_small_image_ends_with_several_positions(factory: Factory, name: str):
    net = factory(name, num_classes=5, small_input=True).eval()
    areas: list[int] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            module.register_forward_hook(lambda m, i, o: areas.append(o.shape[-1]))
    with torch.no_grad():
        out = net(torch.randn(2, 3, 32, 32))
    assert out.shape == (2, 5)
    assert areas[0] >= 30
    spatial = [size for size in areas if size > 1]  # squeeze-and-excite works on one position
    assert min(spatial) >= (7 if name == "squeezenet1_1" else 4)
    net.train()(torch.randn(2, 3, 32, 32))  # no BatchNorm is left with one value a channel


def test_a_net_that_does_not_shrink_has_no_stem():
    from torchopt2edge.models.cifar_resnet import cifar_resnet
    from torchopt2edge.models.stem import small_stem

    small_stem(cifar_resnet(8))  # halves twice, though later: that is what it asks for
    with pytest.raises(ModelError, match="shrinking its image"):
        small_stem(nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1)))


@pytest.mark.parametrize(
    ("factory", "name", "width"),
    [
        (torchvision_net, "mobilenet_v2", 0.35),
        (torchvision_net, "mobilenet_v3_small", 0.5),
        (torchvision_net, "mobilenet_v3_large", 0.75),
        (torchvision_net, "shufflenet_v2_x1_0", 0.5),
        (timm_net, "mobilenetv4_conv_small", 0.5),
        (timm_net, "mobilenetv3_small_100", 0.5),
    ],
)
def test_width_multiplier_makes_it_smaller(factory: Factory, name: str, width: float):
    narrow, whole = (factory(name, 5, width=w) for w in (width, 1.0))
    counts = [sum(p.numel() for p in net.parameters()) for net in (narrow, whole)]
    assert counts[0] < 0.8 * counts[1]
    assert narrow.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize(
    ("factory", "name", "said"),
    [
        (torchvision_net, "resnet18", "no width multiplier"),
        (torchvision_net, "shufflenet_v2_x1_0", "0.5, 1.0, 1.5 or 2.0"),
        (timm_net, "mobilenetv4_conv_small", "mobilenetv4_conv_small_035"),
        (timm_net, "efficientnet_lite0", "leave `width` out"),
    ],
)
def test_a_width_that_there_is_not(factory: Factory, name: str, said: str):
    with pytest.raises(ModelError, match=said):
        factory(name, width=0.7)


def test_what_published_weights_expect_of_an_image():
    from torchopt2edge.models import timm_net as timm
    from torchopt2edge.models import torchvision_net as torchvision

    found = torchvision.published_preprocess("mobilenet_v2")
    assert (found.resize, found.crop, found.interpolation) == (232, (224, 224), "bilinear")
    assert found.mean == (0.485, 0.456, 0.406)
    found = timm.published_preprocess("tf_efficientnet_lite1")
    assert (found.resize, found.crop, found.interpolation) == (272, (240, 240), "bicubic")
    assert found.std == (0.5, 0.5, 0.5)
    with pytest.raises(ModelError, match="no weights"):
        timm.published_preprocess("efficientnet_lite4")


def test_weights_load_from_a_file(tmp_path: Path):
    source = torchvision_net("squeezenet1_1", 5)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    back = torchvision_net("squeezenet1_1", 5, weights=str(tmp_path / "w.pth"))
    assert torch.equal(back.features[0].weight, source.features[0].weight)


@pytest.mark.parametrize("factory", [torchvision_net, timm_net])
def test_unknown_names_are_refused(factory: Factory):
    with pytest.raises(ModelError, match="mobilenet_v99"):
        factory("mobilenet_v99")
