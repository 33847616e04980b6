"""What can be reached: the names of an ssh configuration, and a board that is asked."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.devices.serving import Server
from torchopt2edge.devices import discover
from torchopt2edge.devices.remote.transport import Finished, call
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
    assert discover.hosts(tmp_path / "itself") == ["pi", "pi5", "nano", "orin"]
    assert discover.hosts(tmp_path / "none") == []


def test_no_host_is_asked_unless_told(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    rows = discover.reachable(config=server.config)
    assert rows[0]["device"] == "device=local"
    assert "onnxruntime" in rows[0]["runtimes"]
    assert rows[-1] == {"device": "device=ssh device.host=board", "state": "not asked"}
    monkeypatch.undo()
    asked = discover.reachable(connect=True, config=server.config)[-1]
    assert asked["state"] == "ready"
    assert asked["cores"] == rows[0]["cores"]
    assert asked["sensors"] == discover.reachable()[0]["sensors"]


def test_a_browser_without_its_runtimes_says_how_to_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache of this test's own: tests of the browser may have filled the one that they share."""
    monkeypatch.setenv("TORCHOPT2EDGE_CACHE", str(tmp_path / "cache"))
    rows = {row["device"]: row for row in discover.reachable(config=tmp_path / "none")}
    assert rows["device=browser"]["state"] != "ready"
    assert rows["device=browser"]["hint"]


def test_a_phone_on_a_cable_is_asked_without_being_told(phone: str, tmp_path: Path) -> None:
    (row,) = [row for row in discover.reachable(config=tmp_path / "none") if phone in row["device"]]
    assert row["device"] == f"device=adb device.serial={phone}"
    assert row["state"] == "ready"
    assert row["cores"] == discover.reachable()[0]["cores"]


def test_a_phone_that_is_not_allowed_yet_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the client's list is made up: no adbd asks for permission here."""
    client = tmp_path / "adb"
    client.write_text("#!/bin/sh\nprintf 'List of devices attached\\nX1\\tunauthorized\\n'\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    row = discover.reachable(config=tmp_path / "none")[1]
    assert (row["device"], row["state"]) == ("device=adb device.serial=X1", "unauthorized")
    assert "accept the key" in row["hint"]


def test_sensors_are_those_that_can_be_read(tmp_path: Path) -> None:
    """A tree of sysfs in place of /sys; a file that refuses to be read is no sensor."""
    zone = tmp_path / "class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("41000")
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").mkdir(parents=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "vcgencmd").write_text("")
    (programs / "vcgencmd").chmod(0o755)

    def run(script: str) -> Finished:
        moved = script.replace("cd /sys", f"cd {shlex.quote(str(tmp_path))}")
        return call(["/bin/sh", "-c", f"PATH={programs}:$PATH\n{moved}"])

    found = discover.look(run, "/no/python")
    assert found["runtimes"] == {}
    assert {"temperature", "vcgencmd"} <= set(found["sensors"])
    assert not {"energy", "clock"} & set(found["sensors"])


def test_runtimes_there_are_named(server: Server) -> None:
    board = Ssh("board", config=str(server.config), python=sys.executable)
    found = discover.runtimes(board)
    assert {"python", "numpy", "onnxruntime", "ai-edge-litert"} <= found.keys()
    assert discover.runtimes(replace(board, python="/nowhere")) == {}
