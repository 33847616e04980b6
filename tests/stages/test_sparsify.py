"""A sparse net, from the stage to the files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import torchopt2edge as t2e
from tests import nets
from tests.stages.conftest import Run
from torchopt2edge.compression.schedules import Polynomial
from torchopt2edge.compression.sparsity.mask import zeros
from torchopt2edge.converter import Environment
from torchopt2edge.data.digits import Digits
from torchopt2edge.errors import ConfigError
from torchopt2edge.models.artifact import load_model
from torchopt2edge.stages.qat import Qat
from torchopt2edge.stages.sparsify import Sparsify
from torchopt2edge.stages.train import Train
from torchopt2edge.types import Artifact

Save = Callable[[nn.Module, Callable[..., nn.Module]], Artifact]


@pytest.fixture
def dense(run: Run, digits: Digits) -> Artifact:
    return run(Train(model=nets.tiny_resnet, data=digits, epochs=2))


@pytest.fixture
def sparse(run: Run, digits: Digits, dense: Artifact) -> Artifact:
    schedule = Polynomial(begin=0.0, end=0.5, initial=0.3, every=5)
    stage = Sparsify(
        data=digits, sparsity=0.7, epochs=2, lr=0.02, schedule=schedule, teacher="student"
    )
    return run(stage, source=dense, teacher=dense)


def test_the_facts_count_the_zeros(sparse: Artifact, dense: Artifact) -> None:
    net = load_model(sparse.path)
    assert sparse.facts["zeros"] == pytest.approx(0.7, abs=0.005)
    assert zeros(net)["all"] == pytest.approx(sparse.facts["zeros"], abs=1e-4)
    assert sparse.facts["zeros_by_layer"]["conv1"] == pytest.approx(0.7, abs=0.01)
    assert sparse.facts["top1_test"] > 60


def test_without_epochs_it_masks_once(run: Run, digits: Digits, dense: Artifact) -> None:
    made = run(Sparsify(data=digits, sparsity=0.5, epochs=0), source=dense)
    assert made.facts["zeros"] == pytest.approx(0.5, abs=0.005)
    pattern = run(Sparsify(data=digits, pattern="2:4", epochs=0), source=dense)
    share = pattern.facts["zeros_by_layer"]
    assert share["layer2.0.conv2"] == pytest.approx(0.5)
    assert share["conv1"] == 0  # three inputs


def test_training_while_quantized_keeps_them(run: Run, digits: Digits, sparse: Artifact) -> None:
    import onnx

    made = run(Qat(data=digits, source="sparse", epochs=1, lr=0.005), source=sparse)
    graph = onnx.load(made.path / "model.onnx").graph
    kernels = [onnx.numpy_helper.to_array(i) for i in graph.initializer if len(i.dims) in (2, 4)]
    gone = sum(int((k == 0).sum()) for k in kernels) / sum(k.size for k in kernels)
    assert gone > 0.69


def test_every_file_holds_them(
    sparse: Artifact, digits: Digits, tmp_path: Path, sealed: Environment
) -> None:
    images = torch.stack([digits.split("calibration")[i][0] for i in range(32)])
    rows = t2e.quantize(
        load_model(sparse.path), (images[:4],), [images], out=tmp_path / "run", baseline=False
    ).rows
    assert [row.err for row in rows] == [None] * 4
    for row in rows:
        assert row.facts["zeros"] >= 69
        assert row.metrics["gzip_mb"] < 0.75 * row.metrics["size_mb"]


def test_what_cannot_work(run: Run, digits: Digits, artifact: Save) -> None:
    given = artifact(nets.tiny_resnet(), functools.partial(nets.tiny_resnet))
    for wrong in ({"sparsity": 1.0}, {"pattern": "4:2"}, {"ignore": ("conv9",)}):
        with pytest.raises(ConfigError):
            run(Sparsify(data=digits, epochs=0, **wrong), source=given)
    late = Polynomial(begin=0, end=10**6)
    with pytest.raises(ConfigError, match="the training at step"):
        run(Sparsify(data=digits, epochs=1, schedule=late), source=given)
