"""What other people's repositories do with `compress`: wrappers, optimizers, restarts, mistakes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchopt2edge as t2e
from tests import nets
from torchopt2edge.compression.distillation.terms import Hint
from torchopt2edge.compression.sparsity.mask import zeros
from torchopt2edge.errors import ConfigError, PruneError, TrainError
from torchopt2edge.integrations.loop import Compression

SHAPE = (3, 12, 12)
EXAMPLE = torch.zeros(1, *SHAPE)
X = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 4
HALF = t2e.Prune(macs=0.5, round_to=1)
LATE = t2e.Prune(macs=0.5, round_to=1, schedule=t2e.Linear(begin=1, end=3, every=1))


def fresh(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nets.Residual().train()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.05, momentum=0.9)


def train(
    c: Compression, *optimizers: torch.optim.Optimizer, steps: int = 4, **through: nn.Module
) -> None:
    for _ in range(steps):
        c.loss(X, Y, F.cross_entropy, **through).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        c.step()


def orphans(net: nn.Module, *optimizers: torch.optim.Optimizer) -> list[str]:
    held = {id(p) for one in optimizers for group in one.param_groups for p in group["params"]}
    return [name for name, parameter in net.named_parameters() if id(parameter) not in held]


@pytest.mark.parametrize("given", [False, True], ids=["noticed", "given"])
def test_several_optimizers_follow_a_cut(given: bool) -> None:
    net = fresh()
    kernels = sgd([p for p in net.parameters() if p.ndim > 1])
    rest = torch.optim.Adam([p for p in net.parameters() if p.ndim < 2])
    both = (kernels, rest)
    c = t2e.compress(net, EXAMPLE, prune=LATE, optimizer=both if given else None)
    train(c, *both)
    assert c.facts()["macs_share"] <= 0.5
    assert orphans(net, *both) == []


def test_an_optimizer_that_is_made_anew_follows_too() -> None:
    net = fresh()
    schedule = t2e.Linear(begin=1, end=8, every=1)
    c = t2e.compress(net, EXAMPLE, prune=t2e.Prune(macs=0.5, round_to=1, schedule=schedule))
    train(c, sgd(net.parameters()))
    again = torch.optim.AdamW(net.parameters(), 1e-3)
    train(c, again)
    assert orphans(net, again) == []
    c.finish()


def test_a_cut_without_an_optimizer_that_stepped_is_refused() -> None:
    net = fresh()
    c = t2e.compress(net, EXAMPLE, prune=t2e.Prune(macs=0.5, schedule=t2e.OneShot(begin=1)))
    c.loss(X, Y, F.cross_entropy).backward()
    with pytest.raises(ConfigError, match="no optimizer of the model has stepped"):
        c.step()


def test_a_batch_goes_through_what_wraps_the_net() -> None:
    net = fresh()
    hint = Hint(student="stem", teacher="stem")
    teacher = nets.lively(nets.Residual())
    c = t2e.compress(
        net,
        EXAMPLE,
        prune=LATE,
        distill=t2e.Distill(teacher, ["kd", Hint(student="head", teacher="head")]),
    )
    compiled = torch.compile(net, backend="eager")
    train(c, sgd(net.parameters()), through=compiled)  # type: ignore[arg-type]
    assert torch.equal(compiled(X), c.finish()(X))
    other = t2e.compress(fresh(), EXAMPLE, distill=t2e.Distill(teacher, [hint]))
    with pytest.raises(ConfigError, match="another net"):
        other.loss(X, Y, F.cross_entropy, through=compiled)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="DataParallel"):
        t2e.compress(nn.DataParallel(fresh()), EXAMPLE, prune=HALF)


class Wrapped(nn.Module):
    """A net whose only child is called as wrappers call what they wrap."""

    def __init__(self) -> None:
        super().__init__()
        self.module = fresh()

    def forward(self, image: Tensor) -> Tensor:
        return self.module(image)  # type: ignore[no-any-return]


def test_a_child_called_module_is_no_wrapper() -> None:
    hint = Hint(student="module.stem", teacher="stem")
    c = t2e.compress(Wrapped(), EXAMPLE, distill=t2e.Distill(fresh(1), [hint]))
    train(c, sgd(c.model.parameters()), steps=1)
    assert isinstance(c.finish(), Wrapped)


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)


@pytest.mark.usefixtures("two_processes")
def test_gradients_of_several_processes_must_meet() -> None:
    c = t2e.compress(fresh(), EXAMPLE, distill=t2e.Distill(fresh(1)))
    with pytest.raises(ConfigError, match=r"through=ddp"):
        c.loss(X, Y, F.cross_entropy)
    c.loss(X, Y, F.cross_entropy, through=c.model)
    c = t2e.compress(fresh(), EXAMPLE, prune=LATE)
    with pytest.raises(ConfigError, match="several devices"):
        c.loss(X, Y, F.cross_entropy, through=c.model)


def test_the_simplest_pruning_goes_on_from_a_checkpoint() -> None:
    """What was cut before the first step, of other weights, gives way to what was saved."""
    net, other = nets.lively(fresh()), nets.lively(fresh(5), 7)
    c, optimizer = t2e.compress(net, EXAMPLE, prune=HALF), sgd(net.parameters())
    train(c, optimizer)
    kept = copy.deepcopy((c.state_dict(), net.state_dict(), optimizer.state_dict()))
    train(c, optimizer)
    again = t2e.compress(other, EXAMPLE, prune=HALF)
    assert again.plan != c.plan
    again.load_state_dict(kept[0])
    other.load_state_dict(kept[1])
    optimizer = sgd(other.parameters())
    optimizer.load_state_dict(kept[2])
    train(again, optimizer)
    assert again.plan == c.plan
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    assert again.finish() is other


def test_adapters_and_fading_go_on_from_a_checkpoint() -> None:
    def session(net: nn.Module) -> Compression:
        hint = Hint(student="stem", teacher="inner", fade=0.1, fade_steps=20)
        return t2e.compress(net, EXAMPLE, distill=t2e.Distill(teacher, ["kd", hint]))

    net, other, teacher = fresh(), fresh(3), nets.lively(nets.Residual())
    c, optimizer = session(net), sgd(net.parameters())
    train(c, optimizer)
    kept = copy.deepcopy((c.state_dict(), net.state_dict(), optimizer.state_dict()))
    train(c, optimizer)
    again = session(other)
    again.load_state_dict(kept[0])
    other.load_state_dict(kept[1])
    optimizer = sgd(other.parameters())
    optimizer.load_state_dict(kept[2])
    train(again, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_another_schedule_or_budget_may_follow_and_another_compression_may_not() -> None:
    net = fresh()
    c = t2e.compress(
        net,
        EXAMPLE,
        prune=t2e.Prune(macs=0.5, round_to=1, schedule=t2e.Linear(begin=1, end=40, every=1)),
    )
    train(c, sgd(net.parameters()))
    kept, weights = c.state_dict(), net.state_dict()
    with pytest.raises(ConfigError, match="another compression"):
        t2e.compress(
            fresh(), EXAMPLE, sparsify=t2e.Sparsify(schedule=t2e.OneShot())
        ).load_state_dict(kept)
    with pytest.raises(ConfigError, match="beyond step 4"):
        t2e.compress(fresh(), EXAMPLE, prune=LATE).load_state_dict(kept)
    net = fresh(1)
    done = t2e.compress(net, EXAMPLE, prune=LATE)
    train(done, sgd(net.parameters()))
    kept_done = done.state_dict()
    sooner = t2e.Prune(macs=0.5, round_to=1, schedule=t2e.OneShot(begin=2))
    c = t2e.compress(fresh(), EXAMPLE, prune=sooner)
    c.load_state_dict(kept_done)
    assert c.finish() is not net
    net = fresh(1)
    later = t2e.Prune(macs=0.3, round_to=1, schedule=t2e.Linear(begin=1, end=6, every=1))
    c = t2e.compress(net, EXAMPLE, prune=later)
    c.load_state_dict(kept)
    net.load_state_dict(weights)
    train(c, sgd(net.parameters()))
    c.finish()
    assert c.facts()["macs_share"] <= 0.3


def test_channels_and_then_zeros_go_in_one_session(tmp_path: Path) -> None:
    net = fresh()
    sparsify = t2e.Sparsify(sparsity=0.6, schedule=t2e.Linear(begin=3, end=6, every=1))
    c = t2e.compress(net, EXAMPLE, prune=LATE, sparsify=sparsify)
    train(c, sgd(net.parameters()), steps=8)
    small = c.finish(tmp_path).eval()
    assert c.facts()["macs_share"] <= 0.5
    assert zeros(small)["all"] == pytest.approx(0.6, abs=0.02)
    assert torch.equal(t2e.rebuild(nets.Residual(), tmp_path).eval()(X), small(X))


def test_a_second_session_is_rebuilt_from_both_folders(tmp_path: Path) -> None:
    net = fresh()
    t2e.compress(net, EXAMPLE, prune=HALF).finish(tmp_path / "one")
    masked = t2e.Sparsify(sparsity=0.5, schedule=t2e.OneShot())
    t2e.compress(net, EXAMPLE, sparsify=masked).finish(tmp_path / "two")
    again = t2e.rebuild(nets.Residual(), tmp_path / "one", tmp_path / "two")
    assert torch.equal(again.eval()(X), net.eval()(X))


def test_statistics_that_stand_still_are_not_measured_at_the_end() -> None:
    net = nets.lively(nets.Residual()).train()
    net.stem_bn.eval()
    before = net.stem_bn.running_var.clone()
    c = t2e.compress(net, EXAMPLE, distill=t2e.Distill(fresh(1)))
    train(c, sgd(net.parameters()))
    c.finish()
    assert torch.equal(net.stem_bn.running_var, before)
    assert not net.stem_bn.training


def test_statistics_survive_batches_of_one() -> None:
    net = fresh()
    c = t2e.compress(net, EXAMPLE, prune=HALF)
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    for x, y in zip(X.split(1), Y.split(1), strict=True):
        c.loss(x, y, F.cross_entropy).backward()
        optimizer.step()
        c.step()
    c.finish()
    seen = net.stem(X).mean((0, 2, 3))
    torch.testing.assert_close(net.stem_bn.running_mean, seen, atol=1e-4, rtol=1e-3)


def test_weights_that_are_no_numbers_are_refused() -> None:
    for parts in ({"prune": LATE}, {"sparsify": t2e.Sparsify(schedule=t2e.OneShot(begin=2))}):
        net = fresh()
        c = t2e.compress(net, EXAMPLE, **parts)  # type: ignore[arg-type]
        optimizer = sgd(net.parameters())
        train(c, optimizer, steps=1)
        with torch.no_grad():
            net.stem.weight.fill_(torch.nan)
        with pytest.raises(TrainError, match="is not finite: the loss was no number"):
            train(c, optimizer)


def test_what_a_stranger_does_wrong_is_said() -> None:
    net = fresh()
    with pytest.raises(ConfigError, match=r"cannot run on an example of \(2, 5, 12, 12\)"):
        t2e.compress(net, torch.zeros(1, 5, 12, 12), prune=HALF)
    with pytest.raises(ConfigError, match=r"copy\.deepcopy"):
        t2e.compress(net, EXAMPLE, distill=t2e.Distill(net))
    assert all(p.requires_grad for p in net.parameters())
    with pytest.raises(ConfigError, match=r"0\.5 is no Prune"):
        t2e.compress(net, EXAMPLE, prune=0.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a module, not a str"):
        t2e.compress(net, EXAMPLE, distill=t2e.Distill("resnet50"))
    with pytest.raises(ConfigError, match="before the first step"):
        t2e.OneShot(begin=-1)
    with pytest.raises(ConfigError, match="not on a dict"):
        t2e.compress(net, EXAMPLE, distill=t2e.Distill(fresh(1))).loss({}, Y, F.cross_entropy)  # type: ignore[arg-type]
    shares = t2e.Sparsify(schedule=t2e.Linear(begin=0, end=1.0))
    with pytest.raises(ConfigError, match="in shares"):
        t2e.compress(net, EXAMPLE, sparsify=shares)
    small = t2e.Prune(macs=0.001, schedule=t2e.OneShot(begin=1000))
    with pytest.raises(PruneError, match="pruning reaches"):
        t2e.compress(net, EXAMPLE, prune=small)
    c = t2e.compress(net, EXAMPLE, distill=t2e.Distill(fresh(1)))
    c.loss(X, Y, F.cross_entropy)
    with pytest.raises(ConfigError, match=r"step\(\) was never called"):
        c.finish()
    late = t2e.Prune(macs=0.5, round_to=1, schedule=t2e.OneShot(begin=50))
    with pytest.raises(ConfigError, match="its end, step 50"):
        t2e.compress(net, EXAMPLE, prune=late).finish()
