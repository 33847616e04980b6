"""The doctor on a device: one tiny model through both runtimes there, as evidence to paste.

What it computes there (`bench.tiny_model`) is held against what it computes here.
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
# The sha256 of the library that the Python there would load: `package/path/pattern`.
_DIGEST = """
import glob, hashlib, importlib.util, os, sys
package, _, pattern = sys.argv[1].partition("/")
for place in importlib.util.find_spec(package).submodule_search_locations:
    for file in sorted(glob.glob(os.path.join(place, pattern)))[:1]:
        with open(file, "rb") as body:
            print(hashlib.sha256(body.read()).hexdigest(), os.path.basename(file))
"""


def show(device: Device) -> int:
    """Examine a device and print the evidence; return 1 when something is wrong there."""
    with tempfile.TemporaryDirectory(prefix="t2e-") as work:
        checks = examine(device, Path(work))
    shown = console()
    head = f"torchopt2edge {__version__} doctor on {device.name}"
    shown.print(head, markup=False, highlight=False, soft_wrap=True)
    render(shown, checks)
    return 1 if worst(checks) == "fail" else 0


def examine(device: Device, work: Path) -> list[Check]:
    """Return what a device is and how the tiny model fares on it; files and logs go to ``work``."""
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
    said = [f"{name} {plain(facts[name])}" for name in names if _known(facts.get(name))]
    yield Check("device", "ok", ", ".join(said))
    yield Check("features", "ok", ", ".join(map(plain, facts.get("cpu_flags", ()))) or "none known")
    for one in facts.get("core_classes") or ():
        told = ", ".join(f"{key} {plain(value)}" for key, value in one.items())
        yield Check("core class", "ok", told)
    busy = [f"{name} {plain(facts.get(name))}" for name in ("governor", "load", "steal")]
    yield Check("state", "ok", ", ".join(busy))
    if facts.get("emulated"):
        slow = "its processor is emulated: what it computes counts, its times do not"
        yield Check("emulated", "warn", slow)


def _known(value: object) -> bool:
    return value not in (None, "", system_info.UNAVAILABLE)


def _runner(device: Device) -> str:
    cores = getattr(device, "pinned", None)
    pinned = "" if cores is None else f", cores {list(cores)}"
    return f"{device.runner}, {device.threads} thread{'s' if device.threads > 1 else ''}{pinned}"


def _link(device: Device) -> Iterator[Check]:
    """Time how long an empty command takes there and back."""
    if not isinstance(device, Remote):
        return
    trips = [_timed(lambda: device.run(":")) for _ in range(_TRIPS)]
    said = f"round trip {significant(median(trips))} ms, the first {significant(trips[0])} ms"
    yield Check("link", "ok", f"{said} ({_TRIPS} empty commands)")
    if device.runner == "python":
        found = discover.runtimes(device)
        said = ", ".join(f"{name} {version}" for name, version in found.items())
        lost = f"there is no {device.python}, or it does not run"
        hint = "device.python=PATH of a Python there, or device.runner=native"
        yield Check("python", "ok", said) if found else Check("python", "fail", lost, hint)


def _timed(act: Callable[[], object]) -> float:
    begin = time.monotonic()
    act()
    return (time.monotonic() - begin) * 1e3


@dataclass(frozen=True)
class _Seen:
    """What one runtime did: outputs, receipt, sensors, times of the start and of the rounds."""

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
        seen = _seen(candidate, device, work / f"{name}.log")
        sha = _library(candidate, device)
    except EdgeError as error:
        hint = error.hint or _missing(candidate, device)
        yield Check(name, "fail", plain(error.what), hint)
        return
    receipt = seen.receipt
    version = f"{receipt.get('runtime', name)} {receipt.get('runtime_version', '?')}"
    extra = [f"{key} {receipt[key]}" for key in ("python", "numpy", "browser") if key in receipt]
    yield Check(name, "ok", plain(", ".join([version, *extra])))
    yield Check(f"{name} library", "ok", sha or "its digest cannot be told")
    yield _likeness(name, here, seen.outputs)
    value, low, high = round_stats.median_interval(seen.medians)
    start = ", ".join(f"{key[:-3]} {significant(ms)}" for key, ms in seen.times.items())
    steady = f"steady {interval(value, low, high)} ms in {_ROUNDS} rounds"
    frame = f"a frame there and back {significant(seen.trip_ms)} ms"
    yield Check(f"{name} times", "ok", f"{start} ms; {steady}; {frame}")
    read = {key: value for key, value in seen.sensors.items() if _known(value)}
    lost = sorted(set(seen.sensors) - set(read))
    told = ", ".join(f"{key} {value}" for key, value in read.items()) or "none"
    yield Check(f"{name} sensors", "ok", f"{told}; unavailable: {', '.join(lost) or 'none'}")


def _likeness(name: str, here: dict[str, Array], there: dict[str, Array]) -> Check:
    """Judge the outputs there by those here."""
    try:
        found = parity.parity(here, there)
    except EdgeError as error:
        return Check(f"{name} outputs", "fail", error.what)
    said = f"{found.max_abs:.3g} apart at most from this machine's, SQNR {found.sqnr_db:.0f} dB"
    if parity.below(found, SCHEMES["fp32"]):
        hint = "this is a defect of the runtime there: paste all of this into an issue"
        return Check(f"{name} outputs", "fail", said, hint)
    return Check(f"{name} outputs", "ok", said)


def _outputs(candidate: Candidate, device: Device, log: Path) -> dict[str, Array]:
    with open_child(candidate, device, log) as session:
        return session(sample())


def _seen(candidate: Candidate, device: Device, log: Path) -> _Seen:
    with open_child(candidate, device, log) as session:
        outputs = session(sample())
        first = session.load_timed(sample())
        rounds = [session.round(_LEAST, _SECONDS, _MOST).latency_ns for _ in range(_ROUNDS)]
        medians = [float(value) / 1e6 for value in round_stats.round_medians(rounds)]
        sensors, trip = _sensed(session)
        times = {**session.times, "first_ms": first}
        return _Seen(outputs, session.receipt, sensors, times, medians, trip)


def _sensed(session: ChildSession) -> tuple[Facts, float]:
    """Return the sensors, and the milliseconds that a frame takes there and back."""
    trips = [_timed(session.sense) for _ in range(_TRIPS)]
    return session.sense(), median(trips)


def _missing(candidate: Candidate, device: Device) -> str:
    if device.runner != "python" or isinstance(device, Remote):  # which says itself what it lacks
        return ""
    return f"{device.python} -m pip install {_PACKAGES[candidate.backend]}, or device.runner=native"


def _library(candidate: Candidate, device: Device) -> str:
    """Return the sha256 and the name of the library that ran, "" where it cannot be told."""
    run = device.run if isinstance(device, Remote) else _run_here
    if runner_of(candidate, device) == "python":
        from torchopt2edge.backends.litert.backend import LiteRT
        from torchopt2edge.backends.ort.backend import Ort

        pattern = {"ort": Ort.library, "litert": LiteRT.library}[candidate.backend]
        said = run(shlex.join([device.python, "-c", _DIGEST, pattern])).stdout
    else:
        path = launch(candidate, device).library or ""
        said = run(f"sha256sum {shlex.quote(path)}").stdout if path else b""
    found = answers.digest_and_name(said)
    return "" if found is None else f"{found[1]} sha256 {found[0]}"


def _run_here(script: str) -> Finished:
    return call(["/bin/sh", "-c", script])
