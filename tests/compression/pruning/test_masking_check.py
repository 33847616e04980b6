from __future__ import annotations

import copy

import torch

from tests import nets
from torchopt2edge.compression.pruning.masking_check import probe, sound, unsound
from torchopt2edge.models.cifar_resnet import cifar_resnet
from torchopt2edge.models.cut_plan import Cut, Plan

SHAPE = (3, 12, 12)
STEM = Cut("conv1", True, (1, 3, 5, 9))
INNER = Cut("layer2.0.conv1", True, (0, 7, 9, 30))


def test_channels_behind_a_padded_shortcut_are_recognised():
    """torch-pruning takes the padding for an element-wise operation and mixes channels up."""
    net = nets.lively(cifar_resnet(8))
    assert sound(net, SHAPE, [INNER])
    assert not sound(net, SHAPE, [STEM])
    assert unsound(net, SHAPE, [INNER, STEM]) == [STEM]


def test_statistics_over_channels_are_recognised():
    net = nets.normed_net().eval()
    assert not sound(net, (3, 2, 2), [Cut("1", True, (0, 5))])


def test_a_cut_that_breaks_the_net_is_unsound():
    net = nets.lively(nets.Residual())
    assert not sound(net, SHAPE, [Cut("inner", True, (99,))])


def test_trying_leaves_the_net_alone():
    net = nets.lively(nets.Residual())
    images = torch.randn(2, *SHAPE)
    before, shapes = net(images), {k: v.shape for k, v in net.state_dict().items()}
    assert sound(net, SHAPE, [Cut("inner", True, (0, 1))])
    assert torch.equal(net(images), before)
    assert {k: v.shape for k, v in net.state_dict().items()} == shapes


def test_the_probe_has_signal_where_a_fresh_net_has_none():
    fresh = nets.lively(nets.Residual())
    fresh.outer_bn.running_var.fill_(1e12)
    fresh.stem_bn.running_var.fill_(1e12)
    images = torch.randn(4, *SHAPE)
    assert probe(fresh, images)(images).std() > 1e-2


def test_a_plan_leaves_every_module_in_its_mode():
    net = nets.lively(nets.Residual()).train()
    net.stem_bn.eval()
    before = {name: module.training for name, module in net.named_modules()}
    twin = copy.deepcopy(net)
    Plan(SHAPE, (Cut("inner", True, (0,)),)).apply(twin)
    assert {name: module.training for name, module in twin.named_modules()} == before
