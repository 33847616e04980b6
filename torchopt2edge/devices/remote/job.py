"""A process on a device at the other end of a link that may break at any moment."""

from __future__ import annotations

import contextlib
import shlex
import time
from pathlib import Path

from torchopt2edge.devices.frame_job import FrameJob, ended
from torchopt2edge.devices.remote import errors as remote_errors
from torchopt2edge.devices.remote import job_scripts
from torchopt2edge.devices.remote.stream_client import Over, StreamClient
from torchopt2edge.devices.remote.transport import Machine
from torchopt2edge.errors import BenchError, DeviceError

_FAREWELL_S = 5.0  # how long a broken link may hold up the end of a job, which ends by itself too
_CANNOT_RUN = {
    126: "the program may not run there: it is built for another machine, or its folder is "
    "mounted noexec",
    127: "the program, or the loader that it needs, is not there",
}


class RemoteJob(FrameJob):
    """A process on a remote device (`job_scripts`); any failure ends it and raises `BenchError`.

    A frame travels with the question for its answer: ``send`` only takes it, the next ``receive``
    (or the next ``send``) brings it there over the job's stream (`stream_client`). Time that the
    link took is not counted.
    """

    def __init__(self, device: Machine, client: StreamClient, patience_s: float, log: Path) -> None:
        super().__init__(log)
        self._device = device
        self._client = client
        self._beat_s = patience_s / 6
        self._number = 0
        self._waiting: bytes | None = None
        self._offset = 0

    def _put(self, body: bytes, timeout_s: float) -> None:
        if self._waiting is not None:
            self._fetch(0.0)
        self._number += 1
        self._waiting = body

    def _fetch(self, left_s: float) -> float:
        """Bring the frame that waits, and take what the runner answers within so many seconds."""
        frame = None if self._waiting is None else (self._number, self._waiting)
        begin, wait_s = time.monotonic(), min(self._beat_s, left_s)
        try:
            answer = self._client.exchange(frame, self._offset, wait_s)
        except DeviceError as error:
            what = f"{self._device.name} was lost: {error.what}"
            raise self._failed(what, hint=error.hint) from error
        self._waiting = None
        if isinstance(answer, Over):
            raise self._died(answer)
        if answer is None:
            return max(wait_s, 0.01)
        self._offset += len(answer)
        self._frames.feed(answer)
        return min(time.monotonic() - begin, wait_s)

    def _stop(self) -> None:
        """End the process and all that it started, and keep the end of its log.

        Where the link is down by now the device does the same by itself, somewhat later.
        """
        if not self._device.answers:  # nor will it now, and each of its jobs would wait for that
            self._client.close()
            return
        log = self._client.finish()
        if log is None:
            with contextlib.suppress(DeviceError):
                script = job_scripts.close(shlex.quote(self._client.folder))
                log = self._device.run(script, b"", _FAREWELL_S, _FAREWELL_S).stdout
        self._log.add(log or b"")

    def _died(self, over: Over) -> BenchError:
        """Say how a job ended that has no more answers."""
        hint = None
        if over.status == job_scripts.OVER:
            code = 128 - over.code if 128 < over.code < 256 else over.code  # as a shell tells it
            what = f"the process {ended(code)}"
            if code in _CANNOT_RUN:
                what = f"the process could not be started: {_CANNOT_RUN[code]}"
            elif code == job_scripts.FULL:
                what = f"{self._device.name} is full: an answer did not fit there"
                hint = remote_errors.ROOM
        elif over.status == job_scripts.GONE:
            what = "the job is no more: the device restarted, or ended it for want of a sign of us"
            hint = "run it again: what it left behind is removed then"
        elif over.status == job_scripts.CUT_SHORT:
            what = f"the frame did not fit on {self._device.name}"
            hint = remote_errors.ROOM
        else:
            what = f"the job's folder failed with status {over.status}"
        return self._failed(what, over.log.decode(errors="replace").strip() or None, hint)
