"""Masks while a net trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests import nets
from torchopt2edge.compression.schedules import Polynomial
from torchopt2edge.compression.sparsity.control import MaskControl
from torchopt2edge.compression.sparsity.mask import zeros
from torchopt2edge.compression.sparsity.spec import Sparsify
from torchopt2edge.errors import ConfigError
from torchopt2edge.training.ema import Ema

SPEC = Sparsify(sparsity=0.8, schedule=Polynomial(begin=0, end=10, initial=0.3, every=5))


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    net(torch.randn(4, 3, 12, 12)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
        lambda p: torch.optim.AdamW(p, 0.01),
    ],
)
def test_zeros_grow_and_stay_exact(make: Any) -> None:
    net = nets.lively(nets.tiny_resnet())
    optimizer = make(net.parameters())
    control = MaskControl(SPEC)
    control.attach(net, optimizer)
    shares = [zeros(net)["all"]]
    for done in range(1, 13):
        step(net, optimizer)
        control.after_step(done)
        shares.append(zeros(net)["all"])
    assert shares[0] == pytest.approx(0.3, abs=0.01)
    assert shares == sorted(shares)
    assert shares[10] == shares[12] == pytest.approx(0.8, abs=0.01)
    assert control.settled
    for name, mask in control.masks.items():
        weight = net.get_parameter(f"{name}.weight")
        for value in optimizer.state[weight].values():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                assert not value[~mask].any()


def test_an_average_of_weights_ends_sparse_too() -> None:
    net = nets.lively(nets.tiny_resnet())
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    control, ema = MaskControl(SPEC), Ema(net, 0.9)
    control.attach(net, optimizer)
    for done in range(1, 11):
        step(net, optimizer)
        control.after_step(done)
        ema.update(net)
    net.load_state_dict(ema.net.state_dict())
    assert zeros(net)["all"] < 0.79
    control.finish()
    assert zeros(net)["all"] == pytest.approx(0.8, abs=0.01)


def test_it_goes_on_from_its_state() -> None:
    net = nets.lively(nets.tiny_resnet())
    control = MaskControl(SPEC)
    control.attach(net, None)
    again = MaskControl(SPEC)
    again.restore(net, control.state_dict())
    again.attach(net, None)
    assert all(torch.equal(again.masks[k], v) for k, v in control.masks.items())
    assert again.done == 0


def test_the_zeros_of_a_net_are_kept_as_they_are() -> None:
    net = nets.lively(nets.tiny_resnet())
    MaskControl(Sparsify(sparsity=0.6, schedule=Polynomial(begin=0, end=0))).attach(net, None)
    before = {k: v == 0 for k, v in net.state_dict().items() if v.ndim > 1}
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    control = MaskControl()
    control.attach(net, optimizer)
    for done in range(1, 4):
        step(net, optimizer)
        control.after_step(done)
    assert all(bool((net.state_dict()[k][gone] == 0).all()) for k, gone in before.items())


def test_all_of_it_cannot_go() -> None:
    with pytest.raises(ConfigError, match="below 1"):
        MaskControl(Sparsify(sparsity=1.0))
