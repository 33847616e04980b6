"""A device that is nowhere: it answers the runner's frames itself, as a script of facts says.

For tests of what stands above the seam: a comparison on it takes milliseconds, and gives the
same rows every time. Nothing is executed: the outputs are zeros of the signature's shapes, or
what ``outputs`` makes.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.devices.frame_job import FrameJob
from torchopt2edge.runner.frames import encode
from torchopt2edge.types import Facts

if TYPE_CHECKING:
    import numpy as np

    Arrays = dict[str, np.ndarray[Any, Any]]
    Outputs = Callable[[str, Mapping[str, np.ndarray[Any, Any]]], Arrays]

Answer = tuple[dict[str, Any], "Arrays"]


@dataclass
class Clock:
    """The time of a fake device, in nanoseconds; all of its jobs share it.

    ``steady`` says when it was made steady (True) and left alone again, ``moments`` is what its
    watch saw.
    """

    ns: int = 0
    steady: list[bool] = field(default_factory=list)
    moments: list[tuple[float, Facts]] = field(default_factory=list)


@dataclass(frozen=True)
class Fake:
    """A device by script; file names are those of the candidates' files.

    Attributes:
        latency_ms: file name → latencies of its inferences, repeated for ever; ``*`` is any other.
        temperatures_c: one per round, the last one stays; none is a device without a sensor.
        faults: file name → {number of the command: what}; ``die`` and ``hang`` end the job,
            ``slow`` is a link that was gone for a while, anything else is the runner's error.
        outputs: (file name, inputs in the file's names) → outputs.
        machine: facts that replace those of the fake machine.
        seen: what its watch sees (`interfaces.Steady`), one per round, the last one stays; none is
            a device that cannot be kept steady.
    """

    threads: int = 1
    affinity: tuple[int, ...] | None = None
    runner: str = "python"
    latency_ms: Mapping[str, Sequence[float]] = field(default_factory=lambda: {"*": (1.0,)})
    temperatures_c: Sequence[float] = ()
    faults: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    outputs: Outputs | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock, compare=False)
    cores: str | None = None
    seen: Sequence[Mapping[str, Any]] = ()

    @property
    def name(self) -> str:
        """The word in the rows' ``device``."""
        return "fake"

    @property
    def python(self) -> str:
        """An interpreter that is never started."""
        return "python3"

    def facts(self) -> Facts:
        """Say what the machine would be."""
        found: Facts = {
            "cpu": "fake",
            "cpu_flags": [],
            "arch": "fake",
            "cores": 4,
            "memory_gb": 1.0,
            "os": "fake",
            "kernel": "fake",
            "governor": "performance",
            "clocksource": "fake",
            "emulated": False,
            "load": 0.0,
            "steal": 0.0,
            "device_threads": self.threads,
            "device_affinity": None if self.affinity is None else list(self.affinity),
            "device_cores": self.cores,
        }
        return {**found, **self.machine}

    def push(self, file: Path) -> str:
        """Return the file's own path: nothing is brought anywhere."""
        return str(file)

    def start(self, argv: Sequence[str], log: Path) -> FakeJob:
        """Start to answer."""
        return FakeJob(self, log)

    @contextlib.contextmanager
    def steady(self) -> Iterator[FakeWatch | None]:
        """Note in the clock that it is kept steady, and that this ended."""
        self.clock.steady.append(True)
        self.clock.moments[:] = [(time.monotonic(), dict(one)) for one in self.seen[:1]]
        try:
            yield FakeWatch(self.clock) if self.seen else None
        finally:
            self.clock.steady.append(False)

    def sensors(self, rounds: int) -> Facts:
        """Return what the sensors show after that many rounds."""
        shown = self.temperatures_c
        now = shown[min(rounds, len(shown) - 1)] if shown else "unavailable"
        return {"temperature_c": now, "clock_mhz": "unavailable", "capped": "unavailable"}


@dataclass(frozen=True)
class FakeWatch:
    """What a `Fake` shows while it is kept steady."""

    clock: Clock

    def facts(self) -> Facts:
        """Say what was set."""
        return {"steady": {"stay_on": "yes"}}

    def sense(self) -> Facts:
        """Return what was seen last."""
        return dict(self.clock.moments[-1][1])

    def moments(self) -> list[tuple[float, Facts]]:
        """Return all that was seen."""
        return list(self.clock.moments)


class FakeJob(FrameJob):
    """A job of a `Fake`: answers each frame by the script."""

    def __init__(self, device: Fake, log: Path) -> None:
        super().__init__(log)
        self._device = device
        self._file = ""
        self._signature: Mapping[str, Any] = {}
        self._latencies: Iterator[float] = itertools.repeat(1.0)
        self._commands = itertools.count()
        self._rounds = 0
        self._dead = False

    def _put(self, body: bytes, timeout_s: float) -> None:
        raise AssertionError("a fake job takes headers, no bytes: `send`")

    def send(
        self,
        header: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray[Any, Any]] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Take a frame and keep its answer.

        Raises:
            BenchError: the job is over.
        """
        self._require_open()
        if header["cmd"] == "open":
            self._open(header)
        fault = self._device.faults.get(self._file, {}).get(next(self._commands))
        if fault == "slow":
            time.sleep(0.05)
        elif fault == "hang":
            return
        elif fault == "die":
            self._dead = True
            return
        elif fault is not None:
            error = {"event": "error", "type": "FakeError", "what": fault}
            self._frames.feed(encode(error))
            return
        self._frames.feed(encode(*self._answer(header, arrays or {})))

    def _fetch(self, left_s: float) -> float:
        """Let the time pass at once: nothing comes that is not there."""
        if self._dead:
            raise self._failed("the process was killed by SIGKILL")
        return left_s

    def _stop(self) -> None:
        """Answer no more."""

    def _open(self, header: Mapping[str, Any]) -> None:
        self._file = Path(header["file"]).name
        self._signature = header["signature"]
        script = self._device.latency_ms
        self._latencies = itertools.cycle(script.get(self._file, script.get("*", (1.0,))))

    def _answer(
        self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]]
    ) -> Answer:
        command = header["cmd"]
        if command == "open":
            receipt = {**self._device.facts(), "runner": self._device.runner, "runtime": "fake"}
            receipt |= {"threads": header["threads"], "spinning": False, "torch_imported": False}
            times = {"library_ms": 1.0, "import_ms": 1.0, "load_ms": 1.0}
            return {"event": "opened", **times, "receipt": receipt}, {}
        if command == "call":
            return {"event": "called"}, self._outputs(arrays)
        if command == "load":
            return {"event": "loaded", "first_ms": next(self._latencies), "finite": True}, {}
        if command == "round":
            return self._round(header), {}
        if command == "sense":
            return {"event": "sensed", "sensors": self._device.sensors(self._rounds)}, {}
        if command == "profile":
            return {"event": "profiled", "ops": []}, {}
        return {"event": "stopped", "vm_hwm_bytes": 1 << 24}, {}

    def _round(self, header: Mapping[str, Any]) -> dict[str, Any]:
        clock, budget = self._device.clock, header["seconds"] * 1e9
        samples: list[int] = []
        begin = clock.ns
        while len(samples) < header["max_samples"]:
            samples.append(round(next(self._latencies) * 1e6))
            clock.ns += samples[-1]
            if len(samples) >= header["min_samples"] and clock.ns - begin >= budget:
                break
        self._rounds += 1
        if seen := self._device.seen:
            now = dict(seen[min(self._rounds, len(seen) - 1)])
            clock.moments.append((time.monotonic(), now))
        return {
            "event": "round",
            "latency_ns": samples,
            "begin_ns": begin,
            "wall_ns": clock.ns - begin,
            "cpu_ns": clock.ns - begin,
            "involuntary": 0,
            "stable": True,
            "finite": True,
            "joules": None,
            "vm_hwm_bytes": 1 << 24,
            "sensors": self._device.sensors(self._rounds),
        }

    def _outputs(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        if self._device.outputs is not None:
            return self._device.outputs(self._file, arrays)
        import numpy as np

        batch = next((len(value) for value in arrays.values()), 1)
        return {
            spec["file_name"]: np.zeros(_shape(spec, batch), spec["file_dtype"])
            for spec in self._signature["outputs"]
        }


def _shape(spec: Mapping[str, Any], batch: int) -> tuple[int, ...]:
    """Return the shape of an output as the file has it, of so many samples."""
    shape = [batch if at == 0 else abs(int(n)) for at, n in enumerate(spec["shape"])]
    order = spec.get("perm")
    return tuple(shape[at] for at in order) if order else tuple(shape)
