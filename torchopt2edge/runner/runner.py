"""The loop that runs on the device: opens one file, runs it, times it; speaks in frames.

Each command is one frame, and so is its answer; arrays are as the file holds them, under the
file's own names (the host brings them there, `backends.file_session`)::

    open  {backend | target, options, file, …}           → opened {library_ms, import_ms, load_ms,
                                                              receipt}
    call  {file?, pieces?} + arrays                       → called + arrays
    load  + arrays (the timed sample)                     → loaded {first_ms}
    round {min_samples, seconds, max_samples}             → round {latency_ns, begin_ns, wall_ns,
                                                              cpu_ns, involuntary, steal, ticks,
                                                              joules, stable, finite,
                                                              vm_hwm_bytes, sensors}
    sense                                                 → sensed {sensors}
    profile {runs}                                        → profiled {ops}
    stop                                                  → stopped {vm_hwm_bytes}

The native runner (`runner/native/runner.c`) speaks the same, but for ``profile``. Any failure is
answered with ``error {what, type}`` and the loop goes on; the end of stdin ends it. ``file`` of a
call is a path here that holds one frame, whose arrays are taken; ``pieces`` is in how many equal
parts along their first axis they are run, for a file that takes so many at once. Standard
library and numpy besides the backend's own runtime. What is timed is ``session.run``: set input,
run, read output. A runner that waits blocks in a read: it does not spin beside the candidate
whose turn it is.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import importlib.util
import operator
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.errors import BenchError, DeviceError
from torchopt2edge.interfaces import TimedSession
from torchopt2edge.runner import system_info
from torchopt2edge.runner.frames import FrameReader, encode
from torchopt2edge.runner.sensors import energy, joules, sense
from torchopt2edge.types import Signature

Array = np.ndarray[Any, Any]
if TYPE_CHECKING:  # Python 3.9, which boards have, knows no | of types while it runs
    Answer = tuple[dict[str, Any], dict[str, Array] | None]

TARGETS = {
    "ort": "torchopt2edge.backends.ort.backend.Ort",
    "litert": "torchopt2edge.backends.litert.backend.LiteRT",
    "torch": "torchopt2edge.backends.torch_cpu.TorchCpu",
}
_CLOCK = time.perf_counter_ns


class Runner:
    """One opened file and its timed sample; a method per command."""

    def __init__(self) -> None:
        self._session: TimedSession | None = None
        self._prepared: dict[str, Array] = {}
        self._first: dict[str, Array] | None = None
        self._profile: Callable[[dict[str, Array], int], list[dict[str, Any]]]

    def answer(self, command: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """Carry out one command.

        Raises:
            BenchError: the command is unknown or out of order.
        """
        commands: dict[str, Callable[[dict[str, Any], dict[str, Array]], Answer]] = {
            "open": self.open,
            "call": self.call,
            "load": self.load,
            "round": self.round,
            "profile": self.profile,
            "sense": lambda _command, _arrays: ({"event": "sensed", "sensors": sense()}, None),
            "stop": lambda _command, _arrays: (
                {"event": "stopped", "vm_hwm_bytes": system_info.thread_counts()[1]},
                None,
            ),
        }
        name = command.get("cmd")
        if name not in commands:
            raise BenchError(f"the runner knows no command {name!r}")
        return commands[name](command, arrays)

    def open(self, command: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """Load the runtime's library, import it, open the file, each under its own clock."""
        self._session = self._first = None  # whatever comes of this one, the last is gone
        target = command.get("target") or TARGETS.get(command["backend"])
        if target is None:
            raise BenchError(f"the runner knows no backend {command['backend']!r}")
        module, _, name = target.rpartition(".")
        backend = getattr(importlib.import_module(module), name)(**command.get("options", {}))
        before = system_info.thread_counts()[1]
        start = _CLOCK()
        _preload(backend.library)
        begin = _CLOCK()
        _import(backend.runtime_module)
        imported = _CLOCK()
        self._profile = functools.partial(
            backend.profile, Path(command["file"]), command["threads"]
        )
        session: TimedSession = backend.open(
            Path(command["file"]), Signature.from_json(command["signature"]), command["threads"]
        )
        opened = _CLOCK()
        if not session.output_names:
            raise BenchError("the file has no outputs, so that nothing of it could be checked")
        self._session = session
        receipt = {
            **_surroundings(),
            **backend.receipt(),
            "runner": "python",
            "threads": command["threads"],
            "affinity": sorted(os.sched_getaffinity(0)),
            "bytes_before_import": before,
        }
        times = {
            "library_ms": (begin - start) / 1e6,
            "import_ms": (imported - begin) / 1e6,
            "load_ms": (opened - imported) / 1e6,
        }
        return {"event": "opened", **times, "receipt": receipt}, None

    def call(self, command: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """Run on arrays that are sent or lie here, piece by piece; nothing is timed."""
        session = self._opened()
        if "file" in command:
            arrays = read_frame(Path(command["file"]))
        found: dict[str, list[Array]] = {}
        for piece in cut(arrays, operator.index(command.get("pieces", 1))):
            for name, value in session.run(piece).items():
                found.setdefault(name, []).append(np.array(value))  # it may reuse its buffer
        outputs = {
            name: parts[0] if len(parts) == 1 else np.concatenate(parts)
            for name, parts in found.items()
        }
        return {"event": "called"}, outputs

    def load(self, command: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """Keep the timed sample and run the first inference, whose outputs are kept too."""
        session = self._opened()
        self._prepared, self._first = arrays, None
        begin = _CLOCK()
        outputs = session.run(self._prepared)
        first_ms = (_CLOCK() - begin) / 1e6
        self._first = {name: np.array(value) for name, value in outputs.items()}
        return {"event": "loaded", "first_ms": first_ms, "finite": finite(self._first)}, None

    def round(self, command: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """Time one round and compare its last outputs with the first inference's."""
        session, first = self._opened(), self._first
        if first is None:
            raise BenchError("a round came before its load")
        ticks, charge = system_info.cpu_ticks(), energy()
        involuntary, _ = system_info.thread_counts()
        gc.collect()
        gc.freeze()
        gc.disable()
        cpu, begin = time.process_time_ns(), _CLOCK()
        try:
            samples, outputs = time_round(session.run, self._prepared, command)
        finally:
            wall, cpu = _CLOCK() - begin, time.process_time_ns() - cpu
            gc.enable()
            gc.unfreeze()
        after, peak = system_info.thread_counts()
        event = {
            "event": "round",
            "latency_ns": samples,
            "begin_ns": begin,
            "wall_ns": wall,
            "cpu_ns": cpu,
            "involuntary": after - involuntary if min(after, involuntary) >= 0 else -1,
            "stable": same(first, outputs),
            "finite": finite(outputs),
            "joules": joules(charge, energy()),
            "vm_hwm_bytes": peak,
            "sensors": sense(),
            **_steal(ticks, system_info.cpu_ticks()),
        }
        return event, None

    def profile(self, command: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """List what each operator takes, by the runtime's own profiler, on the timed sample."""
        self._opened()
        return {"event": "profiled", "ops": self._profile(self._prepared, command["runs"])}, None

    def _opened(self) -> TimedSession:
        if self._session is None:
            raise BenchError("no file was opened yet")
        return self._session


def time_round(
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    prepared: Mapping[str, Array],
    command: Mapping[str, Any],
) -> tuple[list[int], dict[str, Array]]:
    """Return nanoseconds per inference, and the last outputs.

    It ends when both ``min_samples`` and ``seconds`` are reached, or at ``max_samples``.
    """
    least, most = command["min_samples"], command["max_samples"]
    budget = int(command["seconds"] * 1e9)
    samples: list[int] = []
    start = _CLOCK()
    while True:
        begin = _CLOCK()
        outputs = run(prepared)
        end = _CLOCK()
        samples.append(end - begin)
        if len(samples) >= most or (len(samples) >= least and end - start >= budget):
            return samples, outputs


def read_frame(file: Path) -> dict[str, Array]:
    """Return the arrays of a file that holds one frame.

    Raises:
        BenchError: it holds less than that.
    """
    with file.open("rb") as body:
        try:
            return FrameReader(body.fileno()).read()[1]
        except EOFError as error:
            raise BenchError("the file ends in the middle of its frame", artifact=file) from error


def cut(arrays: Mapping[str, Array], pieces: int) -> Iterator[dict[str, Array]]:
    """Walk equal pieces of arrays along their first axis, as many as asked for.

    Raises:
        BenchError: they cannot be cut into so many.
    """
    if pieces == 1:
        yield dict(arrays)
        return
    if not arrays:
        raise BenchError(f"nothing is given to be cut into {pieces} pieces")
    for name, value in arrays.items():
        if pieces < 1 or not value.ndim or not len(value) or len(value) % pieces:
            raise BenchError(f"{name!r} of shape {value.shape} is not made of {pieces} pieces")
    for at in range(pieces):
        yield {
            name: value[at * len(value) // pieces : (at + 1) * len(value) // pieces]
            for name, value in arrays.items()
        }


def finite(outputs: Mapping[str, Array]) -> bool:
    """Whether no output holds a NaN or an infinity."""
    return all(
        bool(np.isfinite(value).all())
        for value in outputs.values()
        if np.issubdtype(value.dtype, np.inexact)
    )


def same(first: Mapping[str, Array], last: Mapping[str, Array]) -> bool:
    """Whether outputs agree up to the order of float additions (threads may sum differently)."""
    if first.keys() != last.keys():
        return False
    return all(_close(value, np.asarray(last[name])) for name, value in first.items())


def _close(first: Array, last: Array) -> bool:
    if first.shape != last.shape or not np.issubdtype(first.dtype, np.inexact):
        return bool(np.array_equal(first, last))
    scale = float(np.max(np.abs(first), initial=0.0))
    return bool(np.allclose(first, last, rtol=1e-4, atol=1e-5 * scale, equal_nan=True))


def _import(runtime: str) -> None:
    try:
        importlib.import_module(runtime)
    except ImportError as error:
        package = runtime.partition(".")[0].replace("_", "-")
        raise BenchError(
            f"{sys.executable} cannot import the runtime: {error}",
            artifact=runtime,
            hint=f"{sys.executable} -m pip install {package}, or on another machine "
            "device.fetch=true",
        ) from error


def _preload(library: str) -> None:
    """Load ``package/path/pattern``, the library that the runtime's import would load, before it.

    Found beside the package without importing it; nothing there is nothing loaded, and the
    import pays for all.
    """
    package, _, pattern = library.partition("/")
    spec = importlib.util.find_spec(package) if package else None
    places = spec.submodule_search_locations if spec is not None else None
    for file in sorted(Path(places[0]).glob(pattern))[:1] if places else ():
        ctypes.CDLL(str(file))


def _steal(before: tuple[int, int] | None, after: tuple[int, int] | None) -> dict[str, int]:
    if before is None or after is None:
        return {}
    return {"steal": after[0] - before[0], "ticks": after[1] - before[1]}


def _surroundings() -> dict[str, Any]:
    clock = time.get_clock_info("perf_counter")
    return {
        **system_info.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "timer_resolution_ns": clock.resolution * 1e9,
        "torch_imported": "torch" in sys.modules,
    }


def main() -> None:
    """Serve commands from stdin until it ends.

    The frames get private descriptors first: native libraries print on descriptor 1, which
    points at stderr from here on.
    """
    reader = FrameReader(os.dup(0))
    out = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    runner = Runner()
    while True:
        try:
            command, arrays = reader.read()
        except EOFError:
            return
        except DeviceError as error:
            command, answer = {}, _failure(error)
        else:
            try:
                answer = encode(*runner.answer(command, arrays))
            except Exception as error:  # the boundary of the process: every failure is an answer
                answer = _failure(error)
        out.write(answer)
        out.flush()
        if command.get("cmd") == "stop":
            return


def _failure(error: Exception) -> bytes:
    return encode({"event": "error", "what": str(error), "type": type(error).__name__})


if __name__ == "__main__":
    main()
