"""What is started on a device to run one candidate, by the device's runner."""

from __future__ import annotations

from dataclasses import dataclass

from torchopt2edge.deploy.runner_zip import runner_file
from torchopt2edge.devices.remote.device import Remote
from torchopt2edge.interfaces import Device
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
        return _native(candidate, device)
    if runner_of(candidate, device) == "web":
        return Launch(["web", candidate.backend])  # the page comes from the device itself
    if isinstance(device, Remote) and candidate.backend in NATIVE:
        return _with_wheels(candidate, device)
    # -P: nothing from the working directory is importable; the zip itself comes first
    return Launch([device.python, "-P", device.push(runner_file())])


def _with_wheels(candidate: Candidate, device: Remote) -> Launch:
    """Bring the Python runner there, and the runtime where the Python there has none and may."""
    from torchopt2edge.deploy import native_build, python_packages

    package, _ = native_build.runtime(candidate.backend)
    folder = python_packages.bring(device, package.replace("_", "-"))
    runner = device.push(runner_file())
    if folder is None:
        return Launch([device.python, "-P", runner])
    # Not -P, which a Python before 3.11 does not know: the device's environment says the same.
    return Launch(["env", f"PYTHONPATH={folder}", device.python, runner])


def _native(candidate: Candidate, device: Device) -> Launch:
    """Bring the native runner and the runtime there, in what that machine can start."""
    from torchopt2edge.deploy import native_build
    from torchopt2edge.deploy.android_ndk import android
    from torchopt2edge.deploy.native_bundle import kit

    if not isinstance(device, Remote):  # it is this machine
        program = device.push(native_build.runner_binary())
        return Launch([program], device.push(native_build.library(candidate.backend)))
    facts = device.machine()
    found = (
        kit(facts, candidate.backend, device.fetch, device.sysroot)
        if device.ndk is None
        else android(facts, candidate.backend, device.ndk, device.libraries)
    )
    runtime = device.push_all(found.runtime)
    return Launch(found.argv(device.push_all(found.program)), f"{runtime}/{found.library}")
