"""What can be reached: the names of an ssh configuration, and a board that is asked."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.devices.serving import Server
from torchopt2edge.devices import reach
from torchopt2edge.devices.ssh import Ssh

CONFIG = """
# the lab
Host pi pi5 *.lab !bad
  HostName 192.168.1.7
host=nano
Match host x
Include {folder}/more.d/*
Include {folder}/itself
"""


def test_hosts_are_those_named_in_full(tmp_path: Path) -> None:
    (tmp_path / "more.d").mkdir()
    (tmp_path / "more.d/a").write_text("Host orin\nHost pi\n")
    (tmp_path / "itself").write_text(CONFIG.format(folder=tmp_path))
    assert reach.hosts(tmp_path / "itself") == ["pi", "pi5", "nano", "orin"]
    assert reach.hosts(tmp_path / "none") == []


def test_no_host_is_asked_unless_told(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    rows = reach.reachable(config=server.config)
    assert rows[-1] == {"device": "device=ssh device.host=board", "state": "not asked"}
    monkeypatch.undo()
    asked = reach.reachable(connect=True, config=server.config)[-1]
    assert asked["state"] == "ready"
    assert asked["cores"] == rows[0]["cores"]


def test_runtimes_there_are_named(server: Server) -> None:
    board = Ssh("board", config=str(server.config), python=sys.executable)
    found = reach.runtimes(board)
    assert {"python", "numpy", "onnxruntime", "ai-edge-litert"} <= found.keys()
    assert reach.runtimes(replace(board, python="/nowhere")) == {}
