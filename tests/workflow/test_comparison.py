"""What a run refuses before it measures, and what it does not time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import torchopt2edge as t2e
from torchopt2edge.bench.thread_settings import Bench
from torchopt2edge.devices.fake import Fake
from torchopt2edge.errors import ConfigError
from torchopt2edge.store import Store
from torchopt2edge.types import Candidate, Facts, Signature
from torchopt2edge.workflow import comparison
from torchopt2edge.workflow.settings import Settings

INTEGER: Facts = {
    "ops": {"Conv": 4}, "integer_ops": {"QLinearConv": 3}, "float_ops": {"Conv": 1},
    "int8_macs": 75.0, "unfused_qdq": 1, "transposes": 0,
}  # fmt: skip


@pytest.fixture
def candidates(tmp_path: Path) -> list[Candidate]:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"never opened")
    signature = Signature((), ())
    whole = {**INTEGER, "float_ops": {}, "int8_macs": 100.0, "unfused_qdq": 0}
    return [
        Candidate("ort-int8", "ort", "int8", file, signature, "d", whole),
        Candidate("ort-int8-torn", "ort", "int8", file, signature, "d", INTEGER),
    ]


def test_a_file_that_falls_back_is_refused_where_that_is_asked_for(
    candidates: list[Candidate], tmp_path: Path
) -> None:
    plain = Settings.of({"out": tmp_path}).on()
    ready, refused = comparison.placed(candidates, plain)
    assert len(ready) == 2
    assert refused == []
    assert ready[1].facts["placement"]["macs"] == 75.0
    strict = Settings.of({"out": tmp_path, "bench": Bench(fail_on_fallback=True)}).on()
    ready, refused = comparison.placed(candidates, strict)
    assert [one.id for one in ready] == ["ort-int8"]
    (row,) = refused
    assert row.candidate == "ort-int8-torn"
    assert "25.0 % of its multiply-accumulates are in float" in str(row.err)
    assert "outside: 1 Conv" in str(row.err)
    assert row.metrics == {}


def test_pytorch_is_scored_and_not_timed_beside_the_native_runner(tmp_path: Path) -> None:
    """Two kinds of runner are never compared."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = net.eval()(images).argmax(1)
    found = t2e.compare(
        net,
        example_inputs=(torch.rand(4, 3, 16, 16),),
        evaluate=[(images, labels)],
        backends=("ort",),
        schemes=("fp32",),
        device=t2e.devices.Local(runner="native"),
        timing="smoke",
        out=tmp_path / "out",
        store=Store(tmp_path / "store"),
    )
    rows = {row.candidate: row for row in found.rows}
    torch_row, ort_row = rows["torch-fp32"], rows["ort-fp32"]
    assert torch_row.metrics["top1"] == ort_row.metrics["top1"] == 100.0
    assert "latency_ms" not in torch_row.metrics
    assert "the native runner cannot run it" in torch_row.facts["notes"][0]
    assert torch_row.facts["reference"]
    assert ort_row.facts["runner"] == "native"
    assert found.verdict.winner == "ort-fp32" or found.verdict.reasons
    assert "no latency was measured" in found.verdict.rejected["torch-fp32"]


MARK = 9.0
Arrays = Mapping[str, np.ndarray]


def flipping(store: Path) -> Callable[[str, Arrays], dict[str, np.ndarray]]:
    """A device whose kernels get the marked images wrong; it finds its files in a store."""

    @functools.cache
    def opened(file: str) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(next(store.rglob(file)))

    def outputs(file: str, inputs: Arrays) -> dict[str, np.ndarray]:
        ((_, image),) = inputs.items()
        (found,) = opened(file).run(None, dict(inputs))
        marked = image[:, 0, 0, 0] == MARK
        turned = np.where(marked[:, None], np.roll(found, 1, axis=1), found)
        return {opened(file).get_outputs()[0].name: turned}

    return outputs


@pytest.fixture
def labelled() -> tuple[nn.Module, torch.Tensor]:
    """A net, and images for it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return net.eval(), torch.randn(600, 3, 16, 16)


@pytest.mark.parametrize(("marked", "said"), [(7, True), (4, False), (0, False)])
def test_a_device_that_answers_otherwise_is_told_from_this_machine(
    labelled: tuple[nn.Module, torch.Tensor], marked: int, said: bool, tmp_path: Path
) -> None:
    """500 of 600 samples are drawn; all the marked ones are among them."""
    net, images = labelled
    kept = np.random.default_rng(0).permutation(600)[:500]  # as `subset.draw` draws them
    images[sorted(kept)[:marked], 0, 0, 0] = MARK
    with torch.no_grad():
        labels = net(images).argmax(1)
    found = t2e.compare(
        net,
        example_inputs=(torch.rand(4, 3, 16, 16),),
        evaluate=[*zip(images.split(48), labels.split(48), strict=True)],
        backends=("ort",),
        schemes=("fp32",),
        device=Fake(outputs=flipping(tmp_path / "store")),
        evaluate_samples=500,
        timing="smoke",
        out=tmp_path / "out",
        store=Store(tmp_path / "store"),
    )
    rows = {row.candidate: row for row in found.rows}
    torch_row, ort_row = rows["torch-fp32"], rows["ort-fp32"]
    assert torch_row.err is ort_row.err is None
    assert torch_row.facts["n_eval"] == ort_row.facts["n_eval"] == 500
    assert ort_row.facts["n_eval_of"] == 600
    assert torch_row.metrics["top1"] == ort_row.facts["host_metric"] == 100.0
    assert ort_row.metrics["top1"] == 100.0 - marked / 5
    assert ort_row.facts["host_agreement"] == pytest.approx(100.0 - marked / 5)
    assert ort_row.facts["host_n"] == 500
    assert (ort_row.facts["host_max_abs"] > 0.01) == (marked > 0)
    notes = ort_row.facts.get("notes", [])
    if said:
        assert "the device answers otherwise than this machine on 7 of 500 samples" in notes
    else:
        assert notes == []
    assert "latency_ms" not in torch_row.metrics
    assert "fake runs ONNX Runtime and LiteRT" in torch_row.facts["notes"][0]
    assert "host_n" not in torch_row.facts
    report = (tmp_path / "out" / "report.md").read_text()
    assert ("answers otherwise than this machine" in report) == said
    assert not [*(tmp_path / "out").glob(".evaluate-*")]


@pytest.mark.parametrize("samples", [0, -3])
def test_no_samples_are_not_enough_to_score_on(tmp_path: Path, samples: int) -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigError, match=r"on -?\d samples.*evaluate_samples=1000"):
        t2e.compare(
            net,
            (torch.rand(2, 3, 8, 8),),
            evaluate_samples=samples,
            out=tmp_path,
            store=Store(tmp_path / "store"),
        )
