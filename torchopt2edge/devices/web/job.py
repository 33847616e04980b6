"""A page that we talk to in frames, as with any runner; closing it leaves nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torchopt2edge.devices.child_process import LoggedJob
from torchopt2edge.devices.remote.job import Spool
from torchopt2edge.devices.web.server import PageServer
from torchopt2edge.devices.web.usage import Usage
from torchopt2edge.errors import BenchError, DeviceError
from torchopt2edge.runner import system_info
from torchopt2edge.runner.frames import encode
from torchopt2edge.types import Facts

if TYPE_CHECKING:
    import numpy as np

_LOOK_S = 0.25  # how often a browser is looked after that has not opened the page yet
_TIMED = ("load", "round")


class Shown(Protocol):
    """A page that somebody shows."""

    def front(self) -> None:
        """Bring the page to the front, where that can be done from here."""

    def ended(self) -> str | None:
        """Say how the browser ended; None while it runs, or where that cannot be known."""

    def usage(self) -> Usage | None:
        """Return what the page's process has used so far, None where it cannot be seen."""

    def close(self) -> None:
        """Close the page, and the browser where it is ours."""


class BrowserJob(LoggedJob):
    """A page of its own per candidate; any failure ends it and raises `BenchError`.

    ``receipt`` is what the host knows of the browser and the page does not.
    """

    def __init__(self, server: PageServer, shown: Shown, log: Path, receipt: Facts) -> None:
        super().__init__(log)
        self._server = server
        self._shown = shown
        self._receipt = receipt
        self._before: tuple[Usage | None, tuple[int, int] | None] = (None, None)
        self._peak = -1
        self._zero_ns: int | None = None  # our monotonic clock at the begin of the page's
        self._spool = Spool()

    def send(
        self,
        header: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray[Any, Any]] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Leave one frame for the page; a file that it opens is the one that it may fetch.

        Raises:
            BenchError: the job is over.
        """
        self._require_open()
        given = dict(header)
        if given.get("cmd") == "open":
            self._server.desk.candidate = Path(given["file"])
            given["file"] = "./candidate"  # no path of ours leaves this process
        if given.get("cmd") in _TIMED:
            self._shown.front()
        if given.get("cmd") == "round":
            self._before = (self._shown.usage(), system_info.cpu_ticks())
        self._server.desk.command(encode(given, arrays))

    def receive(self, timeout_s: float) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        """Return the next header and its arrays.

        Raises:
            BenchError: the page or its browser is gone, did not answer for ``timeout_s`` seconds,
                or sent no frame.
        """
        self._require_open()
        deadline = time.monotonic() + timeout_s
        self._wait_for_page(deadline, timeout_s)
        try:
            body = self._server.desk.next_answer(deadline - time.monotonic())
        except TimeoutError as error:
            raise self._failure(f"the page did not answer within {timeout_s:g} s") from error
        except BenchError as error:
            raise self._failure(error.what) from error
        return self._decoded(body)

    def close(self) -> None:
        """Close the page and end what shows it; harmless when called again."""
        if self.closed:
            return
        self.closed = True
        self._server.desk.close()
        self._shown.close()
        self._server.close()
        self._spool.close()

    def _wait_for_page(self, deadline: float, timeout_s: float) -> None:
        """Wait until the page holds its line; a browser that dies before says nothing else."""
        desk = self._server.desk
        while not desk.arrived.wait(_LOOK_S):
            if (how := self._shown.ended()) is not None:
                raise self._failure(f"the browser {how} before it showed the page")
            if time.monotonic() > deadline:
                raise self._failure(f"no browser opened the page within {timeout_s:g} s")

    def _decoded(self, body: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        self._spool.write(body)
        try:
            found = self._spool.read()
        except (DeviceError, KeyError, TypeError) as error:
            raise self._failure("the page's answer is not a frame") from error
        if found is None:
            raise self._failure("the page's answer is cut short")
        header, arrays = found
        return self._completed(header), arrays

    def _completed(self, header: dict[str, Any]) -> dict[str, Any]:
        """Add what is seen from here of the page's process, where it is a process of ours."""
        self._clocked(header)
        used = self._shown.usage()
        if header.get("event") == "opened":
            header["receipt"] = {**header.get("receipt", {}), **self._receipt}
        if used is not None:
            self._peak = max(self._peak, used.peak_bytes)  # the kernel's own is a little loose
        if "vm_hwm_bytes" in header:
            header["vm_hwm_bytes"] = self._peak  # of a page that is gone by now what it was
        before, ticks = self._before
        if header.get("event") == "round" and before is not None and used is not None:
            header["cpu_ns"] = max(0, used.cpu_ns - before.cpu_ns)
            header["involuntary"] = max(0, used.involuntary - before.involuntary)
            after = system_info.cpu_ticks()
            if ticks is not None and after is not None:
                header |= {"steal": after[0] - ticks[0], "ticks": after[1] - ticks[1]}
        return header

    def _clocked(self, header: dict[str, Any]) -> None:
        """Put a time of the page on our clock, on which the pages of all candidates lie.

        A page's own origin goes by the calendar, which somebody may set between two pages.
        """
        # An answer is late by its way here: the earliest is the truest.
        zero_ns = time.monotonic_ns() - int(header.pop("now_ns", 0))
        self._zero_ns = zero_ns if self._zero_ns is None else min(self._zero_ns, zero_ns)
        if "begin_ns" in header:
            header["begin_ns"] += self._zero_ns

    def _failure(self, what: str) -> BenchError:
        """End the job, and say what happened and how the browser ended, where it did."""
        how = self._shown.ended()
        self.close()
        ended = f" (the browser {how})" if how and how not in what else ""
        return self._failed(f"{what}{ended}")
