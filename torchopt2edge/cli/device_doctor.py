"""The doctor on a device: runs one tiny model (`bench.tiny_model`) in both runtimes there.

Its outputs are compared with those on this machine, and the text can be pasted into an issue.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from torchopt2edge._version import __version__
from torchopt2edge.bench.child_session import ChildSession, open_child
from torchopt2edge.bench.tiny_model import onnx_model, sample, tflite_model
from torchopt2edge.cli.console import console
from torchopt2edge.cli.doctor import Check, render, worst
from torchopt2edge.deploy.launch import launch, runner_of
from torchopt2edge.devices import answers, discover
from torchopt2edge.devices.local import Local
from torchopt2edge.devices.remote.device import Remote
from torchopt2edge.devices.remote.transport import Finished, call
from torchopt2edge.errors import EdgeError
from torchopt2edge.evaluation import parity
from torchopt2edge.interfaces import Device
from torchopt2edge.report.text.numbers import interval, significant
from torchopt2edge.report.text.row_view import plain
from torchopt2edge.runner import system_info
from torchopt2edge.stats import rounds as round_stats
from torchopt2edge.types import SCHEMES, Candidate, Facts

Array = np.ndarray[Any, Any]

_TRIPS = 5
_ROUNDS, _LEAST, _SECONDS, _MOST = 7, 20, 0.1, 100_000
_PACKAGES = {"ort": "onnxruntime", "litert": "ai-edge-litert"}
# Prints the sha256 of the library that the Python there loads; the argument is package/pattern.
_DIGEST = """
import glob, hashlib, importlib.util, os, sys
package, _, pattern = sys.argv[1].partition("/")
for folder in importlib.util.find_spec(package).submodule_search_locations:
    for path in sorted(glob.glob(os.path.join(folder, pattern)))[:1]:
        with open(path, "rb") as file:
            print(hashlib.sha256(file.read()).hexdigest(), os.path.basename(path))
"""


def show(device: Device) -> int:
    """Check a device and print the results; return 1 when a check fails."""
    with tempfile.TemporaryDirectory(prefix="t2e-") as work:
        checks = examine(device, Path(work))
    stdout = console()
    head = f"torchopt2edge {__version__} doctor on {device.name}"
    stdout.print(head, markup=False, highlight=False, soft_wrap=True)
    render(stdout, checks)
    return 1 if worst(checks) == "fail" else 0


def examine(device: Device, work: Path) -> list[Check]:
    """Check a device: its facts, its link, and the tiny model; files and logs go to ``work``."""
    try:
        facts = device.facts()
        checks = [*_machine(facts), Check("runner", "ok", _runner(device)), *_link(device)]
    except EdgeError as error:
        return [Check("device", "fail", plain(error.what), error.hint or "")]
    for candidate in (onnx_model(work), tflite_model(work)) if worst(checks) != "fail" else ():
        checks += _runtime(candidate, device, work)
    return checks


def _machine(facts: Facts) -> Iterator[Check]:
    names = ("model", "cpu", "arch", "abi", "cores", "memory_gb", "os", "kernel", "libc", "browser")
    known = [f"{name} {plain(facts[name])}" for name in names if _known(facts.get(name))]
    yield Check("device", "ok", ", ".join(known))
    yield Check("features", "ok", ", ".join(map(plain, facts.get("cpu_flags", ()))) or "none known")
    for core_class in facts.get("core_classes") or ():
        fields = ", ".join(f"{key} {plain(value)}" for key, value in core_class.items())
        yield Check("core class", "ok", fields)
    state = [f"{name} {plain(facts.get(name))}" for name in ("governor", "load", "steal")]
    yield Check("state", "ok", ", ".join(state))
    if facts.get("emulated"):
        message = "its processor is emulated: outputs are valid, times are not"
        yield Check("emulated", "warn", message)


def _known(value: object) -> bool:
    return value not in (None, "", system_info.UNAVAILABLE)


def _runner(device: Device) -> str:
    cores = getattr(device, "pinned", None)
    pinned = "" if cores is None else f", cores {list(cores)}"
    return f"{device.runner}, {device.threads} thread{'s' if device.threads > 1 else ''}{pinned}"


def _link(device: Device) -> Iterator[Check]:
    """Measure the round trip of an empty command."""
    if not isinstance(device, Remote):
        return
    trips = [_timed(lambda: device.run(":")) for _ in range(_TRIPS)]
    times = f"round trip {significant(median(trips))} ms, the first {significant(trips[0])} ms"
    yield Check("link", "ok", f"{times} ({_TRIPS} empty commands)")
    if device.runner == "python":
        yield _python(device)


def _python(device: Remote) -> Check:
    versions = [f"{name} {version}" for name, version in discover.runtimes(device).items()]
    if versions:
        return Check("python", "ok", ", ".join(versions))
    hint = "device.python=PATH of a Python there, or device.runner=native"
    return Check("python", "fail", f"there is no {device.python}, or it does not run", hint)


def _timed(function: Callable[[], object]) -> float:
    """Call a function and return the milliseconds that it took."""
    start = time.monotonic()
    function()
    return (time.monotonic() - start) * 1e3


@dataclass(frozen=True)
class _ModelRun:
    """One run of the tiny model: outputs, receipt, sensors, and times in milliseconds."""

    outputs: dict[str, Array]
    receipt: Facts
    sensors: Facts
    times: dict[str, float]
    medians: list[float]
    trip_ms: float


def _runtime(candidate: Candidate, device: Device, work: Path) -> Iterator[Check]:
    name = candidate.backend
    try:
        here = _outputs(candidate, Local(), work / f"{name}-here.log")
        there = _run_model(candidate, device, work / f"{name}.log")
        library = _library(candidate, device)
    except EdgeError as error:
        hint = error.hint or _missing(candidate, device)
        yield Check(name, "fail", plain(error.what), hint)
        return
    receipt = there.receipt
    version = f"{receipt.get('runtime', name)} {receipt.get('runtime_version', '?')}"
    extra = [f"{key} {receipt[key]}" for key in ("python", "numpy", "browser") if key in receipt]
    yield Check(name, "ok", plain(", ".join([version, *extra])))
    yield Check(f"{name} library", "ok", library or "its digest is unknown")
    yield _compare_outputs(name, here, there.outputs)
    yield Check(f"{name} times", "ok", _times(there))
    yield Check(f"{name} sensors", "ok", _sensors(there.sensors))


def _times(run: _ModelRun) -> str:
    start = ", ".join(f"{key[:-3]} {significant(ms)}" for key, ms in run.times.items())
    value, low, high = round_stats.median_interval(run.medians)
    steady = f"steady {interval(value, low, high)} ms in {_ROUNDS} rounds"
    return f"{start} ms; {steady}; round trip of a frame {significant(run.trip_ms)} ms"


def _sensors(sensors: Facts) -> str:
    readings = {key: value for key, value in sensors.items() if _known(value)}
    missing = ", ".join(sorted(set(sensors) - set(readings))) or "none"
    listed = ", ".join(f"{key} {value}" for key, value in readings.items()) or "none"
    return f"{listed}; unavailable: {missing}"


def _compare_outputs(name: str, here: dict[str, Array], there: dict[str, Array]) -> Check:
    """Check the outputs on the device against those on this machine."""
    try:
        result = parity.parity(here, there)
    except EdgeError as error:
        return Check(f"{name} outputs", "fail", error.what)
    difference = f"largest difference from this machine {result.max_abs:.3g}"
    message = f"{difference}, SQNR {result.sqnr_db:.0f} dB"
    if parity.below(result, SCHEMES["fp32"]):
        hint = "this is a defect of the runtime there: paste all of this into an issue"
        return Check(f"{name} outputs", "fail", message, hint)
    return Check(f"{name} outputs", "ok", message)


def _outputs(candidate: Candidate, device: Device, log: Path) -> dict[str, Array]:
    with open_child(candidate, device, log) as session:
        return session(sample())


def _run_model(candidate: Candidate, device: Device, log: Path) -> _ModelRun:
    with open_child(candidate, device, log) as session:
        outputs = session(sample())
        first = session.load_timed(sample())
        rounds = [session.round(_LEAST, _SECONDS, _MOST).latency_ns for _ in range(_ROUNDS)]
        medians = [float(value) / 1e6 for value in round_stats.round_medians(rounds)]
        sensors, trip = _read_sensors(session)
        times = {**session.times, "first_ms": first}
        return _ModelRun(outputs, session.receipt, sensors, times, medians, trip)


def _read_sensors(session: ChildSession) -> tuple[Facts, float]:
    """Return the sensors, and the round trip of a frame in milliseconds."""
    trips = [_timed(session.sense) for _ in range(_TRIPS)]
    return session.sense(), median(trips)


def _missing(candidate: Candidate, device: Device) -> str:
    if device.runner != "python" or isinstance(device, Remote):  # its error has a hint
        return ""
    return f"{device.python} -m pip install {_PACKAGES[candidate.backend]}, or device.runner=native"


def _library(candidate: Candidate, device: Device) -> str:
    """Return the name and the sha256 of the library that ran, "" where they are unknown."""
    run = device.run if isinstance(device, Remote) else _run_here
    if runner_of(candidate, device) == "python":
        from torchopt2edge.backends.litert.backend import LiteRT
        from torchopt2edge.backends.ort.backend import Ort

        pattern = {"ort": Ort.library, "litert": LiteRT.library}[candidate.backend]
        output = run(shlex.join([device.python, "-c", _DIGEST, pattern])).stdout
    else:
        path = launch(candidate, device).library or ""
        output = run(f"sha256sum {shlex.quote(path)}").stdout if path else b""
    answer = answers.digest_and_name(output)
    return "" if answer is None else f"{answer[1]} sha256 {answer[0]}"


def _run_here(script: str) -> Finished:
    return call(["/bin/sh", "-c", script])
