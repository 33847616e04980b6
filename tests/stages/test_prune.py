from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests import nets
from tests.stages.conftest import Run
from torchopt2edge.data.digits import Digits
from torchopt2edge.errors import ConfigError, PruneError
from torchopt2edge.models import count
from torchopt2edge.models.artifact import load_model
from torchopt2edge.models.torchvision_net import torchvision_net
from torchopt2edge.pruning.budget import Budget
from torchopt2edge.stages.prune import Prune, plan_cuts, refresh_statistics
from torchopt2edge.types import Artifact

Save = Callable[[nn.Module, Callable[..., nn.Module]], Artifact]


@pytest.fixture
def source(artifact: Save) -> Artifact:
    return artifact(nets.lively(nets.tiny_resnet()), nets.tiny_resnet)


def test_pruned_net_meets_its_budget_and_comes_back(run: Run, source: Artifact, digits: Digits):
    made = run(Prune(data=digits, macs=0.6, round_to=2, epochs=1), source=source)
    net, before = load_model(made.path), load_model(source.path)
    assert 0.55 < made.facts["macs_share"] <= 0.6
    share = count.macs(net, digits.input_shape) / count.macs(before, digits.input_shape)
    assert share == pytest.approx(made.facts["macs_share"], abs=1e-4)
    assert made.facts["params"] == count.params(net) < count.params(before)
    for name, (old, new) in made.facts["channels"].items():
        assert before.get_submodule(name).out_channels == old
        assert net.get_submodule(name).out_channels == new < old
        assert new % 2 == 0
    assert made.facts["channels"]
    assert made.facts["kept"] == ["conv1"]  # its channels run through padded shortcuts
    assert json.loads(json.dumps(made.facts)) == made.facts


def test_rebuilt_net_equals_the_one_that_was_cut(run: Run, source: Artifact, digits: Digits):
    made = run(Prune(data=digits, macs=0.5, round_to=1, epochs=0), source=source)
    state = torch.load(made.path / "weights.pt", weights_only=True)
    again = load_model(made.path).state_dict()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    images = torch.randn(2, *digits.input_shape)
    first, second = load_model(made.path)(images), load_model(made.path)(images)
    assert torch.equal(first, second)


def test_a_pruned_net_can_be_pruned_again(run: Run, source: Artifact, digits: Digits):
    once = run(Prune(data=digits, macs=0.7, round_to=2, epochs=0), source=source)
    twice = run(Prune(data=digits, macs=0.6, round_to=1, epochs=0), source=once)
    assert twice.facts["macs"] <= 0.6 * once.facts["macs"]
    assert count.params(load_model(twice.path)) == twice.facts["params"]


def test_impossible_budget_names_the_closest(run: Run, source: Artifact, digits: Digits):
    with pytest.raises(PruneError, match=r"reaches \d+\.\d% of .*, not 1\.0%.*round_to"):
        run(Prune(data=digits, macs=0.01, round_to=8, epochs=0), source=source)


@pytest.mark.parametrize("settings", [{"macs": 0}, {"macs": 1.5}, {"round_to": 0}, {"max_cut": 1}])
def test_numbers_out_of_range(
    run: Run, source: Artifact, digits: Digits, settings: dict[str, float]
):
    with pytest.raises(ConfigError):
        run(Prune(data=digits, **settings), source=source)  # type: ignore[arg-type]


def test_a_teacher_makes_the_finetuning_a_distillation(run: Run, source: Artifact, digits: Digits):
    stage = Prune(data=digits, macs=0.7, round_to=2, epochs=1, teacher="teacher", alpha=1.0)
    assert stage.needs == {"source": "student", "teacher": "teacher"}
    made = run(stage, source=source, teacher=source)
    alone = run(Prune(data=digits, macs=0.7, round_to=2, epochs=1), source=source)
    assert made.facts["train_loss"] != alone.facts["train_loss"]


def test_statistics_are_those_of_the_training_images(digits: Digits):
    net = nn.Sequential(nn.BatchNorm2d(3))
    net[0].running_mean.fill_(9)
    train = Digits(size=16, augment=False).split("train")
    refresh_statistics(net, train, 64, seed=0, batches=100)
    images = torch.stack([train[i][0] for i in range(len(train))])
    torch.testing.assert_close(net[0].running_mean, images.mean((0, 2, 3)), atol=0.02, rtol=0)
    assert net[0].momentum == 0.1
    assert not net.training


def test_a_net_that_cannot_be_followed_is_named():
    net = torchvision_net("shufflenet_v2_x0_5", 4)  # its channel shuffle is a reshape
    with pytest.raises(PruneError, match=r"cannot trace this net.*leave this stage out"):
        plan_cuts(net, (3, 32, 32), "group_l2", Budget(0.5, 8, 0.75))
