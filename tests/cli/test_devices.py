"""The commands of devices: the list, what a first run would push, and the cleaning."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.devices.conftest import cache as cache
from tests.devices.conftest import own_cache as own_cache
from tests.devices.conftest import server as server
from tests.devices.serving import Server
from torchopt2edge.bench import tiny_model
from torchopt2edge.bench.child_session import open_child
from torchopt2edge.cli import devices
from torchopt2edge.cli.main import main
from torchopt2edge.deploy import native_build
from torchopt2edge.deploy.runner_zip import runner_file
from torchopt2edge.devices.local import Local
from torchopt2edge.devices.ssh import Ssh
from torchopt2edge.errors import ConfigError


@pytest.fixture
def board(server: Server, tmp_path: Path) -> Ssh:
    """The board, with a folder of this test's own."""
    folder = tmp_path / "board"
    return Ssh("board", config=str(server.config), python=sys.executable, workdir=str(folder))


def words(board: Ssh) -> list[str]:
    """The board as overrides."""
    return [
        "device=ssh",
        "device.host=board",
        f"device.config={board.config}",
        f"device.workdir={board.workdir}",
    ]


def test_a_first_run_pushes_what_it_is_said_to(board: Ssh, tmp_path: Path) -> None:
    facts = board.facts()
    first = devices.to_push(board, facts)
    assert first == runner_file().stat().st_size
    with open_child(tiny_model.onnx_model(tmp_path), board, tmp_path / "log") as session:
        session.stop()
    assert devices.to_push(board, facts) == 0
    assert sum(path.stat().st_size for path in (tmp_path / "board").rglob("*.pyz")) == first


def test_the_native_runner_brings_its_libraries(board: Ssh, tmp_path: Path) -> None:
    device = replace(board, runner="native")
    said = devices.to_push(device, device.facts())
    assert said > sum(native_build.library(name).stat().st_size for name in ("ort", "litert"))
    assert not (tmp_path / "board").exists()
    for candidate in (tiny_model.onnx_model(tmp_path), tiny_model.tflite_model(tmp_path)):
        with open_child(candidate, device, tmp_path / "log") as session:
            session.stop()
    assert devices.to_push(device, device.facts()) == 0


def test_what_was_left_is_removed_and_counted(
    board: Ssh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a file $(touch x)"
    file.write_bytes(bytes(12_345))
    board.push(file)
    assert main(["devices", "clean", *words(board)]) == 0
    assert capsys.readouterr().out == "ssh:board: 12.3 kB removed\n"
    assert not (tmp_path / "board").exists()
    assert main(["devices", "clean", *words(board)]) == 0
    assert capsys.readouterr().out == "ssh:board: 0 B removed\n"


def test_a_job_that_runs_is_not_cleaned_away(board: Ssh, tmp_path: Path) -> None:
    with open_child(tiny_model.onnx_model(tmp_path), board, tmp_path / "log") as session:
        freed, left = devices.clean(board)
        assert freed > 1000
        assert left > 0
        assert session.sense()


def test_nothing_is_left_here(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="no files are kept on local"):
        devices.clean(Local())
    assert main(["devices", "clean"]) == 1
    assert "device=ssh" in capsys.readouterr().err
    assert main(["devices", "clean", "device=shh"]) == 2


def test_the_list_as_data(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    (tmp_path / ".ssh").mkdir()
    config = server.config.read_text().replace("Host board", "Host board gone")
    (tmp_path / ".ssh/config").write_text(config)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["devices", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["device"] == "device=local"
    assert rows[0]["push_bytes"] == 0
    assert [row["state"] for row in rows[-2:]] == ["not asked", "not asked"]
    assert rows[-1] == {"device": "device=ssh device.host=gone", "state": "not asked"}


ROWS = [
    {
        "device": "device=adb device.serial=R58N30ABCDE",
        "state": "ready",
        "model": "ACME \x1b[31mPhone",
        "cpu": "SM8550",
        "abi": "arm64-v8a",
        "arch": "aarch64",
        "cores": 8,
        "core_classes": [
            {"cores": [7], "name": "big", "max_mhz": 3187.0},
            {"cores": [0, 1, 2, 3, 4, 5, 6], "name": "little"},
        ],
        "memory_gb": 11.4,
        "os": "Android 14",
        "emulated": False,
        "runtimes": {},
        "sensors": ["temperature", "dumpsys"],
        "push_bytes": 15_400_000,
    },
    {
        "device": "device=ssh device.host=pi",
        "state": "the host key of pi is not known here",
        "hint": "ssh pi, compare the key, say yes",
    },
    {"device": "device=ssh device.host=nano", "state": "not asked"},
]


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_keeps_what_is_typed_and_says_what_to_do(width: int) -> None:
    text = io.StringIO()
    devices.render(Console(file=text, width=width), ROWS)
    said = text.getvalue()
    for row in ROWS:
        for word in str(row["device"]).split():
            assert word in said
    assert "device=ssh device.host=pi: the host key of pi is not known here" in said
    assert "  → ssh pi, compare the key, say yes" in said
    assert "\x1b[31m" not in said
    if width == 160:
        assert "8 cores: 1 big at 3187 MHz, 7 little" in " ".join(said.split())
        assert "15.4 MB" in said
