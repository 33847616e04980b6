"""The host's end of a job's channel: opened when it is needed, and again where the link cut it."""

from __future__ import annotations

import contextlib
import time
import uuid

from torchopt2edge.devices.remote import job_scripts
from torchopt2edge.devices.remote.stream import SMALL, Event, Stream, line, script
from torchopt2edge.devices.remote.transport import Finished, LinkDown, Machine, Pipe, patience_for

_ROUND_TRIP_S = 20.0
_FAREWELL_S = 5.0
_SHORTEST_SILENCE_S = 5.0
_MOST_VAIN = 3  # openings, and channels cut at once, in a row; then it is done without
_AT_ONCE_S = 1.0


class Talk:
    """The host's end of a job's channel, which it opens when it needs it, and again after a cut.

    Without a byte from there for four ticks it is cut; a sixth of the job's patience without
    a word from here, and one is sent.
    """

    def __init__(self, device: Machine, folder: str, patience_s: float) -> None:
        self._device = device
        self._folder = folder
        self._silence_s = max(4.0 * job_scripts.limits(patience_s)[0], _SHORTEST_SILENCE_S)
        self._beat_s = patience_s / 6
        self._channel: Pipe | None = None
        self._stream = Stream()
        self._frame: tuple[int, bytes] | None = None
        self._taken = 0
        self._raw = False
        self._vain = 0
        self._ended: Event | None = None
        self._before = ""
        self._opened = self._heard = self._spoke = 0.0

    def start(self, before: str) -> Finished | None:
        """Start the job by a script that may run twice; return how it ended, 0 when it goes on.

        None: no channel can be had; the script has run, or has not.

        Raises:
            LinkDown: the link did not come back.
            DeviceError: the device refuses us.
        """
        self._before = before
        if not self._device.retry(lambda: self._open(0)):
            return None
        self._before = ""
        if self._ended is None or self._channel is None:
            return Finished(0)
        deadline = time.monotonic() + _FAREWELL_S
        with contextlib.suppress(LinkDown, TimeoutError):
            while True:  # to its end, for what it says on stderr may come last
                self._read(deadline)
        found = Finished(int(self._ended.words[0]), stderr=self._channel.said.encode())
        self.close()
        return found

    def finish(self) -> bytes | None:
        """End the job over its channel; return its log's end, None where that did not succeed."""
        log, deadline = b"", time.monotonic() + _FAREWELL_S
        try:
            if self._channel is not None and self._ended is None:
                self._channel.write(b"-1 0 end\n", deadline)
            while self._channel is not None and self._ended is None:
                event = self._stream.next()
                if event is None:
                    self._read(deadline)
                elif event.kind == "log":
                    log += event.body
                elif event.kind == "ended":
                    return log if event.words[0] == "0" else None
        except (LinkDown, TimeoutError):
            pass
        finally:
            self.close()
        return None

    def exchange(
        self, frame: tuple[int, bytes] | None, offset: int, wait_s: float
    ) -> Finished | None:
        """Bring a frame (its number and bytes), and return how the wait for answers ended.

        Code 0 brings bytes of the runner's answers, beyond ``offset`` of them;
        `job_scripts.WAITING` is that the device had none ``wait_s`` seconds later; the others are
        those of `job_scripts.ask`. None: this cannot be had here, or not for this frame; nothing
        was done.

        Raises:
            LinkDown: the link did not come back.
            DeviceError: the device refuses us.
        """
        self._frame = frame or self._frame
        self._heard = time.monotonic()
        left = wait_s
        while True:
            if self._vain >= _MOST_VAIN:
                return None
            if self._channel is None:
                if not self._device.retry(lambda: self._open(offset)):
                    return None
                self._heard = time.monotonic()
            if self._frame is not None and not self._fits(self._frame):
                self.close()
                return None
            deadline = self._heard + left
            try:
                return self._listen(deadline)
            except LinkDown:
                left = max(0.0, deadline - self._heard)  # what was silence does not count
                brief = time.monotonic() - self._opened < _AT_ONCE_S
                self._vain = self._vain + 1 if brief else 0
                self.close()

    def close(self) -> None:
        """End the channel; harmless when called again."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _fits(self, frame: tuple[int, bytes]) -> bool:
        number, body = frame
        return number <= self._taken or self._raw or len(body) <= SMALL

    def _open(self, offset: int) -> bool:
        """Open the channel and wait for its first line; False when there is none to be had."""
        channel = self._device.link.open(script(self._folder, _word(), offset, self._before))
        if channel is None:
            self._vain = _MOST_VAIN
            return False
        self._channel, self._stream, self._ended = channel, Stream(), None
        self._opened = self._spoke = time.monotonic()
        try:
            first = self._first(self._spoke + _ROUND_TRIP_S)
        except (LinkDown, TimeoutError) as error:
            self.close()
            # Where the link is down, a command says better why.
            self._device.link.run(":", timeout_s=_ROUND_TRIP_S)
            self._vain += 1
            if self._vain >= _MOST_VAIN:
                return False
            raise LinkDown(f"{self._device.name} opened no channel: {error}") from error
        if first.kind == "open":
            taken, raw = first.words
            self._taken, self._raw = int(taken), raw == "1"
        elif int(first.words[0]) == job_scripts.NO_CHANNEL:
            self._vain = _MOST_VAIN
            self.close()
            return False
        else:
            self._ended = first
        return True

    def _first(self, deadline: float) -> Event:
        """Return the channel's first line: that it is open, or that it ended."""
        while True:
            event = self._stream.next()
            if event is None:
                self._read(deadline)
            elif event.kind in ("open", "ended") and len(event.words) == 2:
                return event

    def _listen(self, deadline: float) -> Finished:
        """Bring the frame, unless it is there, and wait for what comes of it."""
        self._deliver()
        asked, log = "", b""
        while True:
            event, self._ended = self._ended or self._stream.next(), None
            if event is None:
                if not asked and time.monotonic() >= deadline:
                    asked = self._speak()
                elif time.monotonic() >= self._spoke + self._beat_s:
                    self._speak()
                ends = [self._heard + self._silence_s, self._spoke + self._beat_s]
                with contextlib.suppress(TimeoutError):
                    self._read(min(ends if asked else [*ends, deadline]))
                if time.monotonic() >= self._heard + self._silence_s:
                    raise LinkDown(f"nothing was heard for {self._silence_s:.0f} s")
                continue
            if event.kind == "piece":
                self._vain = 0
                return Finished(0, event.body)
            if event.kind == "log":
                log += event.body
            elif event.kind == "ended":
                self._ended = event  # whoever asks again is told again
                return _over(event, log)
            elif event.kind == "alive" and asked and asked in event.words:
                return Finished(job_scripts.WAITING)

    def _deliver(self) -> None:
        if self._frame is None or self._frame[0] <= self._taken or self._ended is not None:
            return
        number, body = self._frame
        self._write(line(number, body, _word()), patience_for(len(body), _ROUND_TRIP_S))
        self._taken = number
        self._heard = self._spoke

    def _speak(self) -> str:
        """Give a sign of life, and return the word that comes back."""
        word = _word()
        self._write(f"0 0 {word}\n".encode(), _ROUND_TRIP_S)
        return word

    def _write(self, data: bytes, timeout_s: float) -> None:
        if self._channel is None:
            raise LinkDown("the channel was ended")
        self._channel.write(data, time.monotonic() + timeout_s)
        self._spoke = time.monotonic()

    def _read(self, deadline: float) -> None:
        if self._channel is None:
            raise LinkDown("the channel was ended")
        self._stream.feed(self._channel.read(deadline))
        self._heard = time.monotonic()


def _word() -> str:
    return uuid.uuid4().hex[:8]


def _over(event: Event, log: bytes) -> Finished:
    """Return the end of a job as `job_scripts.ask` tells it."""
    status, code = (int(word) for word in event.words)
    return Finished(status, f"{code}\n".encode() + log if status == job_scripts.OVER else log)
