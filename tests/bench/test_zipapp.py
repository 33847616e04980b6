"""The packed runner: small, reproducible, and enough by itself."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from torchopt2edge.bench import zipapp
from torchopt2edge.errors import StoreError


def test_the_same_sources_make_the_same_bytes(tmp_path: Path) -> None:
    first = zipapp.runner_file(tmp_path)
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    assert first.name == f"runner-{digest[:16]}.pyz"
    stamp = first.stat().st_mtime_ns
    assert zipapp.runner_file(tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_it_holds_no_stage_and_little_else() -> None:
    data = zipapp.pack()
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert len(names) == len(set(names))
    assert {"__main__.py", "torchopt2edge/bench/runner.py", "torchopt2edge/frames.py"} <= {*names}
    assert {"torchopt2edge/preprocess.py", "torchopt2edge/image.py"} <= {*names}
    assert not [name for name in names if "/stages/" in name or name.endswith("/api.py")]
    assert len(data) < 300_000


def test_it_runs_where_neither_we_nor_torch_are(tmp_path: Path) -> None:
    """An interpreter whose only foreign package is numpy, by way of one link."""
    import numpy

    numpy_home = Path(numpy.__file__).parent
    site = tmp_path / "site"
    site.mkdir()
    (site / "numpy").symlink_to(numpy_home)
    if (libraries := numpy_home.with_name("numpy.libs")).is_dir():
        (site / "numpy.libs").symlink_to(libraries)
    code = f"""
import runpy, sys
sys.path.insert(0, {str(site)!r})
runpy.run_path({str(zipapp.runner_file())!r}, run_name="__main__")
"""
    out = subprocess.run(
        [sys.executable, "-S", "-P", "-c", code],
        input=b'{"cmd": "sense"}\n{"cmd": "stop"}\n',
        capture_output=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert out.stderr == b""
    lines = out.stdout.decode().splitlines()
    assert lines[0].startswith('{"event": "sensed"')
    assert lines[1].startswith('{"event": "stopped"')


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be packed"):
        zipapp.runner_file(tmp_path / "file")
