"""The host's end of a job's mailbox: frames over a link that may break at any moment."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.devices.child_process import LoggedJob, signal_name
from torchopt2edge.devices.remote import errors as remote_errors
from torchopt2edge.devices.remote import job_scripts
from torchopt2edge.devices.remote.stream_client import Talk
from torchopt2edge.devices.remote.transport import Finished, Machine, patience_for
from torchopt2edge.errors import BenchError, DeviceError
from torchopt2edge.runner.frames import FrameReader, encode

if TYPE_CHECKING:
    import numpy as np

_ROUND_TRIP_S = 20.0
_FAREWELL_S = 5.0  # how long a broken link may hold up the end of a job, which ends by itself too
_CANNOT_RUN = {
    126: "the program may not run there: it is built for another machine, or its folder is "
    "mounted noexec",
    127: "the program, or the loader that it needs, is not there",
}


class RemoteJob(LoggedJob):
    """A process on a remote device (`job_scripts`); any failure ends it and raises `BenchError`.

    A frame travels with the question for its answer: ``send`` only takes it, the next ``receive``
    (or the next ``send``) brings it there, over the job's channel where one can be had, else with
    a command of its own.
    """

    def __init__(
        self, device: Machine, folder: str, log: Path, patience_s: float, talk: Talk
    ) -> None:
        super().__init__(log)
        self._device = device
        self._folder = folder
        self._beat_s = patience_s / 6
        self._look_s = max(1, min(20, int(patience_s / 3)))  # the wait of one command
        self._number = 0
        self._waiting: bytes | None = None
        self._offset = 0
        self._spool = Spool()
        self._talk = talk

    def send(
        self,
        header: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray[Any, Any]] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Take one frame.

        Raises:
            BenchError: the job is over, or the link did not come back.
        """
        self._require_open()
        if self._waiting is not None:
            self._exchange(0.0)
        self._number += 1
        self._waiting = encode(header, arrays)

    def receive(self, timeout_s: float) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        """Return the next header and its arrays; time that the link took is not counted.

        Raises:
            BenchError: the process died, hung for ``timeout_s`` seconds or sent no frame, or the
                link did not come back.
        """
        self._require_open()
        left = timeout_s
        while True:
            try:
                found = self._spool.read()
            except DeviceError as error:
                self.close()
                raise self._failed(error.what, "") from error
            if found is not None:
                return found
            if left <= 0 and self._waiting is None:
                raise self._hung(timeout_s)
            left -= self._exchange(max(left, 0.0))

    def close(self) -> None:
        """End the process and all that it started; harmless when called again.

        Where the link is down by now the device does the same by itself, somewhat later.
        """
        if self.closed:
            return
        self.closed = True
        self._spool.close()
        if not self._device.answers:  # nor will it now, and each of its jobs would wait for that
            self._talk.close()
            return
        log = self._talk.finish()
        if log is not None:
            self._keep(log)
            return
        with contextlib.suppress(DeviceError):
            found = self._device.run(job_scripts.close(self._folder), b"", _FAREWELL_S, _FAREWELL_S)
            self._keep(found.stdout)

    def _exchange(self, left_s: float) -> float:
        """Bring the frame that waits, and fetch what the runner answered, for so long at most.

        Returns the seconds of them that passed, without those that a broken link took.
        """
        frame = None if self._waiting is None else (self._number, self._waiting)
        begin, wait_s = time.monotonic(), min(self._beat_s, left_s)
        try:
            found = self._talk.exchange(frame, self._offset, wait_s)
            if found is None:
                wait_s = min(self._look_s, math.ceil(left_s))
                found = self._ask(frame, wait_s)
        except DeviceError as error:
            self.close()
            raise self._failed(
                f"{self._device.name} was lost: {error.what}", hint=error.hint
            ) from error
        if found.code not in (0, job_scripts.WAITING):
            raise self._over(found)
        self._waiting = None
        if found.code == job_scripts.WAITING:
            return max(wait_s, 0.01)
        self._offset += len(found.stdout)
        self._spool.write(found.stdout)
        return min(time.monotonic() - begin, wait_s)

    def _ask(self, frame: tuple[int, bytes] | None, wait_s: int) -> Finished:
        """Do with one command what the channel does."""
        number, body = frame or (0, b"")
        known = (number, len(body)) if frame else None
        script = job_scripts.ask(self._folder, uuid.uuid4().hex[:8], known, self._offset, wait_s)
        return self._device.run(script, body, wait_s + patience_for(len(body), _ROUND_TRIP_S))

    def _over(self, found: Finished) -> BenchError:
        """Say how a job ended that has no more answers."""
        words, hint = found.stdout, None
        if found.code == job_scripts.OVER:
            first, _, words = words.partition(b"\n")
            code = int(first) if first.strip().isdigit() else 0
            what = f"the process {_ended(code)}"
            if code == job_scripts.FULL:
                what = f"{self._device.name} is full: an answer did not fit there"
                hint = remote_errors.ROOM
        elif found.code == job_scripts.GONE:
            what = "the job is no more: the device restarted, or ended it for want of a sign of us"
            hint = "run it again: what it left behind is removed then"
        elif found.code == job_scripts.CUT_SHORT:
            what = f"the frame did not fit on {self._device.name}: {found.said or 'it is full'}"
            hint = remote_errors.ROOM
        else:
            what = f"the mailbox failed with status {found.code}: {found.said}"
        self.close()
        return self._failed(what, words.decode(errors="replace").strip() or None, hint)

    def _keep(self, log: bytes) -> None:
        with contextlib.suppress(OSError):  # a log that cannot be kept is no reason to fail
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as file:
                file.write(log)


class Spool:
    """Bytes that come piece by piece, read as frames: a file without a name, and a `FrameReader`.

    A pipe would do for small answers; one larger than the pipe would block the only thread.
    """

    def __init__(self) -> None:
        self._into = tempfile.NamedTemporaryFile(buffering=0)
        self._out = open(self._into.name, "rb", buffering=0)
        self._reader = FrameReader(self._out.fileno())

    def write(self, piece: bytes) -> None:
        """Add what came."""
        self._into.write(piece)

    def read(self) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]] | None:
        """Return the next frame, or None as long as it is not whole.

        Raises:
            DeviceError: what came is not made of frames.
        """
        try:
            return self._reader.read()
        except EOFError:
            return None

    def close(self) -> None:
        """Give the file up."""
        self._out.close()
        self._into.close()


def _ended(code: int) -> str:
    if code in _CANNOT_RUN:
        return f"could not be started: {_CANNOT_RUN[code]}"
    if code > 128:  # as a shell tells it
        return f"was killed by {signal_name(code - 128)}"
    return f"ended with status {code}"
