"""What a page and its job leave for each other; any thread may call anything here.

Frames and answers are numbered from 1, so that a question that was lost on the way can be asked
again: browsers drop what is under way when the machine's network changes, on the loopback too.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
from pathlib import Path

from torchopt2edge.errors import BenchError

_NOTES = 1 << 20  # characters of a job's log that the page may fill


class Desk:
    """Frames to the page, answers from it, what it said, and whether it is still there.

    Who takes an answer's body holds ``receiving``: of two that come at once one is in memory.
    """

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)
        self.candidate: Path | None = None
        self.over = False
        self.arrived = threading.Event()
        self.gone: str | None = None
        self._commands: list[bytes] = []
        self._told = threading.Condition()
        self._answers: queue.Queue[bytes | None] = queue.Queue()
        self._answered = 0
        self._lock = threading.Lock()
        self.receiving = threading.Lock()
        self._log: Path | None = None
        self._room = _NOTES

    def keep_log(self, log: Path) -> None:
        """Write what the page says to the end of a file from now on."""
        self._log = log

    def command(self, frame: bytes) -> None:
        """Leave a frame for the page."""
        with self._told:
            self._commands.append(frame)
            self._told.notify_all()

    def next_command(self, number: int, timeout_s: float) -> bytes | None:
        """Return the frame of that number; None when it did not come in time, or none will."""
        with self._told:
            self._told.wait_for(lambda: self.over or len(self._commands) >= number, timeout_s)
            if self.over or not 0 < number <= len(self._commands):
                return None
            self._commands[: number - 1] = [b""] * (number - 1)  # the page has those
            return self._commands[number - 1]

    def expects(self, number: int) -> bool:
        """Whether the frame of that number was given, and is the next to be answered."""
        with self._lock, self._told:
            return number == self._answered + 1 <= len(self._commands)

    def answer(self, number: int, frame: bytes) -> None:
        """Leave the page's answer to the frame of that number, once."""
        if self.expects(number):
            with self._lock:
                self._answered = number
                self._answers.put(frame)

    def next_answer(self, timeout_s: float) -> bytes:
        """Return the page's next answer.

        Raises:
            TimeoutError: none came within ``timeout_s`` seconds.
            BenchError: the page is gone.
        """
        try:
            frame = self._answers.get(timeout=max(0.0, timeout_s))
        except queue.Empty as error:
            raise TimeoutError("no answer came") from error
        if frame is None:
            self._answers.put(None)
            raise BenchError(self.gone or "the page is gone")
        return frame

    def arrive(self) -> None:
        """The page is there."""
        self.arrived.set()

    def leave(self, why: str) -> None:
        """The page is gone: nobody waits for it any longer."""
        self.gone = self.gone or why
        self._answers.put(None)

    def close(self) -> None:
        """The job is over: the page is told so at its next question, and now if it asks already."""
        with self._told:
            self.over = True
            self._told.notify_all()

    def note(self, text: str) -> None:
        """Write something that the page said to the log, without what could steer a terminal."""
        shown = "".join(one if one.isprintable() or one == "\n" else " " for one in text)
        with self._lock:
            shown, room = shown[: self._room], self._room
            self._room = room - len(shown)
            if self._log is not None and shown:
                with contextlib.suppress(OSError), self._log.open("a") as file:
                    file.write(f"{shown}\n")
