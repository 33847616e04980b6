"""What a run refuses before it measures, and what it does not time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import torchopt2edge as t2e
from torchopt2edge import run
from torchopt2edge.api import Settings
from torchopt2edge.bench.setting import Bench
from torchopt2edge.store import Store
from torchopt2edge.types import Candidate, Facts, Signature

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
    plain = Settings.of({"out": tmp_path}).plan()
    ready, refused = run.placed(candidates, plain)
    assert len(ready) == 2
    assert refused == []
    assert ready[1].facts["placement"]["macs"] == 75.0
    strict = Settings.of({"out": tmp_path, "bench": Bench(fail_on_fallback=True)}).plan()
    ready, refused = run.placed(candidates, strict)
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
        protocol="smoke",
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
