from __future__ import annotations

import functools
import logging
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tests import nets
from tests.stages.conftest import Run
from torchopt2edge.data.digits import Digits
from torchopt2edge.errors import ConfigError, ModelError, TrainError
from torchopt2edge.models.artifact import load_model
from torchopt2edge.stages.train import Train
from torchopt2edge.store import identity
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.training.fit import fit
from torchopt2edge.training.loss import TaskLoss
from torchopt2edge.training.recipe import Recipe
from torchopt2edge.training.score import scores


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_learns(run: Run, digits: Digits, optimizer: str, caplog: pytest.LogCaptureFixture):
    lr = {"sgd": 0.1, "adamw": 5e-3}[optimizer]
    stage = Train(model=nets.tiny_resnet, data=digits, epochs=4, lr=lr, optimizer=optimizer)
    with caplog.at_level(logging.INFO, logger="torchopt2edge"):
        made = run(stage)
    assert made.facts["top1_test"] > 75
    name, value = scores(load_model(made.path), digits.split("test"), Classification())
    assert (name, value) == ("top1", pytest.approx(made.facts["top1_test"], abs=1e-3))
    lines = [r.getMessage() for r in caplog.records if r.name == "torchopt2edge"]
    assert [line.split(",")[0] for line in lines] == [f"train: epoch {i} of 4" for i in range(1, 5)]
    assert made.facts["params"] > 0 < made.facts["macs"]


def test_it_is_deterministic_given_its_seed(run: Run, digits: Digits):
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(torch.seed() % 1000)  # whatever came before must not matter
        made = run(Train(model=nets.tiny_resnet, data=digits, epochs=1, seed=seed))
        return torch.cat(
            [v.flatten().double() for v in load_model(made.path).state_dict().values()]
        )

    first = weights(5)
    assert torch.equal(first, weights(5))
    assert not torch.equal(first, weights(6))


def test_it_leaves_the_callers_generator_alone(run: Run, digits: Digits):
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    run(Train(model=nets.tiny_resnet, data=digits, epochs=1))
    assert torch.equal(torch.rand(4), wanted)


def test_a_loss_that_is_no_number_stops_it(run: Run, digits: Digits):
    with pytest.raises(TrainError, match=r"epoch 1, batch \d+.*smaller lr"):
        run(Train(model=nets.tiny_resnet, data=digits, epochs=2, lr=1e20, warmup=0))


def test_a_lone_last_sample_does_not_stop_it():
    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(x.flatten(1)))

    samples = [(torch.randn(3, 1, 1), i % 2) for i in range(9)]
    loss = fit(
        Pixels(), TaskLoss(Classification()), samples, Recipe(epochs=1, batch_size=4), "pixels"
    )
    assert loss.loss is not None
    assert loss.loss > 0
    with pytest.raises(TrainError, match="1 samples are too few"):
        fit(Pixels(), TaskLoss(Classification()), samples[:1], Recipe(epochs=1), "pixels")


def test_a_checkpoint_without_epochs_only_loads(run: Run, digits: Digits, tmp_path: Path):
    net = nets.lively(nets.tiny_resnet())
    torch.save(net.state_dict(), tmp_path / "w.pth")
    stage = Train(model=nets.tiny_resnet, data=digits, epochs=0, checkpoint=str(tmp_path / "w.pth"))
    made = run(stage)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(load_model(made.path)(images), net(images))
    assert "train_loss" not in made.facts


def test_the_checkpoints_content_is_in_the_identity(digits: Digits, tmp_path: Path):
    def key(value: float, name: str) -> object:
        torch.save({"w": torch.tensor(value)}, tmp_path / name)
        return identity(Train(model=nets.tiny_resnet, data=digits, checkpoint=str(tmp_path / name)))

    assert key(1.0, "a") == key(1.0, "a")
    assert key(1.0, "a") != key(2.0, "a")
    with pytest.raises(ModelError, match="missing"):
        identity(Train(model=nets.tiny_resnet, data=digits, checkpoint="/nowhere"))


def test_a_model_that_cannot_be_saved_is_refused_before_training(run: Run, digits: Digits):
    def local() -> nn.Module:
        raise AssertionError("it was built")

    with pytest.raises(ModelError, match="module-level function"):
        run(Train(model=local, data=digits))
    with pytest.raises(ModelError, match="plain"):
        run(Train(model=functools.partial(nets.tiny_resnet, num_classes=nn.ReLU()), data=digits))


def test_numbers_that_cannot_work(run: Run, digits: Digits):
    for settings in ({"epochs": -1}, {"batch_size": 1}, {"optimizer": "lion"}):
        with pytest.raises(ConfigError):
            run(Train(model=nets.tiny_resnet, data=digits, **{"epochs": 1, **settings}))


def test_it_is_quiet_and_leaves_no_litter(
    run: Run,
    digits: Digits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(Train(model=nets.tiny_resnet, data=digits, epochs=1))
    assert not list(here.iterdir())
    assert capfd.readouterr() == ("", "")
