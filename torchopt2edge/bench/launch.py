"""What is started on a device to run one candidate, by the device's runner."""

from __future__ import annotations

from dataclasses import dataclass

from torchopt2edge.bench.zipapp import runner_file
from torchopt2edge.protocols import Device
from torchopt2edge.types import Candidate

NATIVE = frozenset({"ort", "litert"})
"""The backends whose files the native runner runs."""


@dataclass(frozen=True)
class Launch:
    """A command on the device, and the runtime's library there for a runner that loads it."""

    argv: list[str]
    library: str | None = None


def runner_of(candidate: Candidate, device: Device) -> str:
    """Return which runner runs a candidate: the device's, unless only Python can (PyTorch)."""
    return device.runner if candidate.backend in NATIVE else "python"


def launch(candidate: Candidate, device: Device) -> Launch:
    """Bring there what runs a candidate, and return how it is started.

    Raises:
        DeviceError: it cannot be built here or brought there.
    """
    if runner_of(candidate, device) == "native":
        from torchopt2edge.bench.native import build

        program = device.push(build.runner_binary())
        return Launch([program], device.push(build.library(candidate.backend)))
    # -P: nothing from the working directory is importable; the zip itself comes first
    return Launch([device.python, "-P", device.push(runner_file())])
