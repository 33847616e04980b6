"""A candidate opened in a process of its own: a runtime that crashes takes only that along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from torchopt2edge.backends.session import FileSession
from torchopt2edge.bench.launch import launch
from torchopt2edge.errors import BenchError
from torchopt2edge.protocols import Device, Job
from torchopt2edge.types import Candidate, Facts

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Round:
    """What one round gave: nanoseconds per inference, and what happened around them.

    ``begin_ns`` is the device's monotonic clock at its begin; ``involuntary`` counts context
    switches against the process's will; ``steal`` of ``ticks`` is what a hypervisor took (0 of 0
    when unknown); ``joules`` what the whole processor used, None when it does not say;
    ``peak_bytes`` is VmHWM so far.
    """

    latency_ns: list[int]
    wall_ns: int
    cpu_ns: int
    involuntary: int
    stable: bool
    finite: bool
    peak_bytes: int
    begin_ns: int = 0
    joules: float | None = None
    steal: int = 0
    ticks: int = 0
    sensors: Facts = field(default_factory=dict)


class ChildSession:
    """A `protocols.Session` whose file is open in a child process; made by `open_child`.

    Every method raises `BenchError` when the child crashes, hangs or answers with an error.
    """

    def __init__(self, candidate: Candidate, job: Job, timeout_s: float) -> None:
        self._candidate = candidate
        self._job = job
        self._timeout_s = timeout_s
        self._ends = FileSession(candidate.signature, self._run)
        self.receipt: Facts = {}
        self.times: dict[str, float] = {}

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs' names, in order."""
        return self._ends.input_names

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs' names, in order."""
        return self._ends.output_names

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run on source arrays of any batch."""
        return self._ends(inputs)

    def _run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        return self._ask("called", {"cmd": "call"}, arrays)[1]

    def open(self, file: str, threads: int, library: str | None = None) -> None:
        """Open the file (paths are the device's); keep the receipt and what the start took.

        ``library`` is the runtime's, for a runner that loads it by its path. ``times`` holds
        ``library_ms``, ``import_ms`` and ``load_ms``, those that this runner has.
        """
        header: dict[str, Any] = {
            "cmd": "open",
            "backend": self._candidate.backend,
            "target": self._candidate.facts.get("target"),
            "options": self._candidate.facts.get("options", {}),
            "file": file,
            "signature": self._candidate.signature.to_json(),
            "threads": threads,
            "library": library,
        }
        event, _ = self._ask("opened", header)
        self.receipt = dict(event["receipt"])
        named = ("library_ms", "import_ms", "load_ms")
        self.times = {name: float(event[name]) for name in named if event.get(name) is not None}

    def load_timed(self, inputs: Mapping[str, Array]) -> float:
        """Hand over the timed sample, return the milliseconds of the first inference.

        Raises:
            BenchError: its outputs hold NaN or infinity.
        """
        event, _ = self._ask("loaded", {"cmd": "load"}, self._ends.prepare(inputs))
        if not event["finite"]:
            raise self._error("the outputs hold NaN or infinity")
        return float(event["first_ms"])

    def round(
        self, min_samples: int, seconds: float, max_samples: int, patience_s: float = 0.0
    ) -> Round:
        """Time one round; ``patience_s`` is how long it may take beyond the usual time-out.

        Raises:
            BenchError: its last outputs are not those of the first inference.
        """
        command = {
            "cmd": "round",
            "min_samples": min_samples,
            "seconds": seconds,
            "max_samples": max_samples,
        }
        event, _ = self._ask("round", command, patience_s=seconds + patience_s)
        event.pop("event")
        event["peak_bytes"] = event.pop("vm_hwm_bytes")
        found = Round(**event)
        if not found.finite:
            raise self._error("the outputs became NaN or infinity in the middle of the run")
        if not found.stable:
            raise self._error("the same input gave other outputs than in the first inference")
        return found

    def profile(self, runs: int) -> list[Facts]:
        """Return ``{name, type, ms}`` of every operator of the file (Python runner only)."""
        event, _ = self._ask("profiled", {"cmd": "profile", "runs": runs}, patience_s=60.0)
        return list(event["ops"])

    def sense(self) -> Facts:
        """Return one sample of the device's sensors."""
        event, _ = self._ask("sensed", {"cmd": "sense"})
        return dict(event["sensors"])

    def stop(self) -> int:
        """End the runner in peace and return its peak resident bytes (-1: unknown)."""
        event, _ = self._ask("stopped", {"cmd": "stop"})
        return int(event["vm_hwm_bytes"])

    def _ask(
        self,
        wanted: str,
        header: Mapping[str, Any],
        arrays: Mapping[str, Array] | None = None,
        patience_s: float = 0.0,
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        try:
            self._job.send(header, arrays, self._timeout_s)
            event, found = self._job.receive(self._timeout_s + patience_s)
        except BenchError as error:
            raise BenchError(error.what, artifact=self._candidate.id, mend=error.mend) from error
        if event.get("event") == "error":
            raise self._error(f"{event['type']}: {event['what']}")
        if event.get("event") != wanted:
            raise self._error(f"the runner answered {event.get('event')!r}, not {wanted!r}")
        return event, found

    def _error(self, what: str) -> BenchError:
        return BenchError(what, artifact=self._candidate.id)


@contextmanager
def open_child(
    candidate: Candidate, device: Device, log: Path, timeout_s: float = 120.0
) -> Iterator[ChildSession]:
    """Open a candidate in a fresh process on a device; leaving the block ends the process.

    ``timeout_s`` is the patience for each answer; stderr of the process goes to ``log``.

    Raises:
        BenchError: the child crashes, hangs or cannot open the file.
        DeviceError: the device cannot start it.
    """
    device = as_set(device, candidate)
    what = launch(candidate, device)
    job = device.start(what.argv, log)
    try:
        session = ChildSession(candidate, job, timeout_s)
        session.open(device.push(candidate.file), device.threads, what.library)
        yield session
    finally:
        job.close()


def as_set(device: Device, candidate: Candidate) -> Device:
    """Return the device with the threads and cores that the candidate is to run with."""
    setting = candidate.facts.get("setting")
    return replace(device, **setting) if setting else device  # type: ignore[type-var]
