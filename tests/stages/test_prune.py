from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests import nets
from tests.stages.conftest import Run
from torchopt2edge.compression.pruning.search import prepare
from torchopt2edge.compression.pruning.spec import Prune as Spec
from torchopt2edge.compression.pruning.statistics import from_samples
from torchopt2edge.compression.schedules import Polynomial
from torchopt2edge.data.digits import Digits
from torchopt2edge.errors import ConfigError, PruneError
from torchopt2edge.models import count
from torchopt2edge.models.artifact import load_model
from torchopt2edge.models.torchvision_net import torchvision_net
from torchopt2edge.stages.prune import Prune
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
    assert list(made.facts["kept"]) == ["conv1"]  # its channels run through padded shortcuts
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


@pytest.mark.parametrize(
    "settings",
    [
        {"macs": 0},
        {"macs": 1.5},
        {"macs": 0.5, "round_to": 0},
        {"macs": 0.5, "max_cut": 1},
        {"macs": 0.5, "params": 0.5},
        {},
    ],
)
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
    from_samples(net, train, 64, seed=0, batches=100)
    images = torch.stack([train[i][0] for i in range(len(train))])
    torch.testing.assert_close(net[0].running_mean, images.mean((0, 2, 3)), atol=0.02, rtol=0)
    assert net[0].momentum == 0.1
    assert net.training  # as it was


def test_a_net_that_cannot_be_followed_is_named():
    net = torchvision_net("shufflenet_v2_x0_5", 4)  # its channel shuffle is a reshape
    with pytest.raises(PruneError, match=r"cannot trace this net.*leave this stage out"):
        prepare(net, (3, 32, 32), Spec(macs=0.5))


def test_it_cuts_while_it_trains(run: Run, source: Artifact, digits: Digits):
    slow = Polynomial(begin=0.1, end=0.8, every=7)
    made = run(
        Prune(data=digits, macs=0.5, round_to=1, epochs=2, schedule=slow, lr=0.02), source=source
    )
    assert 0.46 < made.facts["macs_share"] <= 0.5
    plan = json.loads((made.path / "plan.json").read_text())
    layers = [layer for layer, _, _ in plan["cuts"]]
    assert len(layers) > len(set(layers))  # the same layer more than once
    assert count.params(load_model(made.path)) == made.facts["params"]


def test_gradients_choose_too(run: Run, source: Artifact, digits: Digits):
    made = run(
        Prune(data=digits, macs=0.6, round_to=2, epochs=0, importance="taylor"), source=source
    )
    other = run(Prune(data=digits, macs=0.6, round_to=2, epochs=0), source=source)
    cuts = [json.loads((one.path / "plan.json").read_text()) for one in (made, other)]
    assert cuts[0] != cuts[1]
    assert made.facts["macs_share"] <= 0.6


def test_what_the_rounding_did_is_in_the_facts(run: Run, source: Artifact, digits: Digits):
    made = run(Prune(data=digits, params=0.6, round_to=8, epochs=0), source=source)
    search = made.facts["search"]
    assert search["share"] <= search["share_unrounded"] <= 0.6
    assert 0 < search["importance_lost_unrounded"] <= search["importance_lost"] + 0.05
    assert made.facts["params_share"] <= 0.6


def test_it_is_explained_before_it_is_done(source: Artifact, digits: Digits):
    before = load_model(source.path).state_dict()
    explained = Prune(data=digits, macs=0.6, round_to=2).explain({"source": source})
    whole, left = explained.total("macs")
    assert 0.5 < left / whole <= 0.6
    assert whole == count.macs(load_model(source.path), digits.input_shape)
    text = str(explained)
    assert "layer3.0.conv1" in text
    assert "stays whole: conv1" in text
    assert all(torch.equal(before[k], v) for k, v in load_model(source.path).state_dict().items())


def test_the_export_has_the_parameters_that_are_left(
    run: Run, source: Artifact, digits: Digits, tmp_path: Path
):
    import onnx

    from torchopt2edge.stages.export import export_module

    made = run(Prune(data=digits, macs=0.5, round_to=1, epochs=0), source=source)
    net = load_model(made.path)
    export_module(net, (torch.randn(4, *digits.input_shape),), tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    kernels = [i.dims for i in graph.initializer if len(i.dims) in (2, 4)]
    weights = [p for p in net.parameters() if p.ndim in (2, 4)]
    assert sum(math.prod(dims) for dims in kernels) == sum(p.numel() for p in weights)
