"""Compression in a Lightning Trainer, with LightningModules that know nothing of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import torchopt2edge as t2e
from tests import nets
from torchopt2edge.compression.distillation.terms import Hint
from torchopt2edge.compression.sparsity.mask import zeros
from torchopt2edge.data.digits import Digits
from torchopt2edge.errors import ConfigError
from torchopt2edge.models import count

SHAPE = (3, 16, 16)


class Module(L.LightningModule):
    """A user's own."""

    def __init__(self, manual: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nets.tiny_resnet()
        self.losses: list[float] = []
        self.automatic_optimization = not manual

    def training_step(self, batch: Any, index: int) -> Any:
        x, y = batch
        loss = F.cross_entropy(self.model(x), y)
        self.losses.append(float(loss.detach()))
        return {"loss": loss}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)


@pytest.fixture(autouse=True)
def _lightnings_own_advice() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def batches() -> DataLoader[Any]:
    digits = Digits(size=16, test_count=300, calibration_count=32, augment=False)
    return DataLoader(digits.split("train"), 64)  # type: ignore[arg-type]


def trainer(root: Path, *callbacks: L.Callback, **settings: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    given = {"max_steps": 20, "accelerator": "cpu", **quiet, **settings}
    return L.Trainer(default_root_dir=root, callbacks=list(callbacks), **given)


def compress(**specs: Any) -> Any:
    return t2e.integrations.lightning.Compress(**specs)


def test_the_net_is_cut_while_it_trains(batches: DataLoader[Any], tmp_path: Path) -> None:
    module = Module()
    schedule = t2e.Polynomial(begin=4, end=16, every=6)
    callback = compress(prune=t2e.Prune(macs=0.5, round_to=1, schedule=schedule))
    whole = count.macs(module.model, SHAPE)
    trainer(tmp_path, callback, enable_checkpointing=False).fit(module, batches)
    assert count.macs(module.model, SHAPE) <= 0.5 * whole
    assert module.losses[-1] < module.losses[0]
    assert "training_step" not in vars(module)
    assert not module.model._forward_hooks
    callback.save(tmp_path / "small")
    again = t2e.rebuild(nets.tiny_resnet(), tmp_path / "small").eval()
    x = next(iter(batches))[0]
    assert torch.equal(again(x), module.model.eval()(x))


class Manual(Module):
    """Two optimizers that share the net, stepped by hand."""

    def training_step(self, batch: Any, index: int) -> Any:
        x, y = batch
        loss = F.cross_entropy(self.model(x), y)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self) -> Any:
        kernels = [p for p in self.model.parameters() if p.ndim > 1]
        rest = [p for p in self.model.parameters() if p.ndim < 2]
        return torch.optim.SGD(kernels, 0.05, momentum=0.9), torch.optim.AdamW(rest, 1e-3)


def test_optimizers_stepped_by_hand_all_follow_a_cut(
    batches: DataLoader[Any], tmp_path: Path
) -> None:
    module = Manual(manual=True)
    callback = compress(prune=t2e.Prune(macs=0.5, round_to=1, schedule=t2e.OneShot(begin=2)))
    fitting = trainer(tmp_path, callback, max_steps=10)
    fitting.fit(module, batches)
    assert callback.facts()["macs_share"] <= 0.5
    held = {id(p) for one in fitting.optimizers for g in one.param_groups for p in g["params"]}
    assert {id(p) for p in module.model.parameters()} == held


def test_accumulated_gradients_count_as_one_step(batches: DataLoader[Any], tmp_path: Path) -> None:
    module = Module()
    schedule = t2e.OneShot(begin=3)
    callback = compress(sparsify=t2e.Sparsify(sparsity=0.5, schedule=schedule))
    settings = {"accumulate_grad_batches": 4, "enable_checkpointing": False}
    trainer(tmp_path, callback, max_steps=4, **settings).fit(module, batches)
    assert len(module.losses) == 16
    assert callback.session.steps == 4
    assert zeros(module.model)["all"] == pytest.approx(0.5, abs=0.01)


def test_a_teacher_and_hints(batches: DataLoader[Any], tmp_path: Path) -> None:
    teacher = nets.lively(nets.tiny_resnet(), 5)
    hint = Hint(student="layer2", teacher="layer2", weight=5.0)
    taught, alone = Module(), Module()
    specs = {"distill": t2e.Distill(teacher, ["kd", hint], alpha=1.0)}
    settings = {"enable_checkpointing": False, "max_steps": 10}
    trainer(tmp_path, compress(**specs), **settings).fit(taught, batches)
    trainer(tmp_path, **settings).fit(alone, batches)
    x = next(iter(batches))[0]
    said = teacher(x)
    near, far = (F.mse_loss(one.model.eval()(x), said) for one in (taught, alone))
    assert near < far
    assert not any(m._forward_hooks for m in (*taught.modules(), *teacher.modules()))


def test_a_trainer_goes_on_from_its_checkpoint(batches: DataLoader[Any], tmp_path: Path) -> None:
    def specs() -> Any:
        schedule = t2e.Linear(begin=2, end=14, every=6)
        return compress(prune=t2e.Prune(macs=0.6, round_to=1, schedule=schedule))

    whole, broken = Module(), Module()
    trainer(tmp_path, specs(), max_steps=20, enable_checkpointing=False).fit(whole, batches)
    first = trainer(tmp_path, specs(), max_steps=10)
    with pytest.raises(ConfigError, match="not come to its end"):  # in the middle of the schedule
        first.fit(broken, batches)
    first.save_checkpoint(tmp_path / "half.ckpt")
    again = Module()
    second = trainer(tmp_path, specs(), max_steps=20, enable_checkpointing=False)
    second.fit(again, batches, ckpt_path=tmp_path / "half.ckpt")
    shapes = [{name: p.shape for name, p in one.model.named_parameters()} for one in (whole, again)]
    assert shapes[0] == shapes[1]


def test_what_cannot_work_is_said(batches: DataLoader[Any], tmp_path: Path) -> None:
    prune = t2e.Prune(macs=0.5, round_to=1)
    settings = {"enable_checkpointing": False, "max_steps": 2}
    with pytest.raises(ConfigError, match=r"'backbone'.*model"):
        trainer(tmp_path, compress(prune=prune, net="backbone"), **settings).fit(Module(), batches)
    with pytest.raises(ConfigError, match="nothing to do"):
        trainer(tmp_path, compress(), **settings).fit(Module(), batches)
    distill = t2e.Distill(nets.tiny_resnet(), "kd")
    with pytest.raises(ConfigError, match="manual"):
        trainer(tmp_path, compress(distill=distill), **settings).fit(Module(True), batches)
    with pytest.raises(ConfigError, match="nothing was trained"):
        compress(prune=prune).save(tmp_path)


def test_the_net_is_found(tmp_path: Path) -> None:
    class Two(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 2)

    two, module = Two(), Module()
    assert compress(prune=t2e.Prune(macs=0.5)).net(two) is two
    assert compress(prune=t2e.Prune(macs=0.5), net="head").net(two) is two.head
    assert compress(prune=t2e.Prune(macs=0.5)).net(module) is module.model
