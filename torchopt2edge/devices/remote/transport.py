"""What a remote device needs of the link to it: run a small script there, talk to one, copy a file.

A link tells "the script ended with 255" from "the link broke" by one line that every script
prints last (`wrap`); output without it is cut short, whatever the client's exit status says.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, TypeVar

from torchopt2edge.devices import answers, output
from torchopt2edge.errors import DeviceError

T = TypeVar("T")

LARGEST_PULLED = 1 << 28
"""Bytes of a file that may be copied from a device."""

_ENDED = re.compile(rb"\nt2e-ended (\d{1,3})\n\Z")
_CLIENTS = {
    "adb": "apt-get install adb, or the platform tools of the Android SDK, on the PATH",
    "ssh": "apt-get install openssh-client, or another ssh on the PATH",
}
_SLOWEST = 100_000  # bytes per second of the slowest link that we wait for
_DOUBT_S = 3.0  # after which a client that has not ended is asked about


class LinkDown(DeviceError):
    """The link broke, or is not there yet: the same command may go through later.

    ``absent`` tells that nobody answered at all, which at the first contact is a wrong address or
    a server that hangs.
    """

    def __init__(
        self, what: str, *, artifact: object = None, hint: str | None = None, absent: bool = False
    ) -> None:
        super().__init__(what, artifact=artifact, hint=hint)
        self.absent = absent


@dataclass(frozen=True)
class Finished:
    """How a script on the device ended, and what it said."""

    code: int
    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def said(self) -> str:
        """The last line of its stderr, as it can be shown."""
        lines = [line.strip() for line in self.stderr.splitlines()]
        return answers.shown(next((line for line in reversed(lines) if line), b""))


class Pipe(Protocol):
    """A script there that was opened: what it reads and what it writes; deadlines are monotonic."""

    @property
    def said(self) -> str:
        """What it wrote to stderr."""

    def write(self, data: bytes, deadline: float) -> None:
        """Write to its stdin.

        Raises:
            LinkDown: it is closed, or did not take it before ``deadline``.
        """

    def read(self, deadline: float) -> bytes:
        """Return what came of its stdout.

        Raises:
            TimeoutError: nothing came before ``deadline``.
            LinkDown: it is closed.
        """

    def close(self) -> None:
        """Give it up; the end of the link tells the script."""


class Transport(Protocol):
    """A link to one device."""

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Finished:
        """Run a POSIX sh script there; its words are the caller's to quote.

        Raises:
            LinkDown: the link broke before the script's end.
            AnswerError: it prints more than `output.MOST` bytes.
            DeviceError: the device refuses us.
        """

    def open(self, script: str) -> Pipe:
        """Start a POSIX sh script there that we talk to; whether it began shows in what it says.

        Raises:
            DeviceError: the link's client is not installed here.
        """

    def push(self, file: Path, to: str) -> None:
        """Copy a file to that path there; what arrived is the caller's to verify.

        Raises:
            LinkDown: the link broke before its end.
            DeviceError: the device refuses us, or cannot write it.
        """

    def pull(self, source: str, file: Path) -> None:
        """Copy a file from there.

        Raises:
            LinkDown: the link broke before its end.
            DeviceError: the device refuses us, or has no such file.
        """

    def recover(self) -> None:
        """Do what may help before the next attempt over a link that broke; never raises."""


class Machine(Protocol):
    """What a job needs of its device."""

    @property
    def name(self) -> str:
        """The word in the rows' ``device``."""

    @property
    def link(self) -> Transport:
        """The link to it."""

    @property
    def answers(self) -> bool:
        """Whether it did when it was last spoken to."""

    def run(
        self,
        script: str,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
        patience_s: float | None = None,
    ) -> Finished:
        """Run a script there, over a link that may break, for so long, meanwhile."""

    def retry(self, act: Callable[[], T], patience_s: float | None = None) -> T:
        """Do something over the link until it holds."""


def wrap(script: str) -> str:
    """Return the script with the line at its end that tells a whole answer from a cut one."""
    return f"(\n{script}\n)\nprintf '\\nt2e-ended %d\\n' $?"


def unwrap(found: Finished) -> Finished | None:
    """Return how a wrapped script ended; None when its output was cut short."""
    ended = _ENDED.search(found.stdout[-64:])
    if ended is None:
        return None
    return Finished(int(ended[1]), found.stdout[: -len(ended[0])], found.stderr)


def patience_for(size: int, least_s: float = 60.0) -> float:
    """Return the seconds that so many bytes may take, on the slowest link that we wait for."""
    return least_s + size / _SLOWEST


def call(
    argv: Sequence[str],
    stdin: bytes | IO[bytes] = b"",
    timeout_s: float = 60.0,
    environment: Mapping[str, str] | None = None,
    doubt: Callable[[str], None] | None = None,
    most: int = output.MOST,
) -> Finished:
    """Run a client here, shielded from our terminal's signals, and killed at its time limit.

    ``doubt`` is called with what the client said on stderr, once, where it has not ended after
    three seconds or at its limit; what it raises ends the client. ``most`` bytes may it print.

    Raises:
        LinkDown: it did not end in time.
        AnswerError: it printed more.
        DeviceError: there is no such program.
    """
    whole, deadline = stdin if isinstance(stdin, bytes) else None, time.monotonic() + timeout_s
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if isinstance(stdin, bytes) else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if environment is None else dict(environment),
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        raise unstarted(argv[0], error) from error
    with process:
        try:
            pipes = output.Pipes(process, whole or b"", most)
            if not pipes.wait(min(deadline, time.monotonic() + _DOUBT_S)):
                if doubt is not None:
                    doubt(answers.shown(pipes.stderr))
                if not pipes.wait(deadline):
                    raise LinkDown(f"{argv[0]} did not come to an end within {timeout_s:.0f} s")
        finally:
            process.kill()  # not its helpers: ssh's master serves the next command too
    return Finished(process.returncode, pipes.stdout, pipes.stderr)


def unstarted(client: str, error: OSError) -> DeviceError:
    """Return the error for a client that cannot be started here."""
    if isinstance(error, FileNotFoundError):
        return DeviceError(
            f"the program {client} is not installed here",
            hint=_CLIENTS.get(client, f"have {client} on the PATH"),
        )
    return DeviceError(f"{client} cannot be run: {error.strerror or error}")
