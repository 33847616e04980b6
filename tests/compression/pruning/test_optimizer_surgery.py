"""The optimizer's memory loses the channels that the net loses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tests import nets
from torchopt2edge.compression.pruning.optimizer_surgery import cut
from torchopt2edge.models.cut_plan import Cut, Plan

SHAPE = (3, 12, 12)
GONE = (1, 4, 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-3),
        lambda p: torch.optim.AdamW(p, 0.01),
    ],
    ids=["sgd", "adamw"],
)
def test_the_next_step_is_that_of_the_masked_net(make: Any) -> None:
    """Channel by channel: what is left moves exactly as it would have in the whole net."""
    net = nets.lively(nets.Residual())
    twin = copy.deepcopy(net)
    optimizers = [make(one.parameters()) for one in (net, twin)]
    x = torch.randn(8, *SHAPE)
    for one, optimizer in zip((net, twin), optimizers, strict=True):
        one(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    cut(net, Plan(SHAPE, (Cut("inner", True, GONE),)), optimizers[0])
    kept = [i for i in range(24) if i not in GONE]

    def mask(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output.index_fill(1, torch.tensor(GONE), 0.0)

    twin.inner.register_forward_hook(mask)
    twin.inner_bn.register_forward_hook(mask)
    for one, optimizer in zip((net, twin), optimizers, strict=True):
        one(x).square().mean().backward()
        optimizer.step()
    for name, wanted in twin.named_parameters():
        if name.startswith("inner"):
            wanted = wanted[kept]
        if name == "outer.weight":
            wanted = wanted[:, kept]
        torch.testing.assert_close(net.get_parameter(name), wanted, rtol=1e-4, atol=1e-6)


def test_gradients_groups_and_frozen_parameters_stay() -> None:
    net = nets.lively(nets.Residual())
    net.stem.weight.requires_grad_(False)
    groups = [
        {"params": list(net.inner.parameters()), "lr": 0.3},
        {"params": list(net.outer.parameters()), "lr": 0.1},
    ]
    optimizer = torch.optim.SGD(groups, 0.1)
    net(torch.randn(4, *SHAPE)).square().mean().backward()
    grad = net.inner.weight.grad.clone()
    cut(net, Plan(SHAPE, (Cut("inner", True, GONE),)), optimizer)
    kept = [i for i in range(24) if i not in GONE]
    assert torch.equal(net.inner.weight.grad, grad[kept])
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.1]
    assert optimizer.param_groups[0]["params"][0] is net.inner.weight
    assert not net.stem.weight.requires_grad
    assert net.inner.weight.requires_grad


def test_nothing_to_cut_changes_nothing() -> None:
    net = nets.lively(nets.Residual())
    before = [id(p) for p in net.parameters()]
    cut(net, Plan(SHAPE, ()))
    assert before == [id(p) for p in net.parameters()]


class Shared(nets.Net):
    """One layer that runs twice."""

    def __init__(self) -> None:
        super().__init__(16)
        self.stem, self.twice = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        return self.twice(torch.relu(self.twice(torch.relu(self.stem(x)))))


def test_a_layer_that_runs_twice_is_cut_soundly_or_named() -> None:
    from torchopt2edge.compression.pruning.control import PruneControl
    from torchopt2edge.compression.pruning.spec import Prune

    torch.manual_seed(0)
    net = Shared().eval()
    control = PruneControl(Prune(macs=0.6, round_to=1), SHAPE)
    control.attach(net, None)
    assert net(torch.randn(2, *SHAPE)).shape == (2, 4)
    assert net.twice.in_channels == net.twice.out_channels == net.stem.out_channels
    assert control.facts()["macs_share"] <= 0.6
