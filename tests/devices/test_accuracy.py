"""A comparison over a real sshd: scored there on samples that go there once, and held to here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import torchopt2edge as t2e
from tests.devices.serving import Server, all_gone
from torchopt2edge.devices.ssh import Ssh, SshLink
from torchopt2edge.store import Store

ALL, TAKEN = 250, 200


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(ALL, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def compare(net: nn.Module, images: torch.Tensor, device: object, out: Path) -> t2e.Result:
    with torch.no_grad():
        labels = net(images).argmax(1)
    more = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    return t2e.compare(
        net,
        example_inputs=(more[:1],),
        calibration=[more],
        evaluate=[*zip(images.split(60), labels.split(60), strict=True)],
        evaluate_samples=TAKEN,
        backends=("ort",),
        schemes=("fp32", "int8"),
        device=device,  # type: ignore[arg-type]
        timing="smoke",
        out=out,
        store=Store(out.parent / "store"),
    )


def test_it_is_scored_there_and_pytorch_here(
    server: Server,
    net: nn.Module,
    images: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    board = Ssh(
        "board", config=str(server.config), python=sys.executable, workdir=str(tmp_path / "board")
    )
    sent: list[str] = []
    push = SshLink.push
    monkeypatch.setattr(
        SshLink, "push", lambda self, *words: sent.append(words[0].name) or push(self, *words)
    )
    here = compare(net, images, t2e.devices.Local(), tmp_path / "here")
    there = compare(net, images, board, tmp_path / "there")
    samples = [name for name in sent if name.endswith(".frame")]
    assert len(samples) == len(set(samples)) == 1  # for both files; the rest is small
    assert all_gone(tmp_path / "board", 5.0)
    rows = {row.candidate: row for row in there.rows}
    assert rows.keys() == {"torch-fp32", "ort-fp32", "ort-int8"}
    local = {row.candidate: row for row in here.rows}
    for name, row in rows.items():
        assert row.err is None, row.err
        assert (row.facts["n_eval"], row.facts["n_eval_of"]) == (TAKEN, ALL)
        assert row.facts["correct"] == local[name].facts["correct"]
        assert "host_n" not in local[name].facts
    assert "latency_ms" in local["torch-fp32"].metrics
    assert "latency_ms" not in rows["torch-fp32"].metrics
    assert "ssh:board runs ONNX Runtime and LiteRT" in rows["torch-fp32"].facts["notes"][0]
    for name in ("ort-fp32", "ort-int8"):
        assert rows[name].metrics["latency_ms"] > 0
        assert rows[name].facts["host_agreement"] == 100.0
        assert rows[name].facts["host_n"] == TAKEN
        assert rows[name].facts["host_max_abs"] < 1e-5
        assert rows[name].facts["host_metric"] == rows[name].metrics["top1"]
    sent.clear()
    again = compare(net, images, board, tmp_path / "again")
    assert [row.err for row in again.rows] == [None, None, None]
    assert sent == []
    found = {row.candidate: row.facts.get("host_agreement") for row in again.rows}
    assert found == {"torch-fp32": None, "ort-fp32": 100.0, "ort-int8": 100.0}
