"""Who is listened to, on which samples, through which hooks."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests import nets
from torchopt2edge.compression.distillation.hooks import Features
from torchopt2edge.compression.distillation.loss import Distillation
from torchopt2edge.compression.distillation.spec import Teaching
from torchopt2edge.compression.distillation.terms import KD, Attention, Hint
from torchopt2edge.errors import ConfigError
from torchopt2edge.models.cifar_resnet import cifar_resnet
from torchopt2edge.training.batch import Batch

IMAGES = torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 5])


def student() -> nn.Module:
    return nets.lively(nets.tiny_resnet(), 1)


def loss_of(*teachers: nn.Module, **fields: object) -> Distillation:
    return Distillation(Teaching(**fields), list(teachers), F.cross_entropy).train()  # type: ignore[arg-type]


def test_several_teachers_are_averaged() -> None:
    one, two = (nets.lively(nets.tiny_resnet(), seed) for seed in (2, 3))
    net = student()
    loss = loss_of(one, two, alpha=1.0)
    with torch.no_grad():
        mean = (one(IMAGES) + two(IMAGES)) / 2
        wanted = KD()(net(IMAGES), mean, None)
    assert float(loss(net, Batch(IMAGES, LABELS)).detach()) == pytest.approx(float(wanted))
    assert not any(p.requires_grad for p in loss.parameters())


@pytest.mark.parametrize("targets", [None, torch.full((6,), -1)])
def test_without_labels_the_teacher_is_all(targets: torch.Tensor | None) -> None:
    teacher, net = nets.lively(nets.tiny_resnet(), 2), student()
    loss = loss_of(teacher, alpha=0.25)
    with torch.no_grad():
        soft = KD()(net(IMAGES), teacher(IMAGES), None)
    assert float(loss(net, Batch(IMAGES, targets)).detach()) == pytest.approx(0.25 * float(soft))


def test_some_labels_count_for_themselves() -> None:
    teacher, net = nets.lively(nets.tiny_resnet(), 2), student()
    some = torch.where(LABELS < 3, LABELS, -1)
    with torch.no_grad():
        soft = KD()(net(IMAGES), teacher(IMAGES), None)
        hard = F.cross_entropy(net(IMAGES)[:3], LABELS[:3])
    got = loss_of(teacher, alpha=0.5)(net, Batch(IMAGES, some)).detach()
    assert float(got) == pytest.approx(float(0.5 * soft + 0.5 * hard), rel=1e-5)


def test_adapters_are_made_where_widths_differ_and_learn() -> None:
    teacher = nets.lively(cifar_resnet(8, 10, 12), 2)
    terms = [
        Hint(student="layer1", teacher="layer1"),
        Attention(student="layer2", teacher="layer2"),
    ]
    loss = loss_of(teacher, loss=terms, alpha=1.0)
    net = student()
    loss.prepare(net, Batch(IMAGES))
    (adapter,) = loss.adapters.values()
    assert (adapter.in_channels, adapter.out_channels) == (8, 12)
    loss(net, Batch(IMAGES, LABELS)).backward()
    assert adapter.weight.grad is not None
    assert net.conv1.weight.grad is not None
    same = loss_of(nets.lively(nets.tiny_resnet(), 2), loss=terms)
    same.prepare(student(), Batch(IMAGES))
    assert not same.adapters


def test_what_does_not_fit_is_said_before_the_training() -> None:
    net = student()
    with pytest.raises(ConfigError, match=r"student says \(10,\), the teacher \(7,\)"):
        loss_of(nets.tiny_resnet(7)).prepare(net, Batch(IMAGES))
    blind = nn.Sequential(nn.Flatten(), nn.Linear(7, 10))
    with pytest.raises(ConfigError, match="cannot see the student's inputs"):
        loss_of(blind).prepare(net, Batch(IMAGES))
    with pytest.raises(ConfigError, match="no teacher"):
        loss_of()
    with pytest.raises(ConfigError, match="alpha"):
        loss_of(net, alpha=2.0)


def test_a_hint_on_a_layer_that_was_cut_says_so() -> None:
    from torchopt2edge.models.cut_plan import Cut, Plan

    teacher = nets.lively(nets.tiny_resnet(), 2)
    net = student()
    hint = Hint(student="layer2.0.conv1", teacher="layer2.0.conv1")
    loss = loss_of(teacher, loss=hint)
    loss.prepare(net, Batch(IMAGES))
    Plan((3, 12, 12), (Cut("layer2.0.conv1", True, (0, 1)),)).apply(net)
    with pytest.raises(ConfigError, match=r"channels now.*not cut while it trains"):
        loss(net, Batch(IMAGES, LABELS))


def test_hooks_are_found_and_go() -> None:
    net = student()
    seen = Features()
    with pytest.raises(ConfigError, match=r"'layer9'.*layer"):
        seen.watch(net, ["layer9"], "student")
    seen.watch(net, ["layer2"], "student")
    net(IMAGES)
    assert seen.seen["layer2"].shape[1] == 16
    twin = copy.deepcopy(net)
    seen.seen.clear()
    twin(IMAGES)  # its hooks are dead
    assert not seen.seen
    seen.close()
    assert not net.layer2._forward_hooks


def test_a_module_of_several_outputs_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    net, seen = nn.Sequential(Two()), Features()
    seen.watch(net, ["0"], "student")
    with pytest.raises(ConfigError, match="outputs tuple"):
        net(IMAGES)
