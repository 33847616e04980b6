"""How a job is asked, answers and ends, whatever runs it: the one place for all of them.

A job takes frames and gives frames (`frames`). Where they come from is a subclass's: a child's
pipes (`process`), a stream of a device (`job`), a page (`web.job`), a script of answers (`fake`).
"""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.devices.answers import clean
from torchopt2edge.devices.output import Log
from torchopt2edge.errors import BenchError, DeviceError
from torchopt2edge.runner.frames import FrameBuffer, encode

if TYPE_CHECKING:
    from typing import Self

    import numpy as np

    Array = np.ndarray[Any, Any]

_LAST_LINES = 6
_MOST_WORDS = 2000


class FrameJob(ABC):
    """A job; any failure ends it and raises `BenchError` with the last words of its log.

    A subclass offers ``_put`` (one frame's bytes go there), ``_fetch`` (bytes that come are fed to
    ``_frames``) and ``_stop`` (nothing of it is left).
    """

    who = "the process"
    """What does not answer, in an error."""

    def __init__(self, log: Path) -> None:
        self._log = Log(log)
        self._path = log
        self._frames = FrameBuffer()
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(
        self,
        header: Mapping[str, Any],
        arrays: Mapping[str, Array] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Send one frame.

        Raises:
            BenchError: the job is over, or did not take it within ``timeout_s`` seconds.
        """
        self._require_open()
        self._put(encode(header, arrays), timeout_s)

    def receive(self, timeout_s: float) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the next header and its arrays.

        Raises:
            BenchError: the job died, hung for ``timeout_s`` seconds, or sent no frame.
        """
        self._require_open()
        left = timeout_s
        while (found := self._next()) is None:
            if left <= 0.0:
                raise self._hung(timeout_s)
            left -= self._fetch(left)
        return found

    def close(self) -> None:
        """End the job and all that it started; harmless when called again."""
        if not self.closed:
            self.closed = True
            self._stop()

    @abstractmethod
    def _put(self, body: bytes, timeout_s: float) -> None:
        """Send one frame's bytes within so many seconds."""

    @abstractmethod
    def _fetch(self, left_s: float) -> float:
        """Feed what comes within so many seconds; return how many of them count as waited."""

    @abstractmethod
    def _stop(self) -> None:
        """End the process."""

    def _next(self) -> tuple[dict[str, Any], dict[str, Array]] | None:
        try:
            return self._frames.next()
        except (DeviceError, EOFError) as error:
            what = error.what if isinstance(error, DeviceError) else str(error)
            hint = error.hint if isinstance(error, DeviceError) else None
            raise self._failed(what, "", hint) from error

    def _require_open(self) -> None:
        if self.closed:
            raise self._failed(f"{self.who} was ended already", "")

    def _hung(self, timeout_s: float) -> BenchError:
        """Return the error of a job that did not answer in time, and end it."""
        self.close()
        return self._failed(f"{self.who} did not answer within {timeout_s:g} s and was killed")

    def _failed(self, what: str, words: str | None = None, hint: str | None = None) -> BenchError:
        """End the job, and say what happened and the last of its words (None: those of its log)."""
        self.close()
        said = last_words(self._log.last() if words is None else words)
        return BenchError(f"{clean(what, _MOST_WORDS)}{said}", artifact=self._path, hint=hint)


def last_words(text: str) -> str:
    """Return the last lines of what a process said as the end of an error's sentence, or ""."""
    lines = [line.strip() for line in _without_frames(text) if line.strip()]
    said = clean(" | ".join(lines[-_LAST_LINES:]), _MOST_WORDS)
    return f"; it last said: {said}" if said else ""


def _without_frames(text: str) -> Iterator[str]:
    """Walk the lines, of a Python traceback those that say what happened."""
    inside = False
    for line in text.splitlines():
        if line.startswith("Traceback (most recent call last)"):
            inside = True
        elif not inside or (line.strip() and not line[0].isspace()):
            inside = False
            yield line


def ended(code: int) -> str:
    """Return how a process ended, by its status; that of a signal is below 0."""
    return f"was killed by {signal_name(-code)}" if code < 0 else f"ended with status {code}"


def signal_name(number: int) -> str:
    """Return a signal's name, such as ``SIGKILL``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
