"""A Python elsewhere that lacks the runtimes gets them: an arm64 Python, on a core of qemu's."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from tests.devices.arm import ARM
from tests.devices.serving import skip
from tests.devices.shells import Shell
from torchopt2edge.bench.child_session import open_child
from torchopt2edge.deploy import python_packages
from torchopt2edge.devices.local import Local
from torchopt2edge.errors import DeviceError
from torchopt2edge.types import Candidate

QEMU = "qemu-aarch64-static"


@pytest.fixture
def arm_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python of arm64 without any packages, and pip with the wheels that are there."""
    if not (ARM / "complete").is_file() or not shutil.which(QEMU):
        skip("there is no arm64 system, or nothing that runs its programs")
    monkeypatch.setenv("PIP_FIND_LINKS", str(ARM / "wheels"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    root = tmp_path / "root"
    shutil.copytree(ARM / "board", root, symlinks=True, ignore=shutil.ignore_patterns("local"))
    (root / "proc").mkdir(exist_ok=True)
    shutil.copy(ARM / "cpuinfo/rpi5", root / "proc/cpuinfo")
    program = tmp_path / "python3"
    program.write_text(f"""#!/bin/sh
QEMU_CPU=cortex-a76 PYTHONHOME={root}/usr exec {shutil.which(QEMU)} -L {root} \\
  {root}/usr/bin/python3.11 -S "$@"
""")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("runtime", ["ort", pytest.param("litert", marks=pytest.mark.slow)])
def test_it_runs_with_what_was_brought(
    runtime: str,
    net: object,
    tflite: Candidate,
    sample: dict[str, np.ndarray],
    arm_python: Path,
    tmp_path: Path,
) -> None:
    candidate = net("a", depth=2) if runtime == "ort" else tflite  # type: ignore[operator]
    with open_child(candidate, Local(), tmp_path / "log") as session:
        wanted = session(sample)
    device = Shell(root=tmp_path, python=str(arm_python), fetch=True, workdir="it's here")
    with open_child(candidate, device, tmp_path / "log") as session:
        receipt, found = session.receipt, session(sample)
    assert receipt["emulated"] is True
    package = {"ort": "onnxruntime", "litert": "ai-edge-litert"}[runtime]
    assert receipt["runtime_version"] == version(package)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5)
    sent = device.cuts.sent
    device.known.forget()
    folder = python_packages.bring(device, package)
    assert device.cuts.sent == sent
    places = [one for one in (tmp_path / "home/it's here/files").iterdir() if "site" in one.name]
    assert [str(one) for one in places] == [folder]


def test_a_python_that_has_them_gets_nothing(tmp_path: Path) -> None:
    device = Shell(root=tmp_path, python=sys.executable, fetch=True)
    assert python_packages.bring(device, "onnxruntime") is None
    assert python_packages.bring(device, "ai-edge-litert") is None
    assert device.cuts.sent == 0


def test_a_python_that_lacks_them_is_told_so_before_it_is_started(
    net: object, tmp_path: Path
) -> None:
    """By what is missing, not by the traceback of our runner."""
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    device = Shell(root=tmp_path, python=str(bare))
    candidate = net("a")  # type: ignore[operator]
    what = r"bare on shell:dash has no numpy, onnxruntime.*device\.fetch=true.*pip install onnxr"
    with pytest.raises(DeviceError, match=what), open_child(candidate, device, tmp_path / "log"):
        pass
    assert device.cuts.sent == 0


def test_a_python_that_is_not_there_is_named(tmp_path: Path) -> None:
    device = Shell(root=tmp_path, python="python-of-nowhere", fetch=True)
    with pytest.raises(DeviceError, match=r"python-of-nowhere does not run.*device\.runner=native"):
        python_packages.bring(device, "onnxruntime")


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("3 11 False armv7l glibc 2.36", r"32 bits.*a system of 64 bits"),
        ("3 12 True aarch64 None", r"no glibc.*device\.runner=native"),
    ],
)
def test_a_python_that_takes_no_wheels_is_told_so(said: str, what: str, tmp_path: Path) -> None:
    program = tmp_path / "python3"
    program.write_text(f"#!/bin/sh\necho {said}\necho numpy\n")
    program.chmod(0o755)
    device = Shell(root=tmp_path, python=str(program), fetch=True)
    with pytest.raises(DeviceError, match=what):
        python_packages.bring(device, "onnxruntime")
