"""This machine as a device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchopt2edge.devices import Local
from torchopt2edge.errors import DeviceError

SAY = """
import json, os, sys
sys.stdin.readline()
print(json.dumps({"environment": dict(os.environ), "affinity": sorted(os.sched_getaffinity(0)),
                  "session": os.getsid(0) == os.getpid()}), flush=True)
sys.stdin.readline()
"""


def test_importing_devices_is_light() -> None:
    code = (
        "import sys, torchopt2edge.devices; "
        "print(sorted({'numpy', 'torch', 'scipy'} & sys.modules.keys()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_child_gets_a_clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "OMP_NUM_THREADS", "KMP_AFFINITY", "LD_PRELOAD_X", "ORT_X"):
        monkeypatch.setenv(name, "9")
    device = Local(threads=2)
    with device.start([device.python, "-c", SAY], tmp_path / "log") as job:
        job.send({})
        header, _ = job.receive(30.0)
    found = header["environment"]
    assert found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == "2"
    assert found["PYTHONHASHSEED"] == "0"
    assert found["PATH"] == os.environ["PATH"]
    assert not {"PYTHONPATH", "KMP_AFFINITY", "LD_PRELOAD_X", "ORT_X"} & found.keys()
    assert header["session"] is True


def test_a_child_is_kept_on_its_cores(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    device = Local(affinity=(core,))
    with device.start([device.python, "-c", SAY], tmp_path / "log") as job:
        job.send({})
        header, _ = job.receive(30.0)
    assert header["affinity"] == [core]
    assert device.facts()["device_affinity"] == [core]


@pytest.mark.parametrize(
    ("device", "what"),
    [
        (Local(threads=0), "0 threads"),
        (Local(affinity=(100_000,)), "not all ours"),
        (Local(affinity=()), "not all ours"),
    ],
)
def test_what_this_machine_has_not_is_refused(tmp_path: Path, device: Local, what: str) -> None:
    with pytest.raises(DeviceError, match=what):
        device.start(["true"], tmp_path / "log")
    with pytest.raises(DeviceError, match=what):
        device.facts()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="No such file"):
        Local().start(["/nowhere/python"], tmp_path / "log")


def test_files_are_here_already(tmp_path: Path) -> None:
    assert Local().push(tmp_path / "model.onnx") == str(tmp_path / "model.onnx")
