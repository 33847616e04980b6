"""The host's end of a job's mailbox: frames over a link that may break at any moment."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torchopt2edge.devices import mailbox
from torchopt2edge.devices.transport import Finished, patience_for
from torchopt2edge.errors import BenchError, DeviceError
from torchopt2edge.frames import FrameReader, encode

if TYPE_CHECKING:
    import numpy as np

_LAST_LINES = 6
_ROUND_TRIP_S = 20.0
_FAREWELL_S = 5.0  # how long a broken link may hold up the end of a job, which ends by itself too
_CANNOT_RUN = {
    126: "the program may not run there: it is built for another machine, or its folder is "
    "mounted noexec",
    127: "the program, or the loader that it needs, is not there",
}


class Machine(Protocol):
    """What a job needs of its device."""

    @property
    def name(self) -> str:
        """The word in the rows' ``device``."""

    def run(
        self,
        script: str,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
        patience_s: float | None = None,
    ) -> Finished:
        """Run a script there, over a link that may break, for so long, meanwhile."""


class RemoteJob:
    """A process on a remote device (`mailbox`); any failure ends it and raises `BenchError`.

    A frame travels with the question for its answer: ``send`` only takes it, the next ``receive``
    (or the next ``send``) brings it there.
    """

    def __init__(self, device: Machine, folder: str, log: Path, wait_s: int) -> None:
        self._device = device
        self._folder = folder
        self._log = log
        self._wait_s = wait_s
        self._number = 0
        self._waiting: bytes | None = None
        self._offset = 0
        self._closed = False
        self._lost = False
        self._spool = Spool()

    def __enter__(self) -> RemoteJob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
            self._exchange(0)
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
                raise BenchError(error.what, artifact=self._log) from error
            if found is not None:
                return found
            if left <= 0 and self._waiting is None:
                raise self._hung(timeout_s)
            wait = max(0, min(self._wait_s, math.ceil(left)))
            begin = time.monotonic()
            if not self._exchange(wait):
                left -= max(wait, 0.01)
            else:
                left -= min(time.monotonic() - begin, wait)

    def close(self) -> None:
        """End the process and all that it started; harmless when called again.

        Where the link is down by now the device does the same by itself, somewhat later.
        """
        if self._closed:
            return
        self._closed = True
        self._spool.close()
        with contextlib.suppress(DeviceError):
            patience_s = 0.0 if self._lost else _FAREWELL_S
            found = self._device.run(mailbox.close(self._folder), b"", _ROUND_TRIP_S, patience_s)
            self._keep(found.stdout)

    def _exchange(self, wait_s: int) -> bool:
        """Bring the frame that waits, and fetch what the runner answered; False: nothing yet."""
        body = self._waiting or b""
        frame = (self._number, len(body)) if self._waiting is not None else None
        token = uuid.uuid4().hex[:8]
        script = mailbox.ask(self._folder, token, frame, self._offset, wait_s)
        limit = wait_s + patience_for(len(body), _ROUND_TRIP_S)
        try:
            found = self._device.run(script, body, limit)
        except DeviceError as error:
            self._lost = True
            self.close()
            raise BenchError(
                f"{self._device.name} was lost: {error.what}{self._last_words()}",
                artifact=self._log,
                mend=error.mend,
            ) from error
        if found.code == 0:
            self._waiting = None
            self._offset += len(found.stdout)
            self._spool.write(found.stdout)
            return True
        if found.code != mailbox.WAITING:
            raise self._over(found)
        self._waiting = None
        return False

    def _over(self, found: Finished) -> BenchError:
        """Say how a job ended that has no more answers."""
        words = found.stdout
        if found.code == mailbox.OVER:
            first, _, words = words.partition(b"\n")
            what = f"the process {_ended(int(first) if first.strip().isdigit() else 0)}"
        elif found.code == mailbox.GONE:
            what = "the job is no more: the device restarted, or ended it for want of a sign of us"
        elif found.code == mailbox.CUT_SHORT:
            what = f"the frame did not fit on {self._device.name}: {found.said}"
        else:
            what = f"the mailbox failed with status {found.code}: {found.said}"
        self.close()
        lines = [one.strip() for one in words.decode(errors="replace").splitlines() if one.strip()]
        last = f"; it last said: {' | '.join(lines[-_LAST_LINES:])}" if lines else ""
        return BenchError(f"{what}{last or self._last_words()}", artifact=self._log)

    def _hung(self, timeout_s: float) -> BenchError:
        self.close()
        return BenchError(
            f"the process did not answer within {timeout_s:g} s and was killed{self._last_words()}",
            artifact=self._log,
        )

    def _require_open(self) -> None:
        if self._closed:
            raise BenchError("the process was ended already", artifact=self._log)

    def _keep(self, log: bytes) -> None:
        with contextlib.suppress(OSError):  # a log that cannot be kept is no reason to fail
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as file:
                file.write(log)

    def _last_words(self) -> str:
        try:
            text = self._log.read_text(errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return "; it last said: " + " | ".join(lines[-_LAST_LINES:]) if lines else ""


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
        import signal

        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(code - 128).name}"
    return f"ended with status {code}"
