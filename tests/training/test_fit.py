"""What a recipe's fields do to a training."""

from __future__ import annotations

import copy
import csv
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import nets
from torchopt2edge.data.digits import Digits
from torchopt2edge.errors import ConfigError
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.training.batch import Batch
from torchopt2edge.training.control import Control
from torchopt2edge.training.ema import Ema
from torchopt2edge.training.fit import Fitted, fit
from torchopt2edge.training.loss import TaskLoss
from torchopt2edge.training.mix import mixing
from torchopt2edge.training.recipe import Recipe, seeded
from torchopt2edge.training.schedule import shape
from torchopt2edge.training.score import scores
from torchopt2edge.training.validation_split import splits_of


def trained(digits: Digits, *controls: Control, **settings: Any) -> tuple[nn.Module, Fitted]:
    recipe = Recipe(**{"epochs": 1, "lr": 0.02, **settings})
    with seeded(0):
        net = nets.tiny_resnet()
    loss = TaskLoss(recipe.task)
    return net, fit(net, loss, splits_of(digits, recipe), recipe, "test", controls)


class Watch(Control):
    """Notes what it is told, and the learning rates."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.rates: list[float] = []
        self.norms: list[float] = []

    def attach(self, net: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        self.seen.append("attach" if optimizer is None else "attach with optimizer")
        self.net = net
        if optimizer is not None:
            self.optimizer = optimizer

    def before_epoch(self, epoch: int) -> None:
        self.seen.append(f"epoch {epoch}")

    def after_step(self, step: int) -> None:
        self.seen.append(step)
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        grads = [p.grad.norm() for p in self.net.parameters() if p.grad is not None]
        self.norms.append(float(torch.stack(grads).norm()))

    def finish(self) -> None:
        self.seen.append("finish")


def test_controls_are_called_in_order(digits: Digits) -> None:
    watch = Watch()
    trained(digits, watch, epochs=2, batch_size=500)
    ready = ["attach", "attach with optimizer"]
    assert watch.seen == [*ready, "epoch 0", 1, 2, 3, "epoch 1", 4, 5, 6, "finish"]


def test_a_penalty_is_part_of_the_loss(digits: Digits) -> None:
    class Heavy(Control):
        def attach(self, net: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
            self.net = net

        def penalty(self) -> torch.Tensor:
            return 50.0 * torch.stack([p.square().sum() for p in self.net.parameters()]).sum()

    free, held = (
        sum(float(p.detach().square().sum()) for p in trained(digits, *c, lr=1e-3)[0].parameters())
        for c in ((), (Heavy(),))
    )
    assert held < 0.5 * free


def test_the_gradient_is_clipped(digits: Digits) -> None:
    watch = Watch()
    trained(digits, watch, clip=0.01)
    assert max(watch.norms) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_schedules(digits: Digits, schedule: str) -> None:
    watch = Watch()
    settings = {"lr_schedule": schedule, "epochs": 4, "batch_size": 150, "warmup": 1, "lr": 0.02}
    trained(digits, watch, **settings)
    rates = [rate / 0.02 for rate in watch.rates]
    assert rates[:9] == pytest.approx([(i + 1) / 11 for i in range(9)])
    if schedule == "cosine":
        assert rates[25] == pytest.approx(0.5 * (1 + math.cos(math.pi * 15 / 30)))
    elif schedule == "step":  # at half and at three quarters of what follows the warm-up
        assert rates[24:26] == pytest.approx([1.0, 0.1])
        assert rates[-1] == pytest.approx(0.01)
    else:
        assert set(rates[10:]) == {1.0}


def test_one_step_does_not_divide_by_zero() -> None:
    assert shape(Recipe(epochs=1), 1)(0) == 1.0


def test_the_average_follows_the_net() -> None:
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(0.0)
    ema = Ema(net, 0.5)
    net.weight.data.fill_(1.0)
    ema.update(net)  # decay min(0.5, 2/11)
    assert float(ema.net.weight.detach()) == pytest.approx(1 - 2 / 11)
    for _ in range(50):
        ema.update(net)
    assert float(ema.net.weight.detach()) == pytest.approx(1.0)
    wider = nn.Linear(3, 1, bias=False)
    ema.update(wider)
    assert torch.equal(ema.net.weight, wider.weight)


def test_the_average_is_what_comes_out(digits: Digits) -> None:
    plain = trained(digits)[0].state_dict()
    mean = trained(digits, ema=0.999)[0].state_dict()
    assert any(not torch.equal(plain[key], mean[key]) for key in plain)


def test_mixed_images_have_soft_targets() -> None:
    mix = mixing(Recipe(mixup=0.4, cutmix=1.0), 10)
    assert mix is not None
    images, labels = torch.randn(8, 3, 4, 4), torch.arange(8)
    mixed = mix(Batch(images, labels, labels, 0))
    assert mixed.targets.shape == (8, 10)
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(8))
    assert (mixed.index, mixed.view) == (None, None)
    assert mixing(Recipe(), 10) is None
    with pytest.raises(ConfigError, match="classes"):
        mixing(Recipe(mixup=1.0), None)


def test_it_learns_from_mixed_images(digits: Digits) -> None:
    loss = trained(digits, mixup=0.2, cutmix=1.0, epochs=2, lr=0.05)[1].loss
    assert loss is not None
    assert 0.5 < loss < 2.3


def test_the_best_epoch_is_kept(digits: Digits) -> None:
    """The rate is ruinous after the warm-up: the first epochs are the best."""
    settings = {"epochs": 5, "lr_schedule": "constant", "warmup": 4.5, "lr": 20.0, "clip": 50.0}
    _, fitted = trained(digits, **settings, validation=200, best=True)
    assert fitted.facts["best_epoch"] <= fitted.facts["epochs"]
    recipe = Recipe(validation=200)
    held = splits_of(digits, recipe).validation
    assert held is not None
    net, fitted = trained(digits, **settings, validation=200, best=True, ema=None)
    assert scores(net, held, Classification())[1] == pytest.approx(
        fitted.facts["best_validation"], abs=1e-3
    )


def test_patience_ends_it(digits: Digits) -> None:
    fitted = trained(digits, epochs=9, lr=1e-9, validation=100, patience=2, lr_schedule="constant")[
        1
    ]
    assert fitted.facts["epochs"] == 3
    assert fitted.facts["best_epoch"] == 1


def test_what_judges_is_neither_trained_on_nor_augmented(digits: Digits) -> None:
    splits = splits_of(digits, Recipe(validation=150))
    assert splits.validation is not None
    assert len(splits.train) + len(splits.validation) == len(digits.split("train"))
    assert torch.equal(splits.validation[0][0], splits.validation[0][0])
    kept, held = set(splits.train.indices), set(splits.validation.indices)  # type: ignore[attr-defined]
    assert not kept & held
    with pytest.raises(ConfigError, match="cannot be held out"):
        splits_of(digits, Recipe(validation=5000))


def test_csv_holds_an_epoch_a_line(digits: Digits, tmp_path: Path) -> None:
    trained(digits, epochs=2, logger="csv", log_dir=str(tmp_path), validation=50)
    (file,) = tmp_path.rglob("metrics.csv")
    lines = list(csv.DictReader(file.read_text().splitlines()))
    assert [set(line) for line in lines] == [{"step", "loss", "top1_validation"}] * 2
    assert float(lines[1]["loss"]) > 0


@pytest.mark.parametrize(
    ("logger", "file"), [("tensorboard", "events.out*"), ("mlflow", "mlflow.db")]
)
def test_other_loggers_write(digits: Digits, tmp_path: Path, logger: str, file: str) -> None:
    trained(digits, logger=logger, log_dir=str(tmp_path))
    assert list(tmp_path.rglob(file))


def test_a_logger_that_is_not_installed_says_what_to_type(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchopt2edge.training import loggers

    def absent(kind: str, folder: Path, name: str) -> Any:
        raise ModuleNotFoundError("tensorboard")

    monkeypatch.setattr(loggers, "_made", absent)
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        trained(digits, logger="tensorboard", log_dir=str(tmp_path))


def test_deterministic_kernels_are_asked_for_and_let_go(digits: Digits) -> None:
    class Look(Control):
        def after_step(self, step: int) -> None:
            assert torch.are_deterministic_algorithms_enabled()

    before = torch.are_deterministic_algorithms_enabled()
    trained(digits, Look(), deterministic=True)
    assert torch.are_deterministic_algorithms_enabled() is before


def test_half_precision_on_a_cpu_is_bfloat(digits: Digits) -> None:
    class Look(Control):
        def attach(self, net: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
            net.conv1.register_forward_hook(lambda m, i, out: kinds.add(out.dtype))

    kinds: set[torch.dtype] = set()
    trained(digits, Look(), precision="bf16-mixed")
    assert kinds == {torch.bfloat16}


@pytest.mark.slow
def test_two_processes_train_one_net(digits: Digits, tmp_path: Path) -> None:
    """On the CPU with gloo: they share their gradients, and one net comes back."""
    command = [sys.executable, "-m", "tests.training.killed", str(tmp_path), "0", "2"]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, timeout=300)
    shared = torch.load(tmp_path / "net.pt", weights_only=True)
    with seeded(0):
        untrained = nn.Sequential(nets.tiny_resnet(), nn.Dropout(0.2)).state_dict()
    assert all(bool(value.isfinite().all()) for value in shared.values())
    assert not any(torch.equal(untrained[key], shared[key]) for key in shared if "weight" in key)
    net = nn.Sequential(nets.tiny_resnet(), nn.Dropout(0.2))
    net.load_state_dict(shared)
    assert scores(net, digits.split("test"), Classification())[1] > 40


def test_cuts_and_several_devices_do_not_go_together(digits: Digits) -> None:
    class Cuts(Control):
        reshapes = True

    with pytest.raises(ConfigError, match="devices=1"):
        trained(digits, Cuts(), devices=2, accelerator="cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {"lr_schedule": "up"},
        {"precision": "8"},
        {"logger": "paper"},
        {"clip": 0},
        {"ema": 1.0},
        {"views": 0},
        {"best": True},
        {"patience": 2},
    ],
)
def test_numbers_that_cannot_work(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Recipe(**settings).check()


def test_a_moved_net_trains_as_a_copy_does(digits: Digits) -> None:
    """Channels-last is an order of memory: the net is handed back as it came."""
    net, _ = trained(digits)
    assert all(p.is_contiguous() for p in net.parameters())
    assert not net.training
    assert next(copy.deepcopy(net).parameters()).device.type == "cpu"
