"""A candidate opened in a process of its own: a runtime that crashes takes only that along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from torchopt2edge.bench.zipapp import runner_file
from torchopt2edge.errors import BenchError
from torchopt2edge.protocols import Device, Job
from torchopt2edge.types import Candidate, Facts

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Round:
    """What one round gave: nanoseconds per inference, and what happened around them.

    ``involuntary`` counts context switches against the process's will; ``steal`` of ``ticks``
    is what a hypervisor took (0 of 0 when unknown); ``peak_bytes`` is VmHWM so far.
    """

    latency_ns: list[int]
    wall_ns: int
    cpu_ns: int
    involuntary: int
    stable: bool
    finite: bool
    peak_bytes: int
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
        self.receipt: Facts = {}
        self.import_ms = 0.0
        self.load_ms = 0.0

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs' names, in order."""
        return tuple(spec.name for spec in self._candidate.signature.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs' names, in order."""
        return tuple(spec.name for spec in self._candidate.signature.outputs)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run on source arrays of any batch."""
        _, arrays = self._ask("called", {"cmd": "call"}, inputs)
        return arrays

    def open(self, file: str, threads: int) -> None:
        """Open the file (a path on the device) and keep the receipt."""
        header: dict[str, Any] = {
            "cmd": "open",
            "backend": self._candidate.backend,
            "target": self._candidate.facts.get("target"),
            "options": self._candidate.facts.get("options", {}),
            "file": file,
            "signature": self._candidate.signature.to_json(),
            "threads": threads,
        }
        event, _ = self._ask("opened", header)
        self.receipt = dict(event["receipt"])
        self.import_ms, self.load_ms = float(event["import_ms"]), float(event["load_ms"])

    def load_timed(self, inputs: Mapping[str, Array]) -> float:
        """Prepare the timed sample and return the milliseconds of the first inference.

        Raises:
            BenchError: its outputs hold NaN or infinity.
        """
        event, _ = self._ask("loaded", {"cmd": "load"}, inputs)
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
    runner = device.push(runner_file())
    # -P: nothing from the working directory is importable; the zip itself comes first.
    job = device.start([device.python, "-P", runner], log)
    try:
        session = ChildSession(candidate, job, timeout_s)
        session.open(device.push(candidate.file), device.threads)
        yield session
    finally:
        job.close()
