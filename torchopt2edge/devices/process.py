"""A child process that we talk to in frames, and that never outlives its job."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.errors import BenchError, DeviceError
from torchopt2edge.frames import FrameReader, encode, wait_for

if TYPE_CHECKING:
    import numpy as np

_GRACE_S = 2.0
_LAST_LINES = 6


class ProcessJob:
    """A child in its own session: one group to kill, no signal from our terminal.

    Any failure (it hangs, dies, or says nonsense) kills the whole group and raises `BenchError`
    with the signal's name and the last lines of its log. A parent that is killed itself leaves
    nothing either: the child ends at the end of its stdin.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        if process.stdin is None or process.stdout is None:
            raise DeviceError("a job needs pipes on stdin and stdout")
        self._process = process
        self._log = log
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._reader = FrameReader(process.stdout.fileno())
        self._closed = False
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

    def __enter__(self) -> ProcessJob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        view = memoryview(encode(header, arrays))
        deadline = time.monotonic() + timeout_s
        fd = self._stdin.fileno()
        try:
            while view:
                wait_for(fd, select.POLLOUT, deadline)
                with contextlib.suppress(BlockingIOError):
                    view = view[os.write(fd, view[: 1 << 16]) :]
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
            raise BenchError(error.what, artifact=self._log) from error

    def close(self) -> None:
        """Kill the whole group and wait for it; harmless when called again."""
        if self._closed:
            return
        self._closed = True
        # Before the wait: a child that is not reaped yet keeps its group's number from reuse.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._stdin.close()
        self._stdout.close()
        self._process.wait()

    def _require_open(self) -> None:
        if self._closed:
            raise BenchError("the process was ended already", artifact=self._log)

    def _hung(self, timeout_s: float) -> BenchError:
        self.close()
        return BenchError(
            f"the process did not answer within {timeout_s:g} s and was killed{self._last_words()}",
            artifact=self._log,
        )

    def _died(self) -> BenchError:
        """Say what the child died of; the exit status is settled once its pipe is closed."""
        self._wait_until_dead()
        self.close()
        code = self._process.returncode
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with status {code}"
        return BenchError(f"the process {how}{self._last_words()}", artifact=self._log)

    def _wait_until_dead(self) -> None:
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.01)

    def _last_words(self) -> str:
        try:
            text = self._log.read_text(errors="replace")
        except OSError:
            return ""
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        return "; it last said: " + " | ".join(lines[-_LAST_LINES:]) if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
