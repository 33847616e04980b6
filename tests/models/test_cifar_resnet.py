from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from torchopt2edge.errors import ModelError
from torchopt2edge.models import count
from torchopt2edge.models.cifar_resnet import Block, cifar_resnet

_BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize(("depth", "blocks"), [(8, 1), (20, 3)])
def test_keys_are_those_of_the_published_checkpoints(depth: int, blocks: int):
    wanted = {"conv1.weight", "linear.weight", "linear.bias"} | {f"bn1.{k}" for k in _BN}
    for stage in (1, 2, 3):
        for i in range(blocks):
            block = f"layer{stage}.{i}"
            wanted |= {f"{block}.conv1.weight", f"{block}.conv2.weight"}
            wanted |= {f"{block}.bn{n}.{k}" for n in (1, 2) for k in _BN}
    assert set(cifar_resnet(depth).state_dict()) == wanted


def test_shortcut_is_option_a():
    torch.manual_seed(0)
    x = torch.randn(2, 16, 8, 8)
    wanted = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    assert torch.equal(Block(16, 32, 2).shortcut(x), wanted)
    assert torch.equal(Block(16, 16, 1).shortcut(x), x)


def test_size_is_the_published_one():
    net = cifar_resnet(20)
    assert count.params(net) == 269_722
    assert round(count.macs(net, (3, 32, 32)) / 1e6, 2) == 40.55


def test_logits_have_the_class_axis():
    with torch.no_grad():
        assert cifar_resnet(8, num_classes=7, width=4).eval()(torch.zeros(2, 3, 32, 32)).shape == (
            2,
            7,
        )


@pytest.mark.parametrize("settings", [{"depth": 18}, {"depth": 2}, {"width": 0}])
def test_impossible_sizes_are_refused(settings: dict[str, int]):
    with pytest.raises(ModelError, match="6n"):
        cifar_resnet(**settings)
