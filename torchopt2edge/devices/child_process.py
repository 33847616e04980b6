"""A child process that we talk to in frames, and that never outlives its job."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from torchopt2edge.devices.frame_job import FrameJob, ended
from torchopt2edge.devices.output import drain, start_piped
from torchopt2edge.errors import BenchError, DeviceError
from torchopt2edge.runner.frames import wait_for

_GRACE_S = 2.0
_CHUNK = 1 << 20


class ProcessJob(FrameJob):
    """A child in its own session: one group to kill, no signal from our terminal.

    Any failure (it hangs, dies, or says nonsense) kills the whole group and raises `BenchError`
    with the signal's name and the last lines of its log. A parent that is killed itself leaves
    nothing either: the child ends at the end of its stdin.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise DeviceError("a job needs pipes on stdin, stdout and stderr")
        super().__init__(log)
        self._process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        for pipe in (self._stdin, self._stderr):
            os.set_blocking(pipe.fileno(), False)

    @classmethod
    def start(cls, argv: list[str], environment: Mapping[str, str], log: Path) -> ProcessJob:
        """Start ``argv``; what it writes to stderr is appended to ``log``, up to a size.

        Raises:
            DeviceError: the program cannot be started or the log cannot be written.
        """
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.open("ab").close()
        except OSError as error:
            raise DeviceError(
                f"the log cannot be written: {error.strerror or error}", artifact=log
            ) from error
        return cls(start_piped(argv, environment, "process"), log)

    @property
    def pid(self) -> int:
        """The child's process id, also that of its group."""
        return self._process.pid

    def _put(self, body: bytes, timeout_s: float) -> None:
        view, deadline = memoryview(body), time.monotonic() + timeout_s
        try:
            while view:
                self._wait(self._stdin.fileno(), select.POLLOUT, deadline)
                with contextlib.suppress(BlockingIOError):
                    view = view[os.write(self._stdin.fileno(), view[: 1 << 16]) :]
        except TimeoutError as error:
            raise self._hung(timeout_s) from error
        except BrokenPipeError as error:
            raise self._died() from error

    def _fetch(self, left_s: float) -> float:
        begin = time.monotonic()
        try:
            self._wait(self._stdout.fileno(), select.POLLIN, begin + left_s)
        except TimeoutError:
            return left_s
        got = os.read(self._stdout.fileno(), _CHUNK)
        if not got:
            raise self._died()
        self._frames.feed(got)
        return time.monotonic() - begin

    def _wait(self, fd: int, event: int, deadline: float) -> None:
        """Sleep until a pipe is ready; meanwhile the child's words go to its log.

        Raises:
            TimeoutError: ``deadline`` passed first.
        """
        poll = select.poll()
        poll.register(fd, event)
        poll.register(self._stderr.fileno(), select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            ready = {one for one, _ in poll.poll(math.ceil(left * 1000))}
            if self._stderr.fileno() in ready and not drain(self._stderr, self._log.add):
                poll.unregister(self._stderr.fileno())
            if fd in ready:
                return
        raise TimeoutError("the other end did not answer in time")

    def _stop(self) -> None:
        """Kill the whole group and wait for it; what it said last goes to the log."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        drain(self._stderr, self._log.add)
        self._stderr.close()
        kill_group(self._process)

    def _died(self) -> BenchError:
        """Say what the child died of; the exit status is settled once its pipe is closed."""
        self._wait_until_dead()
        self.close()
        return self._failed(f"the process {ended(self._process.returncode)}")

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
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    process.wait()
