"""The whole road as a user types it, on few epochs: killed, resumed, offline, on a full disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from torchopt2edge.converter import Environment

EPOCHS = [f"stage.{name}.epochs=1" for name in ("teacher", "student", "pruned")]
SHORT = [
    "stage.teacher.model.depth=8",
    "timing=smoke",
    "constraints.max_drop=null",
    "baseline=false",
]


def command(out: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "torchopt2edge", "optimize", *SHORT, f"out={out}", *overrides]


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "TORCHOPT2EDGE_CACHE": str(cache)}


def context(out: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((out / "context.json").read_text())
    return kept


def rows(out: Path) -> dict[str, Any]:
    lines = (out / "rows.jsonl").read_text().splitlines()
    return {row["candidate"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def killed(cache: Path, sealed: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Start the road, kill -9 it in the student's training, and return what was written."""
    out = tmp_path_factory.mktemp("killed") / "run"
    road = command(out, *EPOCHS, f"converter.python={sealed.python}")
    child = subprocess.Popen(road, env=environment(cache), stderr=subprocess.DEVNULL)
    log = out / "run.log"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and child.poll() is None:
        if log.is_file() and "student" in log.read_text():
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert "student" in log.read_text(), "it was never reached"
    assert not (out / "rows.jsonl").exists()
    return out


@pytest.fixture(scope="module")
def resumed(cache: Path, sealed: Environment, killed: Path) -> Path:
    """Run the same command again after the kill."""
    out = killed.with_name("resumed")
    road = command(out, *EPOCHS, f"converter.python={sealed.python}")
    done = subprocess.run(road, env=environment(cache), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return out


def test_a_killed_run_resumes_where_it_was(resumed: Path) -> None:
    cached = {stage["name"]: stage["cached"] for stage in context(resumed)["stages"]}
    assert cached["teacher"] is True
    assert cached["student"] is False


def test_the_road_leads_to_eight_files_and_a_verdict(resumed: Path) -> None:
    found = rows(resumed)
    assert len(found) == 8
    assert all(row["err"] is None for row in found.values())
    sizes = {name: row["metrics"]["size_mb"] for name, row in found.items()}
    for group in ("student", "pruned"):
        for backend in ("ort", "litert"):
            assert sizes[f"{group}-{backend}-int8"] <= 0.35 * sizes[f"{group}-{backend}-fp32"]
    macs = {row["facts"]["group"]: row["facts"]["macs"] for row in found.values()}
    assert macs["pruned"] <= 0.55 * macs["student"]
    assert json.loads((resumed / "verdict.json").read_text())["reasons"]
    assert "seed: 0" in (resumed / "config.yaml").read_text()


def test_what_was_made_is_not_made_again_even_with_the_network_cut(
    cache: Path, resumed: Path, sealed: Environment
) -> None:
    out = resumed.with_name("offline")
    road = command(out, *EPOCHS, f"converter.python={sealed.python}")
    done = subprocess.run(
        [*offline(), *road], env=environment(cache), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert all(stage["cached"] for stage in context(out)["stages"])
    before, after = rows(resumed), rows(out)
    for name, row in after.items():
        assert row["facts"]["digest"] == before[name]["facts"]["digest"]
        assert row["metrics"]["top1"] == before[name]["metrics"]["top1"]


def offline() -> list[str]:
    """A prefix that cuts the network off, where the system allows it."""
    cut = ["unshare", "-n"]
    if (
        shutil.which("unshare")
        and not subprocess.run([*cut, "true"], capture_output=True).returncode
    ):
        return cut
    pytest.skip("NOT TESTED offline: unshare -n is not allowed here; run as root on Linux")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("NOT TESTED on a full disk: mounting a tmpfs needs root on Linux")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_paragraph(small_disk: Path, tmp_path: Path) -> None:
    alone = ["stage=[teacher]", "ship=[teacher]", "backend=[ort]", "stage.teacher.epochs=0"]
    road = command(tmp_path / "run", *alone)
    done = subprocess.run(road, env=environment(small_disk), capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "free some space" in done.stderr
    assert not list((small_disk / "store").glob("*/.*")), "a half-made artifact was left"
