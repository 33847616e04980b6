"""This machine as a device: a fresh, clean process per job, and no orphan after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torchopt2edge.devices import core_classes as core
from torchopt2edge.devices.child_process import ProcessJob
from torchopt2edge.devices.remote import command as remote_command
from torchopt2edge.devices.remote.transport import Finished
from torchopt2edge.errors import DeviceError
from torchopt2edge.runner import system_info
from torchopt2edge.types import Facts

# What a child may see of our environment: enough to find libraries and write temporary files,
# nothing that steers a runtime (LD_PRELOAD, OMP_*, KMP_*, ORT_*, PYTHONPATH …).
_KEPT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "USER")
_POOLS = ("OMP", "MKL", "OPENBLAS", "BLIS", "NUMEXPR", "VECLIB")


@dataclass(frozen=True)
class Local:
    """This machine; ``threads`` per session, on the cores in ``affinity`` (None: the system's).

    ``cores`` in its place is a class of cores (`core_classes.NAMES`): all that are of it.
    ``runner`` is ``python``, or ``native``: the C program, in which memory and start-up are the
    runtime's alone. ``native_tools`` are the runtimes' own benchmark tools (`remote.command`).

    Raises (when used, not when built):
        DeviceError: ``threads`` is below 1, this machine has not those cores, or there is no
            such runner.
    """

    threads: int = 1
    affinity: tuple[int, ...] | None = None
    runner: str = "python"
    native_tools: Mapping[str, str | None] = field(default_factory=dict, hash=False)
    cores: str | None = None

    @property
    def name(self) -> str:
        """The word in the rows' ``device``."""
        return "local"

    @property
    def python(self) -> str:
        """The interpreter that runs the runner: the one that runs us."""
        return sys.executable

    def facts(self) -> Facts:
        """Say what this machine is and how busy it is now."""
        self._check()
        affinity = None if self.affinity is None else list(self.affinity)
        return {
            **system_info.machine(),
            "core_classes": _classes(),
            "device_threads": self.threads,
            "device_affinity": affinity,
            "device_cores": self.cores,
        }

    @property
    def pinned(self) -> tuple[int, ...] | None:
        """The cores that a job is kept on; None: the system's choice."""
        if self.cores is None:
            return self.affinity
        return core.choose(_classes(), self.cores, self.name)

    def push(self, file: Path) -> str:
        """Return the file's own path: it is here already."""
        return str(file.resolve())

    def start(self, argv: Sequence[str], log: Path) -> ProcessJob:
        """Start a process in its own session, with a clean environment; stderr goes to ``log``."""
        self._check()
        pinned = self.pinned
        job = ProcessJob.start(list(argv), self.environment(), log)
        if pinned is not None:
            # Set from here, before the first frame: the runtime makes its threads after that,
            # and a preexec_fn is not safe in a parent with threads.
            try:
                os.sched_setaffinity(job.pid, pinned)
            except OSError as error:
                job.close()
                raise DeviceError("the child cannot be pinned to its cores") from error
        return job

    def execute(self, argv: Sequence[str], timeout_s: float) -> Finished:
        """Run a plain program to its end, or to its time limit, with the same environment."""
        self._check()
        return remote_command.run_here(argv, self.environment(), self.pinned, timeout_s)

    def environment(self) -> dict[str, str]:
        """Return the whole environment of a child."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        pools = {f"{name}_NUM_THREADS": str(self.threads) for name in _POOLS}
        quiet = {"ORT_DISABLE_TELEMETRY": "1"}  # ONNX Runtime's wheel reports every start otherwise
        return {**kept, **pools, **quiet, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}

    def _check(self) -> None:
        remote_command.check(self.runner, self.native_tools)
        core.check(self.threads, self.cores, self.affinity, self.name)
        core.check_ours(self.affinity)


def _classes() -> list[core.Class]:
    """Return the classes of those cores that we may use."""
    ours = os.sched_getaffinity(0)
    found = [{**one, "cores": [at for at in one["cores"] if at in ours]} for one in core.classes()]
    return [one for one in found if one["cores"]]
