"""What a file weighs, and how rarely it is packed to know."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torchopt2edge as t2e
from torchopt2edge.bench.file_size import sizes
from torchopt2edge.errors import BenchError
from torchopt2edge.store import Store
from torchopt2edge.types import Candidate, Signature


def found(file: Path, **facts: object) -> Candidate:
    """A candidate of a file."""
    return Candidate("a", "ort", "fp32", file, Signature((), ()), "digest", dict(facts))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of everything that is packed."""
    known: list[int] = []
    compress = gzip.compress
    monkeypatch.setattr(
        gzip, "compress", lambda data, *a, **k: known.append(len(data)) or compress(data, *a, **k)
    )
    return known


def test_the_sizes_are_the_files_and_its_downloads(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    file.write_bytes(os.urandom(5000) + bytes(20_000))
    packed = len(gzip.compress(file.read_bytes(), 6))
    assert sizes(found(file)) == {"size_mb": 0.025, "gzip_mb": packed / 1e6}
    assert 5000 < packed < 5200


def test_a_file_is_packed_once_and_again_when_it_changed(tmp_path: Path, calls: list[int]) -> None:
    file = tmp_path / "b.onnx"
    file.write_bytes(bytes(1000))
    first = sizes(found(file))
    assert sizes(found(file)) == first
    file.write_bytes(os.urandom(2000))
    os.utime(file, ns=(1, 1))
    assert sizes(found(file))["gzip_mb"] > first["gzip_mb"]
    assert calls == [1000, 2000]


def test_what_was_lowered_is_not_packed_again(tmp_path: Path, calls: list[int]) -> None:
    file = tmp_path / "c.onnx"
    file.write_bytes(bytes(3000))
    assert sizes(found(file, gzip_mb=0.25)) == {"size_mb": 0.003, "gzip_mb": 0.25}
    assert calls == []


def test_a_second_run_packs_nothing(tmp_path: Path, calls: list[int]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    given: dict[str, Any] = {
        "example_inputs": (torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)),),
        "backends": ("ort",),
        "schemes": ("fp32",),
        "store": Store(tmp_path / "store"),
    }
    first = t2e.quantize(net, **given, out=tmp_path / "first")
    packed = len(calls)
    second = t2e.compare(net, **given, timing="smoke", out=tmp_path / "second")
    assert packed == len(first.rows) == len(calls) == 2
    for before, after in zip(first.rows, second.rows, strict=True):
        assert before.err is None
        assert 0.0 < before.metrics["gzip_mb"] == after.metrics["gzip_mb"]
        assert "gzip_mb" not in after.facts


def test_a_file_that_is_gone_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot be read any more: No such file"):
        sizes(found(tmp_path / "gone.onnx"))
