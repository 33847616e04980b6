"""When and how much is cut, and what follows."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests import nets
from torchopt2edge.compression.pruning.control import PruneControl
from torchopt2edge.compression.pruning.spec import Prune
from torchopt2edge.compression.schedules import Iterative, Linear, OneShot, Polynomial, Schedule
from torchopt2edge.errors import ConfigError, PruneError
from torchopt2edge.models import count

SHAPE = (3, 12, 12)


def share(net: nn.Module, whole: int) -> float:
    return count.macs(net, SHAPE) / whole


@pytest.mark.parametrize(
    "schedule",
    [
        OneShot(),
        OneShot(begin=3),
        Linear(begin=2, end=10, every=4),
        Polynomial(begin=0, end=9, initial=0.2, every=3),
        Iterative(rounds=3, between=4),
    ],
    ids=lambda s: type(s).__name__,
)
def test_each_step_takes_its_amount(schedule: Schedule) -> None:
    net = nets.lively(nets.Residual())
    whole = count.macs(net, SHAPE)
    control = PruneControl(Prune(macs=0.4, round_to=1, max_cut=0.9, schedule=schedule), SHAPE)
    control.attach(net, None)
    for step in range(14):
        control.after_step(step)
        left = share(net, whole)
        wanted = 1 - schedule.amount(step, 0.6) if step >= getattr(schedule, "begin", 0) else 1.0
        last = max((s for s in range(step + 1) if schedule.due(s)), default=None)
        if last is not None:
            wanted = 1 - schedule.amount(last, 0.6)
            assert wanted - 0.06 < left <= wanted + 1e-9
        else:
            assert left == 1
        assert control.settled is (step >= schedule.last)
    assert control.facts()["macs_share"] == pytest.approx(share(net, whole), abs=1e-4)


def test_a_fresh_net_is_cut_as_the_saved_one() -> None:
    spec = Prune(macs=0.5, round_to=1, schedule=Linear(begin=0, end=8, every=4))
    net = nets.lively(nets.Residual())
    twin = copy.deepcopy(net)
    control = PruneControl(spec, SHAPE)
    control.attach(net, None)
    control.after_step(4)
    again = PruneControl(spec, SHAPE)
    again.restore(twin, control.state_dict())
    twin.load_state_dict(net.state_dict())
    again.attach(twin, None)
    for one in (control, again):
        one.after_step(8)
    assert control.plan == again.plan
    x = torch.randn(2, *SHAPE)
    assert torch.equal(net(x), twin(x))


def test_names_settle_and_spare_layers() -> None:
    net = nets.lively(nets.Residual())
    control = PruneControl(Prune(ratios={"inn*": 0.5}, round_to=4), SHAPE)
    control.attach(net, None)
    assert (net.inner.out_channels, net.stem.out_channels) == (12, 16)
    net = nets.lively(nets.Residual())
    control = PruneControl(Prune(macs=0.7, ignore=("inner",), round_to=1), SHAPE)
    control.attach(net, None)
    assert net.inner.out_channels == 24
    assert net.stem.out_channels < 16
    assert control.kept["inner"] == "ignored"
    assert net.head.out_features == 4


def test_a_layer_that_cannot_be_cut_may_be_an_error() -> None:
    net = nets.lively(nets.tiny_resnet())
    with pytest.raises(PruneError, match=r"conv1.*uncuttable=skip"):
        PruneControl(Prune(macs=0.8, uncuttable="error"), SHAPE).attach(net, None)


@pytest.mark.parametrize("how", ["bn_gamma", "group_lasso"])
def test_what_will_go_is_pushed_until_it_went(how: str) -> None:
    net = nets.lively(nets.Residual())
    spec = Prune(
        macs=0.6,
        round_to=1,
        regularize=how,
        strength=1.0,
        schedule=OneShot(begin=4),  # type: ignore[arg-type]
    )
    control = PruneControl(spec, SHAPE)
    control.attach(net, None)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    before = float(control.penalty().detach())  # type: ignore[union-attr]
    for step in range(1, 4):
        loss = control.penalty()
        assert loss is not None
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        control.after_step(step)
    after = control.penalty()
    assert after is not None
    assert float(after.detach()) < before
    control.after_step(4)
    assert control.penalty() is None


def test_gradients_that_are_still_there_choose() -> None:
    net = nets.lively(nets.Residual())
    control = PruneControl(
        Prune(macs=0.7, round_to=1, importance="taylor", schedule=OneShot(begin=1)), SHAPE
    )
    control.attach(net, None)
    with pytest.raises(PruneError, match="gradients"):
        PruneControl(Prune(macs=0.7, importance="taylor"), SHAPE).attach(net, None)
    net(torch.randn(4, *SHAPE)).square().mean().backward()
    control.after_step(1)
    assert control.plan.cuts


def test_a_target_in_milliseconds_needs_a_meter() -> None:
    with pytest.raises(ConfigError, match="Meter"):
        PruneControl(Prune(target="latency_ms:1@ort-fp32"), SHAPE)
