"""What a row says of the file itself."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from torchopt2edge.bench import row


def test_the_sizes_are_the_files_and_its_downloads(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    file.write_bytes(os.urandom(5000) + bytes(20_000))
    packed = len(gzip.compress(file.read_bytes(), 6))
    assert row.file_sizes(file) == {"size_mb": 0.025, "gzip_mb": packed / 1e6}
    assert 5000 < packed < 5200


def test_a_file_is_packed_once_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    compress = gzip.compress
    monkeypatch.setattr(
        gzip, "compress", lambda data, *a, **k: calls.append(len(data)) or compress(data, *a, **k)
    )
    file = tmp_path / "b.onnx"
    file.write_bytes(bytes(1000))
    first = row.file_sizes(file)
    assert row.file_sizes(file) == first
    file.write_bytes(os.urandom(2000))
    os.utime(file, ns=(1, 1))
    assert row.file_sizes(file)["gzip_mb"] > first["gzip_mb"]
    assert calls == [1000, 2000]
