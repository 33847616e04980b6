"""A child process that we talk to in frames, and that never outlives its job."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.errors import BenchError, DeviceError
from torchopt2edge.runner.frames import FrameReader, encode, wait_for

if TYPE_CHECKING:
    from typing import Self

    import numpy as np

_GRACE_S = 2.0
_LAST_LINES = 6


class LoggedJob:
    """What jobs of every kind share: a block that ends them, and errors with their last words."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and all that it started; harmless when called again."""
        raise NotImplementedError

    def _require_open(self) -> None:
        if self.closed:
            raise self._failed("the process was ended already", "")

    def _hung(self, timeout_s: float) -> BenchError:
        """End a job that did not answer in time, and say so."""
        self.close()
        return self._failed(f"the process did not answer within {timeout_s:g} s and was killed")

    def _failed(self, what: str, words: str | None = None, hint: str | None = None) -> BenchError:
        """Say what happened, and the last of its words: those of its log where none are given."""
        if words is None:
            with contextlib.suppress(OSError):
                words = self._log.read_text(errors="replace")
        return BenchError(f"{what}{last_words(words or '')}", artifact=self._log, hint=hint)


class ProcessJob(LoggedJob):
    """A child in its own session: one group to kill, no signal from our terminal.

    Any failure (it hangs, dies, or says nonsense) kills the whole group and raises `BenchError`
    with the signal's name and the last lines of its log. A parent that is killed itself leaves
    nothing either: the child ends at the end of its stdin.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        if process.stdin is None or process.stdout is None:
            raise DeviceError("a job needs pipes on stdin and stdout")
        super().__init__(log)
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._reader = FrameReader(process.stdout.fileno())
        os.set_blocking(process.stdin.fileno(), False)  # a stopped child must not stop us

    @classmethod
    def start(cls, argv: list[str], environment: Mapping[str, str], log: Path) -> ProcessJob:
        """Start ``argv``; stderr is appended to ``log``.

        Raises:
            DeviceError: the program cannot be started or the log cannot be written.
        """
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    env=dict(environment),
                    start_new_session=True,
                    bufsize=0,
                )
        except OSError as error:
            raise DeviceError(
                f"the process cannot be started: {error.strerror or error}", artifact=argv[0]
            ) from error
        return cls(process, log)

    @property
    def pid(self) -> int:
        """The child's process id, also that of its group."""
        return self._process.pid

    def send(
        self,
        header: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray[Any, Any]] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Send one frame.

        Raises:
            BenchError: the child is dead, or did not take it within ``timeout_s`` seconds.
        """
        self._require_open()
        try:
            write_all(self._stdin.fileno(), encode(header, arrays), time.monotonic() + timeout_s)
        except TimeoutError as error:
            raise self._hung(timeout_s) from error
        except BrokenPipeError as error:
            raise self._died() from error

    def receive(self, timeout_s: float) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        """Return the next header and its arrays.

        Raises:
            BenchError: the child died, hung for ``timeout_s`` seconds, or sent no frame.
        """
        self._require_open()
        try:
            return self._reader.read(timeout_s)
        except TimeoutError as error:
            raise self._hung(timeout_s) from error
        except EOFError as error:
            raise self._died() from error
        except DeviceError as error:
            self.close()
            raise self._failed(error.what, "") from error

    def close(self) -> None:
        """Kill the whole group and wait for it; harmless when called again."""
        if self.closed:
            return
        self.closed = True
        kill_group(self._process)

    def _died(self) -> BenchError:
        """Say what the child died of; the exit status is settled once its pipe is closed."""
        self._wait_until_dead()
        self.close()
        code = self._process.returncode
        how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with status {code}"
        return self._failed(f"the process {how}")

    def _wait_until_dead(self) -> None:
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.01)


def write_all(fd: int, data: bytes, deadline: float) -> None:
    """Write to a pipe that does not block, until ``deadline`` (of ``time.monotonic``).

    Raises:
        TimeoutError: the other end did not take it in time.
        BrokenPipeError: there is no other end.
    """
    view = memoryview(data)
    while view:
        wait_for(fd, select.POLLOUT, deadline)
        with contextlib.suppress(BlockingIOError):
            view = view[os.write(fd, view[: 1 << 16]) :]


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a child that leads a group with all of it, close its pipes and wait for it."""
    # Before the wait: a child that is not reaped yet keeps its group's number from reuse.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()


def last_words(text: str) -> str:
    """Return the last lines of what a process said as the end of an error's sentence, or ""."""
    lines = [line.strip() for line in _without_frames(text) if line.strip()]
    return "; it last said: " + " | ".join(lines[-_LAST_LINES:]) if lines else ""


def _without_frames(text: str) -> Iterator[str]:
    """Walk the lines, of a Python traceback those that say what happened."""
    inside = False
    for line in text.splitlines():
        if line.startswith("Traceback (most recent call last)"):
            inside = True
        elif not inside or (line.strip() and not line[0].isspace()):
            inside = False
            yield line


def signal_name(number: int) -> str:
    """Return a signal's name, such as ``SIGKILL``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
