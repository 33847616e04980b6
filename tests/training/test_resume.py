"""A training that is killed goes on to the very weights it would have had."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests import nets
from tests.training.killed import train
from torchopt2edge.compression.distillation.loss import Distillation
from torchopt2edge.compression.distillation.spec import Teaching
from torchopt2edge.compression.distillation.terms import KD
from torchopt2edge.data.digits import Digits
from torchopt2edge.errors import TrainError
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.training import checkpoint
from torchopt2edge.training.fit import fit
from torchopt2edge.training.loss import TaskLoss
from torchopt2edge.training.recipe import Recipe, seeded

ROOT = Path(__file__).parents[2]


def start(out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.training.killed", str(out), "0"]
    return subprocess.Popen(command, cwd=ROOT)


@pytest.mark.slow
def test_killed_at_random_steps_it_reaches_the_same_weights(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    threads = torch.get_num_threads()
    train(whole, 1e9)  # no checkpoint but at the end of an epoch
    torch.set_num_threads(threads)
    pause, kept = random.Random(1), broken / "work" / checkpoint.NAME
    for _ in range(2):
        child = start(broken)
        before = kept.stat().st_mtime_ns if kept.exists() else 0
        while not kept.exists() or kept.stat().st_mtime_ns == before:
            assert child.poll() is None
            time.sleep(0.01)
        time.sleep(pause.random())
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert start(broken).wait() == 0
    assert int((broken / "resumed").read_text()) > 0
    wanted = torch.load(whole / "net.pt", weights_only=True)
    got = torch.load(broken / "net.pt", weights_only=True)
    assert all(torch.equal(wanted[key], got[key]) for key in wanted)


def test_the_weight_of_a_fading_term_goes_on(tmp_path: Path, digits: Digits) -> None:
    """The second epoch, begun from a checkpoint, fades on from where the first one was."""

    class Broken(Distillation):
        def forward(self, net, batch):  # type: ignore[no-untyped-def]
            if self.steps == 40:
                raise KeyboardInterrupt
            return super().forward(net, batch)

    def trained(kind: type[Distillation], work: Path) -> dict[str, torch.Tensor]:
        with seeded(0):
            net, teacher = nets.tiny_resnet(), nets.lively(nets.tiny_resnet(), 3)
        teaching = Teaching(loss=[KD(fade=0.0, fade_steps=60)])
        loss = kind(teaching, [teacher], Classification().loss)
        recipe = Recipe(epochs=2, lr=0.01, batch_size=50)  # 30 batches an epoch
        fit(net, loss, digits.split("train"), recipe, "fading", work=work)
        return net.state_dict()

    wanted = trained(Distillation, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(Broken, tmp_path / "broken")
    got = trained(Distillation, tmp_path / "broken")
    assert all(torch.equal(wanted[key], got[key]) for key in wanted)


def test_a_damaged_checkpoint_is_named(tmp_path: Path, digits: Digits) -> None:
    tmp_path.joinpath(checkpoint.NAME).write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(TrainError, match=r"last\.pt.*begins anew"):
        fit(
            nets.tiny_resnet(),
            TaskLoss(Classification()),
            digits.split("train"),
            Recipe(epochs=1),
            "damaged",
            work=tmp_path,
        )


def test_a_loss_that_is_no_number_leaves_the_last_good_state(
    tmp_path: Path, digits: Digits
) -> None:
    class Explodes(TaskLoss):
        steps = 0

        def forward(self, net, batch):  # type: ignore[no-untyped-def]
            self.steps += 1
            loss = super().forward(net, batch)
            return loss * float("nan") if self.steps == 45 else loss

    net = nets.tiny_resnet()
    recipe = Recipe(epochs=9, lr=0.01, batch_size=50)  # 30 batches an epoch
    with pytest.raises(TrainError, match=r"nan in epoch 2, batch 15; the last good state.*clip"):
        fit(net, Explodes(Classification()), digits.split("train"), recipe, "nan", work=tmp_path)
    kept = checkpoint.load(tmp_path)
    assert kept is not None
    assert kept["at"]["step"] == 30
    assert all(bool(value.isfinite().all()) for value in kept["net"].values())
