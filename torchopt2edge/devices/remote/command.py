"""A plain program on a device, run to its end: a runtime's own benchmark tool.

``native_tools`` of a device maps a backend to such a program: a path on this machine, from where
it is brought there, or ``device:PROGRAM`` for one that the device has (an absolute path, or a name
on its PATH). A tool that loads libraries from its own folder must be there already.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torchopt2edge.devices import core_classes
from torchopt2edge.devices.output import MOST, Pipes, start_piped
from torchopt2edge.devices.remote.transport import Finished
from torchopt2edge.errors import DeviceError

THERE = "device:"
"""What a program begins with that lies on the device."""

KILLED = 137
"""The exit status of a program that was killed, by its time limit or for want of memory."""

_BACKENDS = ("ort", "litert")
_POOLS = ("OMP", "MKL", "OPENBLAS", "BLIS", "NUMEXPR", "VECLIB")
_KEPT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TZ", "USER")


def check(runner: str, tools: Mapping[str, str | None]) -> None:
    """Refuse what cannot run a candidate, or be a runtime's tool, before anything is measured.

    Raises:
        DeviceError: there is no such runner, no tool of that backend is known, or there is no
            such program here.
    """
    if runner not in ("python", "native"):
        raise DeviceError(f"there is no runner {runner!r}", hint="device.runner=python or native")
    for backend, place in tools.items():
        if backend not in _BACKENDS:
            raise DeviceError(
                f"no benchmark tool of the backend {backend!r} is known",
                hint=" or ".join(f"device.native_tools.{one}=PATH" for one in _BACKENDS),
            )
        if place is None:
            continue
        named = place.removeprefix(THERE)
        if place.startswith(THERE):
            if not named or ("/" in named and not named.startswith("/")):
                raise DeviceError(
                    f"{place!r} names no program on the device",
                    hint=f"device.native_tools.{backend}=device:/PATH, or device:NAME on its PATH",
                )
        elif not os.access(file := Path(place).expanduser(), os.X_OK) or not file.is_file():
            raise DeviceError(
                "there is no such program here, or it may not be executed",
                artifact=place,
                hint=f"chmod +x it, or device.native_tools.{backend}=device:PATH where the device "
                "has it already",
            )


def run_here(
    argv: Sequence[str],
    environment: Mapping[str, str],
    affinity: Sequence[int] | None,
    timeout_s: float,
) -> Finished:
    """Run a program on this machine, without input, on those cores (None: the system's choice).

    All that it started is killed at its end, at its time limit (status `KILLED`), and when we are
    interrupted.

    Raises:
        AnswerError: it prints without an end.
        DeviceError: it cannot be started.
    """
    with _start(argv, environment, affinity) as process:
        pipes = Pipes(process, b"", MOST)
        try:
            pipes.wait(time.monotonic() + timeout_s)
        finally:
            # Before it is reaped: until then its number, that of its group, is nobody else's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
    return Finished(128 - code if code < 0 else code, pipes.stdout, pipes.stderr)


def environment(threads: int) -> str:
    """Return the whole environment of a child on a device, as quoted words for ``env``."""
    kept = [f'${{{name}:+"{name}=${name}"}}' for name in _KEPT]
    pools = [f"{name}_NUM_THREADS={threads}" for name in _POOLS]
    ours = ["ORT_DISABLE_TELEMETRY=1", "PYTHONHASHSEED=0", "PYTHONUTF8=1", "PYTHONSAFEPATH=1"]
    return " ".join([*kept, *pools, *ours, '"TMPDIR=$PWD/tmp"'])


def script(
    argv: Sequence[str],
    environment: str,
    affinity: Sequence[int] | None,
    folder: str,
    timeout_s: float,
) -> str:
    """Return the script that does the same on a device, in ``folder`` there.

    ``environment`` is words for ``env``, quoted already. Where the device has no ``timeout``, the
    program ends when it ends.
    """
    words = shlex.join([*core_classes.pin(affinity), *argv])
    return f"""cd {shlex.quote(folder)} || exit 1
set --
if command -v timeout >/dev/null; then set -- timeout -s KILL {math.ceil(timeout_s)}; fi
exec env -i {environment} "TMPDIR=$PWD" "$@" {words} </dev/null"""


def _start(
    argv: Sequence[str],
    environment: Mapping[str, str],
    affinity: Sequence[int] | None,
) -> subprocess.Popen[bytes]:
    with _pinned(affinity):
        return start_piped(argv, environment, "program", subprocess.DEVNULL)


@contextlib.contextmanager
def _pinned(affinity: Sequence[int] | None) -> Iterator[None]:
    """Keep this thread on those cores: a child begins where its parent is, its threads too."""
    if affinity is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, affinity)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
