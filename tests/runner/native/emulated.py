"""The native runner started from files that were laid somewhere, on a core of qemu's if need be."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.devices.arm import ARM, CORES
from tests.devices.serving import skip
from tests.runner.native.test_runner import Native
from torchopt2edge.devices.child_process import ProcessJob
from torchopt2edge.types import Candidate

QEMU = "qemu-aarch64-static"


def needs_ziglang() -> None:
    """Skip where no compiler makes programs for other machines."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed: pip install ziglang")


def roots() -> tuple[str, str]:
    """Return the folder of an arm64 system, and that of the runtimes' wheels for it."""
    if not (ARM / "complete").is_file():
        skip("there is no arm64 system")
    return str(ARM / "board"), str(ARM / "wheels")


@contextlib.contextmanager
def running(argv: Sequence[str], folder: Path, core: str | None = None) -> Iterator[Native]:
    """Start a runner, on a core of that kind, with the /proc/cpuinfo of such a machine."""
    words, environment = [*argv], {}
    if core is not None:
        if not shutil.which(QEMU):
            skip(f"there is no {QEMU}")
        root = folder / "shown"
        (root / "proc").mkdir(parents=True)
        model, processor = CORES[core]
        shutil.copy(ARM / "cpuinfo" / processor, root / "proc/cpuinfo")
        cores = root / "sys/devices/system/cpu"
        cores.mkdir(parents=True)
        for name in ("possible", "present"):
            (cores / name).write_text("0-3\n")
        words = [shutil.which(QEMU) or "", "-L", str(root), *argv]
        environment = {"QEMU_CPU": model}
    with ProcessJob.start(words, environment, folder / "log") as job:
        yield Native(job)


def given(candidate: Candidate, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a sample as the candidate's file takes it."""
    (spec,) = candidate.signature.inputs
    array = sample[spec.name]
    return {"x": array if spec.perm is None else array.transpose(spec.perm)}
