"""What a child of ours writes, read with a bound on both of its pipes.

A client prints what a device answers, a runner what its runtime says: neither may fill this
machine's memory by an endless stdout, nor its disk by an endless stderr. Of stderr the end is kept,
of stdout nothing is lost: where more comes than anything of ours says, the child is ended.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from torchopt2edge.devices.answers import AnswerError
from torchopt2edge.errors import DeviceError

MOST = 1 << 24
"""Bytes of stdout that a client may print, unless its caller asks for more."""

MOST_SAID = 1 << 20
"""Bytes of stderr that are kept: the last ones."""

MOST_LOG = 1 << 23
"""Bytes that one job may add to its log."""

_CHUNK = 1 << 16


def start_piped(
    argv: Sequence[str], environment: Mapping[str, str], what: str, stdin: int = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, unbuffered, with both outputs on pipes.

    Args:
        argv: the program and its arguments.
        environment: all that the child sees of the environment.
        what: what an error calls the child.
        stdin: as `subprocess.Popen` takes it.

    Raises:
        DeviceError: it cannot be started.
    """
    try:
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        raise DeviceError(
            f"the {what} cannot be started: {error.strerror or error}", artifact=argv[0]
        ) from error


class Tail:
    """The last bytes of what was written."""

    def __init__(self, most: int = MOST_SAID) -> None:
        self._most = most
        self._kept = bytearray()

    def add(self, data: bytes) -> None:
        """Add what came."""
        self._kept += data
        if len(self._kept) > 2 * self._most:
            del self._kept[: -self._most]

    @property
    def kept(self) -> bytes:
        """The last of it."""
        return bytes(self._kept[-self._most :])


class Log:
    """A file that a job's words are appended to, up to a size; beyond that they are dropped."""

    def __init__(self, path: Path, most: int = MOST_LOG) -> None:
        self._path = path
        self._room = most

    def add(self, data: bytes) -> None:
        """Append what came; a log that cannot be kept is no reason to fail."""
        if not data or self._room <= 0:
            return
        kept, self._room = data[: self._room], self._room - len(data)
        end = b"\n[the log is full: what follows is left out]\n" if self._room <= 0 else b""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(kept + end)

    def last(self) -> str:
        """Return its end, "" where there is none."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _CHUNK))
                return file.read().decode(errors="replace")
        except OSError:
            return ""


def drain(pipe: IO[bytes], take: Callable[[bytes], None], most: int = MOST) -> bool:
    """Hand on what a pipe that does not block holds now; False once its other end is closed.

    At most ``most`` bytes are taken, so that one who writes without an end does not hold us.
    """
    while most > 0:
        try:
            got = os.read(pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return True
        if not got:
            return False
        take(got)
        most -= len(got)
    return True


def follow(pipe: IO[bytes], log: Log) -> threading.Thread:
    """Append what a pipe brings to a log, in a thread that ends with the pipe's other end."""

    def copy() -> None:
        with pipe:
            while got := os.read(pipe.fileno(), _CHUNK):
                log.add(got)

    thread = threading.Thread(target=copy, name="t2e-log", daemon=True)
    thread.start()
    return thread


class Pipes:
    """The pipes of a child that runs to its end: what it is told, and what it says."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes, most: int) -> None:
        self._process = process
        self._left = memoryview(stdin)
        self._most = most
        self._out = bytearray()
        self._said = Tail()
        self._open: dict[int, Callable[[], bool]] = {}
        for pipe, act in (
            (process.stdin, self._write),
            (process.stdout, self._read),
            (process.stderr, self._listen),
        ):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._open[pipe.fileno()] = act

    @property
    def stdout(self) -> bytes:
        """What it printed so far."""
        return bytes(self._out)

    @property
    def stderr(self) -> bytes:
        """The end of what it wrote to stderr."""
        return self._said.kept

    def wait(self, deadline: float) -> bool:
        """Carry on until the child ended; False when it has not by ``deadline`` (monotonic).

        What it started and left behind may hold the pipes open (ssh's master does): the child's
        own end counts, and not theirs.

        Raises:
            AnswerError: it prints more than anything of ours would.
        """
        ended = os.pidfd_open(self._process.pid)
        try:
            while (left := deadline - time.monotonic()) > 0:
                for fd in self._ready(ended, left):
                    if fd == ended:
                        self._finish()
                        return True
                    if not self._open[fd]():
                        del self._open[fd]
            return False
        finally:
            os.close(ended)

    def _ready(self, ended: int, left_s: float) -> list[int]:
        """Sleep until something can be done; the child's end comes last."""
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        for fd, act in self._open.items():
            poll.register(fd, select.POLLOUT if act == self._write else select.POLLIN)
        return sorted((fd for fd, _ in poll.poll(math.ceil(left_s * 1000))), key=ended.__eq__)

    def _finish(self) -> None:
        for pipe, act in ((self._process.stdout, self._read), (self._process.stderr, self._listen)):
            if pipe is not None and pipe.fileno() in self._open:
                act()

    def _write(self) -> bool:
        pipe = self._process.stdin
        if pipe is None:
            return False
        try:
            if self._left:
                self._left = self._left[os.write(pipe.fileno(), self._left[:_CHUNK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:  # it ended, or wants no more
            self._left = memoryview(b"")
        if not self._left:
            pipe.close()
        return bool(self._left)

    def _read(self) -> bool:
        pipe = self._process.stdout
        return pipe is not None and drain(pipe, self._take, self._most + _CHUNK)

    def _listen(self) -> bool:
        pipe = self._process.stderr
        return pipe is not None and drain(pipe, self._said.add, 1 << 20)

    def _take(self, data: bytes) -> None:
        self._out += data
        if len(self._out) > self._most:
            raise AnswerError(
                f"more than {self._most} bytes came, which no answer has",
                artifact=str(self._process.args[0] if isinstance(self._process.args, list) else ""),
            )
