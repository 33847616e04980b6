from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from tests import nets
from tests.stages.conftest import Run
from torchopt2edge.backends.ort.backend import Ort
from torchopt2edge.data.digits import Digits
from torchopt2edge.errors import ConfigError, ExportError, TrainError
from torchopt2edge.interfaces import Sources
from torchopt2edge.quantize import qat_ranges, qdq_reader
from torchopt2edge.quantize.graph.prepare import prepare
from torchopt2edge.stages.export import Export
from torchopt2edge.stages.parity import sqnr_db
from torchopt2edge.stages.qat import Qat
from torchopt2edge.stages.qat_session import Learned, QatSession, qat
from torchopt2edge.stages.train import Train
from torchopt2edge.types import SCHEMES, Artifact, Ranges, Signature

Save = Callable[[nn.Module, Callable[..., nn.Module]], Artifact]
IMAGES = (8, 3, 12, 12)
WEIGHTED = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0}


class Odd(nn.Module):
    """Another eps and momentum, in place, SiLU, a dead channel, a late norm, a norm after linear,
    a norm without factors, a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8, eps=1e-2, momentum=0.3)
        self.body, self.late = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, eps=1e-3)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.up_norm = nn.BatchNorm2d(6, affine=False)
        self.drop, self.head, self.last = nn.Dropout(0.2), nn.Linear(6, 4), nn.BatchNorm1d(4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.stem(image))
        F.relu6(x, inplace=True)
        y = self.late(F.silu(self.body(x)))
        y += x
        y = F.hardswish(self.up_norm(self.up(F.max_pool2d(y, 2))))
        return {"scores": self.last(self.head(self.drop(F.adaptive_avg_pool2d(y, 1).flatten(1))))}


class Same(nn.Module):
    """Has the batch size written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image.reshape(1, 12))


def odd() -> nn.Module:
    net = Odd()
    for norm in (net.norm, net.late):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    net.eval()
    with torch.no_grad():
        net.norm.weight[3] = 0.0
    return net


def trained(session: QatSession, steps: int = 4) -> None:
    """Any loop over any loss: here, labels by chance."""
    draw = torch.Generator().manual_seed(1)
    session.calibrate([torch.randn(IMAGES, generator=draw) for _ in range(3)])
    optimizer = torch.optim.SGD(session.model.parameters(), lr=0.01, momentum=0.9)
    session.model.train()
    for step in range(steps):
        if step == steps - 1:
            session.freeze_batch_norm()
            session.freeze_observers()
        made = session.model(torch.randn(IMAGES, generator=draw))
        scores = made["scores"] if isinstance(made, dict) else made
        labels = torch.randint(0, scores.shape[1], (len(scores),), generator=draw)
        optimizer.zero_grad()
        F.cross_entropy(scores, labels).backward()
        optimizer.step()


def lowered(result: Learned, folder: Path) -> tuple[Path, Ranges, Path]:
    """Prepare and lower the export; return the int8 file, the ranges it got, the float graph."""
    graph, low = folder / "graph", folder / "low"
    graph.mkdir()
    low.mkdir()
    proto = prepare(result.onnx, graph / "model.onnx")
    signature = result.onnx.with_name("signature.json").read_text()
    (graph / "signature.json").write_text(signature)
    ranges = qat_ranges.carry(result.ranges, proto)
    artifact = Artifact("graph", graph, "graph")
    backend = Ort(isa="portable")
    facts = backend.lower(Sources(artifact, artifact, ranges), SCHEMES["int8"], low)
    return low / facts["file"], ranges, graph / "model.onnx"


def run_onnx(file: Path, images: Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(file), options)
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


def weights_of(file: Path) -> dict[str, np.ndarray]:
    """Return weights as [outputs, …] by the name of what the layer makes."""
    graph = onnx.load(file).graph
    held = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type in WEIGHTED and node.input[1] in held:
            value = np.moveaxis(held[node.input[1]], WEIGHTED[node.op_type], 0)
            transposed = node.op_type == "Gemm" and not any(
                a.name == "transB" and a.i for a in node.attribute
            )
            found[node.output[0]] = (value.T if transposed else value).reshape(
                (-1, value.size // len(value)) if not transposed else (value.shape[1], -1)
            )
    return found


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        (nets.Residual, 8),
        (nets.Concat, 8),
        (nets.Depthwise, 4),
        (nets.Squeeze, 8),
        (odd, 8),
    ],
)
def test_what_is_trained_is_what_the_runtime_computes(
    kind: Callable[[], nn.Module], bits: int, tmp_path: Path
):
    net = nets.lively(kind()) if kind is not odd else odd()
    images = torch.randn(IMAGES, generator=torch.Generator().manual_seed(2))
    with qat(net, (images,), weight_bits=bits) as session:
        trained(session)
        result = session.finish(tmp_path / "qat")
        made = session.model(images)
    assert not session.model.training
    fake = (made["scores"] if isinstance(made, dict) else made).detach().numpy()

    assert result.facts["parity_db"] > 90
    assert result.ranges.origin == "learned:qat"
    for value in weights_of(result.onnx).values():
        step = np.abs(value).max(1, keepdims=True) / 127
        codes = np.divide(value, step, out=np.zeros_like(value), where=step > 0)
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
        np.testing.assert_allclose(np.rint(codes) * step, value, rtol=1e-6)
        assert max(len(set(row)) for row in np.rint(codes)) <= 2**bits - 1

    file, ranges, graph = lowered(result, tmp_path) if kind is not odd else (None, None, None)
    if file is None:  # what stands between a late norm's product and sum is not learned
        return
    again, bounds = qdq_reader.split(onnx.load(file))
    assert len(bounds) >= 6
    for name, (low, high) in bounds.items():
        assert (high - low) / (ranges.bounds[name][1] - ranges.bounds[name][0]) == pytest.approx(
            1, abs=1e-3
        )
    onnx.save(again, tmp_path / "again.onnx")
    wanted, got = weights_of(graph), weights_of(tmp_path / "again.onnx")
    assert len(got) == len(wanted)  # by another name where an activation was fused
    for value in got.values():
        same = [w for w in wanted.values() if w.shape == value.shape]
        assert any(np.allclose(value, w, rtol=1e-5, atol=1e-9) for w in same)
    assert sqnr_db(fake, run_onnx(file, images)) > 40
    assert sqnr_db(fake, run_onnx(result.onnx, images)) < 60  # so it was quantized at all


def test_a_normalization_learns_as_it_does_in_the_net():
    """Its own eps and momentum, not torchao's."""
    net = odd().train()
    net.drop.eval()
    with qat(net, (torch.randn(IMAGES),)) as session:
        for fake in session.model.fakes():
            fake.disable_fake_quant()
        images = torch.randn(16, 3, 12, 12) * 3
        session.model.train()
        session.model.freeze_observers()
        session.model.eval()
        session.model.train()
        session.model(images)
        net.norm.weight.data[3] = 1e-6
        net(images)
        buffers = {name.removeprefix("program."): b for name, b in session.model.named_buffers()}
        for name in ("norm.running_mean", "norm.running_var", "late.running_var"):
            wanted = dict(net.named_buffers())[name]
            torch.testing.assert_close(buffers[name], wanted, rtol=1e-4, atol=1e-5)


def test_evaluation_learns_nothing_and_frozen_is_frozen(tmp_path: Path):
    net = nets.lively(nets.Residual())
    with qat(net, torch.randn(IMAGES)) as session:
        trained(session, 2)

        def state() -> dict[str, Tensor]:
            buffers = session.model.named_buffers()
            found = {k: v.clone() for k, v in buffers if "running" in k}
            for index, fake in enumerate(session.model.values()):
                found |= {f"low {index}": fake.activation_post_process.min_val.clone()}
                found |= {f"scale {index}": fake.scale.clone()}
            return found

        def moved(before: dict[str, Tensor]) -> bool:
            return any(not torch.equal(before[k], v) for k, v in state().items())

        before = state()
        session.model.eval()
        session.model(torch.randn(IMAGES) * 9)
        assert not moved(before)
        session.model.train()
        session.model(torch.randn(IMAGES) * 9)
        assert not moved(before)
        session.model.frozen_norms = session.model.frozen_observers = False
        session.model.train()
        session.model(torch.randn(IMAGES) * 9)
        assert moved(before)


def test_the_net_given_is_left_alone_and_a_copy_trains_on(tmp_path: Path):
    net = nets.lively(nets.Depthwise())
    before = copy.deepcopy(net.state_dict())
    with qat(net, (torch.randn(IMAGES),)) as session:
        trained(session, 2)
        twin = copy.deepcopy(session.model)
        images = torch.randn(IMAGES)
        session.model.eval()
        assert torch.equal(twin.eval()(images), session.model(images))
        first = session.finish(tmp_path / "first")
        trained(session, 2)
        second = session.finish(tmp_path / "second")
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert first.onnx.read_bytes() != second.onnx.read_bytes()
    assert first.ranges.bounds.keys() == second.ranges.bounds.keys()


def test_it_says_what_cannot_be_trained(tmp_path: Path):
    with pytest.raises(ExportError, match="run on a batch"), qat(Same(), torch.randn(2, 3, 2, 2)):
        pass
    with (
        pytest.raises(ConfigError, match="2 to 8"),
        qat(nets.Residual(), torch.randn(IMAGES), weight_bits=1),
    ):
        pass
    with (
        qat(nets.lively(nets.Residual()), torch.randn(IMAGES)) as session,
        pytest.raises(TrainError, match="never saw a batch in train mode"),
    ):
        session.finish(tmp_path)


def test_nothing_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        with qat(nets.lively(nets.Concat()), (torch.randn(IMAGES),)) as session:
            trained(session, 2)
            session.finish(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_the_stage_learns_and_its_export_is_passed_on(run: Run, digits: Digits):
    given = run(Train(model=nets.tiny_resnet, data=digits, epochs=3))
    stage = Qat(data=digits, source="tiny", epochs=1)
    assert (stage.kind, stage.needs) == ("qat", {"source": "tiny"})
    made = run(stage, source=given)
    facts = made.facts
    assert facts["top1_test"] > given.facts["top1_test"] - 3
    assert facts["macs"] > 0 < facts["params"]
    assert json.loads(json.dumps(facts)) == facts
    ranges = Ranges.from_json(json.loads((made.path / "ranges.json").read_text()))
    assert len(ranges.bounds) == facts["learned"] >= 10
    proto = onnx.load(made.path / "model.onnx")
    assert ranges.bounds.keys() <= {v.name for v in proto.graph.input} | {
        name for node in proto.graph.node for name in node.output
    }
    passed = run(Export(data=digits, source="qat"), source=made)
    assert passed.kind == "onnx"
    for name in ("model.onnx", "model.pt2", "signature.json", "ranges.json"):
        assert (passed.path / name).read_bytes() == (made.path / name).read_bytes()
    signature = Signature.from_json(json.loads((passed.path / "signature.json").read_text()))
    assert signature.inputs[0].shape == (-1, 3, 16, 16)
    program = torch.export.load(passed.path / "model.pt2").module()
    images = torch.stack([digits.split("test")[i][0] for i in range(300)])
    labels = torch.tensor([digits.split("test")[i][1] for i in range(300)])
    same = program(images).argmax(1).numpy() == run_onnx(passed.path / "model.onnx", images).argmax(
        1
    )
    assert same.mean() > 0.99
    hits = 100 * float((program(images).argmax(1) == labels).float().mean())
    assert hits == pytest.approx(facts["top1_test"], abs=4)


def test_without_epochs_it_rounds_and_a_teacher_is_needed_by_name(
    run: Run, digits: Digits, artifact: Save
):
    given = artifact(nets.lively(nets.tiny_resnet()), nets.tiny_resnet)
    stage = Qat(data=digits, source="s", teacher="t", epochs=0)
    assert stage.needs == {"source": "s", "teacher": "t"}
    made = run(stage, source=given, teacher=given)
    assert "train_loss" not in made.facts
    with pytest.raises(ConfigError, match="temperature"):
        run(Qat(data=digits, teacher="t", temperature=0), source=given, teacher=given)
