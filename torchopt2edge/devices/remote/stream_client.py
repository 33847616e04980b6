"""The host's end of a job's stream: opened when it is needed, and again where the link cut it.

The states of a `StreamClient`: *closed* (there is no stream, `Opened` is None), *open*, and *over*
(the job ended; how is kept in `Over`). Closed → open by `_open`; open → closed where the link
breaks, the device is silent, or it does not answer what it was asked; closed or open → over by the
device's last line. Nothing leads away from over.
"""

from __future__ import annotations

import contextlib
import shlex
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from torchopt2edge.devices import answers
from torchopt2edge.devices.output import Tail
from torchopt2edge.devices.remote import job_scripts
from torchopt2edge.devices.remote.stream import PUSHED, SMALL, Event, EventReader, line, script
from torchopt2edge.devices.remote.transport import Finished, LinkDown, Machine, Pipe, patience_for
from torchopt2edge.errors import DeviceError

_ROUND_TRIP_S = 20.0
_FAREWELL_S = 5.0
_SHORTEST_SILENCE_S = 5.0
_MOST_VAIN = 3  # streams in a row that broke at once, or did not answer what was asked
_AT_ONCE_S = 1.0

Frame = tuple[int, bytes]
"""A frame's number, from 1, and its bytes."""


class Unanswered(LinkDown):
    """Something comes over the stream, and not what was asked for."""


@dataclass(frozen=True)
class Over:
    """How a job ended: a status of `job_scripts`, the runner's exit status, the end of its log."""

    status: int
    code: int = 0
    log: bytes = b""


@dataclass
class Opened:
    """An open stream: ``taken`` frames arrived there; ``raw`` tells how large ones are brought."""

    pipe: Pipe
    events: EventReader
    taken: int
    raw: bool
    opened: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    spoke: float = field(default_factory=time.monotonic)

    def read(self, deadline: float) -> None:
        """Take what comes.

        Raises:
            TimeoutError: nothing came before ``deadline``.
            LinkDown: the stream is closed.
        """
        self.events.feed(self.pipe.read(deadline))
        self.heard = time.monotonic()

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send bytes.

        Raises:
            LinkDown: the stream is closed, or did not take them in time.
        """
        self.pipe.write(data, time.monotonic() + timeout_s)
        self.spoke = time.monotonic()

    def speak(self) -> str:
        """Give a sign of life, and return the word that comes back."""
        word = _word()
        self.write(f"0 0 {word}\n".encode(), _ROUND_TRIP_S)
        return word


class StreamClient:
    """The host's end of a job's stream; ``folder`` is the job's on the device.

    Without a byte from there for four ticks the stream is given up; a sixth of the job's patience
    without a word from here, and one is sent.
    """

    def __init__(self, device: Machine, folder: str, patience_s: float) -> None:
        self._device = device
        self.folder = folder
        self._tick_s = job_scripts.limits(patience_s)[0]
        self._silence_s = max(4.0 * self._tick_s, _SHORTEST_SILENCE_S)
        self._beat_s = patience_s / 6
        self._stream: Opened | None = None
        self._over: Over | None = None
        self._frame: Frame | None = None
        self._vain = 0

    def start(self, before: str) -> Finished:
        """Start the job by a script that may run twice; return how that ended, 0 when it goes on.

        Raises:
            LinkDown: the link did not come back.
            DeviceError: the device refuses us.
        """
        self._device.retry(lambda: self._open(0, before))
        if self._over is None:
            return Finished(0)
        return Finished(self._over.status, stderr=self._over.log)

    def exchange(self, frame: Frame | None, offset: int, wait_s: float) -> bytes | Over | None:
        """Bring a frame, and return bytes of the runner's answers beyond ``offset`` of them.

        None: the device had none ``wait_s`` seconds later, the time without a link not counted.
        `Over`: there will be none any more.

        Raises:
            LinkDown: the link did not come back, or breaks again and again.
            DeviceError: the device refuses us, or sends what no device sends.
        """
        self._frame = frame or self._frame
        left = wait_s
        while self._over is None:
            if self._stream is None:
                self._device.retry(lambda: self._open(offset))
                continue
            begin = time.monotonic()
            try:
                return self._listen(self._stream, begin + left)
            except LinkDown as error:
                left = max(0.0, left - max(0.0, self._stream.heard - begin))
                self._give_up(self._stream, error)
        return self._over

    def finish(self) -> bytes | None:
        """End the job; return its log's end, None where nobody knows whether it ended."""
        deadline, log = time.monotonic() + _FAREWELL_S, Tail(job_scripts.LOG_BYTES)
        stream = self._stream
        try:
            if stream is None or self._over is not None:
                return None
            stream.write(b"-1 0 end\n", _FAREWELL_S)
            while (event := self._event(stream, deadline)).kind != "ended":
                log.add(event.body if event.kind == "log" else b"")
            return log.kept if event.words[0] == "0" else None
        except (DeviceError, TimeoutError):
            return None
        finally:
            self.close()

    def close(self) -> None:
        """Give the stream up; harmless when called again."""
        if self._stream is not None:
            self._stream.pipe.close()
            self._stream = None

    def _open(self, offset: int, before: str = "") -> None:
        """Open a stream and wait for its first line, which may be that the job is over."""
        words = script(shlex.quote(self.folder), _word(), offset, self._tick_s, before)
        stream = Opened(self._device.link.open(words), EventReader(), 0, False)
        try:
            self._begin(stream)
        except (LinkDown, TimeoutError) as error:
            said = answers.clean(stream.pipe.said)
            stream.pipe.close()
            self._device.link.run(":", timeout_s=_ROUND_TRIP_S)  # where it is down this says why
            raise LinkDown(f"{self._device.name} opened no stream: {said or error}") from error
        except DeviceError:
            stream.pipe.close()
            raise

    def _begin(self, stream: Opened) -> None:
        """Read the first line: the stream is open, or the job is over."""
        event = self._first(stream)
        if event.kind == "ended":
            self._over = self._ended(event, self._said(stream))
            stream.pipe.close()
        else:
            stream.taken, stream.raw = self._number(event.words[0]), event.words[1] == "1"
            self._stream = stream

    def _first(self, stream: Opened) -> Event:
        deadline = time.monotonic() + _ROUND_TRIP_S
        while (event := self._event(stream, deadline)).kind not in ("open", "ended"):
            continue
        return event

    def _event(self, stream: Opened, deadline: float) -> Event:
        """Return the next event.

        Raises:
            TimeoutError: none came before ``deadline``.
            LinkDown: the stream is closed.
            AnswerError: what came is no line of a job's stream.
        """
        while (event := stream.events.next()) is None:
            stream.read(deadline)
        return event

    def _listen(self, stream: Opened, deadline: float) -> bytes | Over | None:
        """Bring the frame, unless it is there, and wait for what comes of it."""
        self._deliver(stream)
        asked: dict[str, float] = {}  # the words that were asked for since the deadline, and when
        log = Tail(job_scripts.LOG_BYTES)
        while True:
            event = stream.events.next()
            if event is None:
                self._keep_up(stream, deadline, asked)
            elif event.kind == "piece":
                self._vain = 0
                return event.body
            elif event.kind == "log":
                log.add(event.body)
            elif event.kind == "ended":
                self._over = self._ended(event, log.kept)
                return self._over
            elif event.kind == "alive" and asked.keys() & set(event.words):
                self._vain = 0
                return None

    def _keep_up(self, stream: Opened, deadline: float, asked: dict[str, float]) -> None:
        """Read on, and say meanwhile what is to be said.

        Raises:
            LinkDown: the device is silent, or does not answer what it was asked.
        """
        now = time.monotonic()
        if (not asked and now >= deadline) or now >= stream.spoke + self._beat_s:
            word = stream.speak()
            if now >= deadline:
                asked[word] = now
        until = [stream.heard + self._silence_s, stream.spoke + self._beat_s]
        until += [deadline] if not asked else [min(asked.values()) + self._silence_s]
        with contextlib.suppress(TimeoutError):
            stream.read(min(until))
        now = time.monotonic()
        if now >= stream.heard + self._silence_s:
            raise LinkDown(f"nothing was heard for {self._silence_s:.0f} s")
        if asked and now >= min(asked.values()) + self._silence_s:
            raise Unanswered("the device does not answer what it is asked")

    def _give_up(self, stream: Opened, error: LinkDown) -> None:
        """Close a stream that broke; one too many in vain is the last.

        Raises:
            LinkDown: that was the last one.
        """
        brief = time.monotonic() - stream.opened < _AT_ONCE_S
        self._vain += brief or isinstance(error, Unanswered)
        self.close()
        if self._vain > _MOST_VAIN:
            raise LinkDown(f"the stream breaks again and again: {error.what}") from error

    def _deliver(self, stream: Opened) -> None:
        """Bring the frame, unless it arrived there."""
        if self._frame is None or self._frame[0] <= stream.taken:
            return
        number, body = self._frame
        if len(body) > SMALL and not stream.raw:
            self._push(body)
        stream.write(
            line(number, body, _word(), stream.raw), patience_for(len(body), _ROUND_TRIP_S)
        )
        stream.taken = number
        stream.heard = stream.spoke

    def _push(self, body: bytes) -> None:
        """Bring a frame as a file, to a device that cannot read it from the stream."""
        with tempfile.TemporaryDirectory(prefix="t2e-") as folder:
            file = Path(folder) / PUSHED
            try:
                file.write_bytes(body)
            except OSError as error:
                raise DeviceError(
                    f"the frame cannot be kept on its way: {error.strerror or error}",
                    artifact=folder,
                    hint="free some space there, or point TMPDIR at a folder that has some",
                ) from error
            self._device.retry(lambda: self._device.link.push(file, f"{self.folder}/{PUSHED}"))

    def _said(self, stream: Opened) -> bytes:
        """Return what a script that ended at once wrote to stderr, which may come last."""
        deadline = time.monotonic() + _FAREWELL_S
        with contextlib.suppress(LinkDown, TimeoutError):
            while True:
                stream.pipe.read(deadline)
        return stream.pipe.said.encode()

    def _ended(self, event: Event, log: bytes) -> Over:
        """Read the last line."""
        status, code = (self._number(word) for word in event.words)
        return Over(status, code, log)

    def _number(self, word: str) -> int:
        found = answers.number(word)
        if found is None:
            raise answers.AnswerError(f"the device sent no line of a job: {word!r}")
        return found


def _word() -> str:
    return uuid.uuid4().hex[:8]
