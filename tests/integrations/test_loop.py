"""Compression around a plain loop: what a user's own training sees."""

from __future__ import annotations

import copy
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchopt2edge as t2e
from tests import nets
from torchopt2edge.compression.distillation.terms import Hint
from torchopt2edge.compression.sparsity.mask import zeros
from torchopt2edge.data import loader
from torchopt2edge.data.digits import Digits
from torchopt2edge.errors import ConfigError, PruneError
from torchopt2edge.integrations.loop import Compression
from torchopt2edge.models import count

SHAPE = (3, 16, 16)
EXAMPLE = torch.zeros(2, *SHAPE)


@pytest.fixture(scope="module")
def batches() -> list[Any]:
    digits = Digits(size=16, test_count=300, calibration_count=32)
    return list(loader(digits.split("train"), 64, shuffle=True))[:20]


def fresh(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nets.tiny_resnet().train()


def train(
    c: Compression, optimizer: torch.optim.Optimizer, batches: list[Any], steps: int
) -> list[float]:
    losses = []
    for x, y in islice(cycle(batches), steps):
        loss = c.loss(x, y, F.cross_entropy)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        c.step()
        losses.append(float(loss.detach()))
    return losses


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)


@pytest.mark.parametrize("make", [sgd, lambda n: torch.optim.AdamW(n.parameters(), 1e-3)])
def test_it_is_cut_by_a_schedule_and_trains_on(batches: list[Any], make: Any) -> None:
    net = fresh()
    whole = count.macs(net, SHAPE)
    schedule = t2e.Polynomial(begin=4, end=20, every=8)
    c = t2e.compress(net, EXAMPLE, prune=t2e.Prune(macs=0.5, round_to=1, schedule=schedule))
    optimizer = make(net)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    losses = train(c, optimizer, batches, 40)
    rates.step()
    assert c.facts()["macs_share"] <= 0.5
    small = c.finish()
    assert small is net
    assert count.macs(net, SHAPE) <= 0.5 * whole
    assert sum(losses[-5:]) < sum(losses[:5])
    mine = {id(p) for p in net.parameters()}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == mine
    for parameter in net.parameters():
        for value in optimizer.state[parameter].values():
            assert not isinstance(value, torch.Tensor) or value.shape in (parameter.shape, ())
    assert not any(m._forward_hooks for m in net.modules())


def test_a_one_shot_cut_comes_before_the_optimizer(batches: list[Any]) -> None:
    net = fresh()
    before = count.params(net)
    c = t2e.compress(net, EXAMPLE, prune=t2e.Prune(params=0.6, round_to=2))
    assert count.params(net) < 0.65 * before
    train(c, sgd(net), batches, 3)
    assert c.finish() is net


def test_momentum_goes_on_as_if_the_channels_had_been_masked(batches: list[Any]) -> None:
    """The step after a cut moves what is left exactly as the uncut net would have moved it."""
    net = fresh().eval()  # statistics stand still, so that both nets compute the same
    twin = copy.deepcopy(net)
    x, y = batches[0]
    optimizers = [sgd(net), sgd(twin)]
    for one, optimizer in zip((net, twin), optimizers, strict=True):
        F.cross_entropy(one(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    from torchopt2edge.compression.pruning.optimizer_surgery import cut
    from torchopt2edge.models.cut_plan import Cut, Plan

    gone = (1, 3, 4)
    cut(net, Plan(SHAPE, (Cut("layer2.0.conv1", True, gone),)), optimizers[0])
    kept = [i for i in range(16) if i not in gone]
    for optimizer in optimizers:  # no gradient: momentum alone moves the weights
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    wanted = twin.get_submodule("layer2.0.conv1").weight[kept]
    assert torch.equal(net.get_submodule("layer2.0.conv1").weight, wanted)
    wanted = twin.get_submodule("layer2.0.conv2").weight[:, kept]
    assert torch.equal(net.get_submodule("layer2.0.conv2").weight, wanted)
    assert torch.equal(net.linear.weight, twin.linear.weight)


def test_masks_hold(batches: list[Any]) -> None:
    net = fresh()
    schedule = t2e.Polynomial(begin=2, end=12, initial=0.3, every=5)
    c = t2e.compress(net, EXAMPLE, sparsify=t2e.Sparsify(sparsity=0.7, schedule=schedule))
    train(c, sgd(net), batches, 20)
    c.finish()
    assert zeros(net)["all"] == pytest.approx(0.7, abs=0.005)


def test_a_teacher_is_listened_to(batches: list[Any]) -> None:
    teacher = nets.lively(nets.tiny_resnet(), 3)
    x, y = batches[0]
    plain = t2e.compress(
        fresh().eval(), EXAMPLE, sparsify=t2e.Sparsify(sparsity=0.1, schedule=t2e.OneShot(begin=1))
    )
    net = fresh().eval()
    taught = t2e.compress(net, EXAMPLE, distill=t2e.Distill(teacher, "dist", alpha=0.5))
    alone, both = (float(c.loss(x, y, F.cross_entropy).detach()) for c in (plain, taught))
    soft = (both - 0.5 * alone) / 0.5
    assert 0 < soft < 4  # two correlations, each from 0 to 2 away
    taught.step()
    taught.finish()
    assert not any(m._forward_hooks for m in (*net.modules(), *teacher.modules()))


def test_adapters_of_hints_learn(batches: list[Any]) -> None:
    from torchopt2edge.models.cifar_resnet import cifar_resnet

    teacher = nets.lively(cifar_resnet(8, 10, 12), 3)
    hint = Hint(student="layer3", teacher="layer3")
    net = fresh()
    c = t2e.compress(net, EXAMPLE, distill=t2e.Distill(teacher, [hint], alpha=1.0))
    assert c.parts.distillation is not None
    (adapter,) = c.parts.distillation.adapters.values()
    before = adapter.weight.detach().clone()
    losses = train(c, sgd(net), batches, 12)
    assert not torch.equal(adapter.weight, before)
    assert losses[-1] < losses[0]


def test_a_loop_goes_on_from_its_own_checkpoint(batches: list[Any]) -> None:
    def session(net: nn.Module) -> Compression:
        schedule = t2e.Linear(begin=2, end=12, every=5)
        return t2e.compress(net, EXAMPLE, prune=t2e.Prune(macs=0.6, round_to=1, schedule=schedule))

    net = fresh()
    c, optimizer = session(net), sgd(net)
    train(c, optimizer, batches, 8)
    kept = copy.deepcopy((c.state_dict(), net.state_dict(), optimizer.state_dict()))
    train(c, optimizer, batches, 8)
    wanted = c.finish().state_dict()

    again = fresh(9)
    c = session(again)
    c.load_state_dict(kept[0])
    again.load_state_dict(kept[1])
    optimizer = sgd(again)
    optimizer.load_state_dict(kept[2])
    train(c, optimizer, batches, 8)
    got = c.finish().state_dict()
    names = [name for name in wanted if "running" not in name and "num_" not in name]
    assert all(torch.equal(wanted[name], got[name]) for name in names)
    used = session(fresh())
    train(used, sgd(used.model), batches, 1)
    with pytest.raises(ConfigError, match="has begun"):
        used.load_state_dict(kept[0])


def test_it_comes_back_from_a_folder_without_pickle(batches: list[Any], tmp_path: Path) -> None:
    net = fresh()
    c = t2e.compress(net, EXAMPLE, prune=t2e.Prune(macs=0.5, round_to=1))
    train(c, sgd(net), batches, 2)
    small = c.finish().eval()
    c.save(tmp_path)
    again = t2e.rebuild(nets.tiny_resnet(), tmp_path).eval()
    x = batches[0][0]
    assert torch.equal(small(x), again(x))


def test_statistics_are_those_of_the_small_net(batches: list[Any]) -> None:
    net = fresh()
    c = t2e.compress(net, EXAMPLE, prune=t2e.Prune(macs=0.5, round_to=1))
    train(c, sgd(net), batches, 3)
    seen = torch.cat([x for x, _ in batches[:3]])
    c.finish()
    out = net.conv1(seen)
    torch.testing.assert_close(net.bn1.running_mean, out.mean((0, 2, 3)), atol=1e-3, rtol=1e-2)


def test_it_says_what_it_would_cut() -> None:
    found = t2e.explain(fresh(), EXAMPLE, t2e.Prune(macs=0.5, round_to=1))
    whole, left = found.total("macs")
    assert left <= 0.5 * whole


def test_what_cannot_work_is_said(batches: list[Any]) -> None:
    prune = t2e.Prune(macs=0.5, round_to=1)
    with pytest.raises(ConfigError, match="nothing to do"):
        t2e.compress(fresh(), EXAMPLE)
    with pytest.raises(ConfigError, match="whole optimizer steps"):
        t2e.compress(fresh(), EXAMPLE, sparsify=t2e.Sparsify())
    with pytest.raises(ConfigError, match="one example input"):
        t2e.compress(fresh(), (EXAMPLE, EXAMPLE), prune=prune)
    late = t2e.Prune(macs=0.5, round_to=1, schedule=t2e.OneShot(begin=5))
    with pytest.raises(ConfigError, match="begins at step 5"):
        t2e.compress(fresh(), EXAMPLE, prune=late, sparsify=t2e.Sparsify(schedule=t2e.OneShot()))
    with pytest.raises(ConfigError, match="OptimizedModule"):
        t2e.compress(torch.compile(fresh(), backend="eager"), EXAMPLE, prune=prune)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="meter"):
        t2e.compress(fresh(), EXAMPLE, prune=t2e.Prune(target="latency_ms:1@ort-fp32"))
    with pytest.raises(PruneError, match="leaves no channel"):
        t2e.compress(fresh(), EXAMPLE, prune=t2e.Prune(ratios={"layer1.0.conv1": 1.0}))
    with pytest.raises(ConfigError, match=r"no layer is called 'layr1.*such as layer1"):
        t2e.compress(fresh(), EXAMPLE, prune=t2e.Prune(ratios={"layr1.0.conv1": 0.5}))
    c = t2e.compress(fresh(), EXAMPLE, prune=prune)
    with pytest.raises(ConfigError, match="without a loss"):
        c.step()
    x, y = batches[0]
    c.loss(x, y, F.cross_entropy)
    c.step()
    c.finish()
    with pytest.raises(ConfigError, match="finished"):
        c.finish()
    late = t2e.Prune(macs=0.5, round_to=1, schedule=t2e.OneShot(begin=50))
    with pytest.raises(ConfigError, match="not come to its end"):
        t2e.compress(fresh(), EXAMPLE, prune=late).finish()
