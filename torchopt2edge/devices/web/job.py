"""A page that we talk to in frames, as with any runner; closing it leaves nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torchopt2edge.devices.frame_job import FrameJob
from torchopt2edge.devices.web import answers
from torchopt2edge.devices.web.server import PageServer
from torchopt2edge.devices.web.usage import Usage
from torchopt2edge.errors import BenchError
from torchopt2edge.runner import system_info
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


class BrowserJob(FrameJob):
    """A page of its own per candidate; any failure ends it and raises `BenchError`.

    ``receipt`` is what the host knows of the browser and the page does not.
    """

    who = "the page"

    def __init__(self, server: PageServer, shown: Shown, log: Path, receipt: Facts) -> None:
        super().__init__(log)
        self._server = server
        self._shown = shown
        self._receipt = receipt
        self._before: tuple[Usage | None, tuple[int, int] | None] = (None, None)
        self._peak = -1
        self._zero_ns: int | None = None  # our monotonic clock at the begin of the page's
        self._answered = False  # an answer came that was not read yet

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
        super().send(given, arrays, timeout_s)

    def _put(self, body: bytes, timeout_s: float) -> None:
        self._server.desk.command(body)

    def _fetch(self, left_s: float) -> float:
        """Take the page's next answer, as soon as it came."""
        begin = time.monotonic()
        self._wait_for_page(begin + left_s, left_s)
        try:
            body = self._server.desk.next_answer(begin + left_s - time.monotonic())
        except TimeoutError:
            return left_s
        except BenchError as error:
            raise self._failed(error.what) from error
        self._frames.feed(body)
        self._answered = True
        return time.monotonic() - begin

    def _next(self) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]] | None:
        found = super()._next()
        if found is None and self._answered:
            raise self._failed("the page's answer is cut short")
        self._answered = False
        return None if found is None else (self._completed(found[0]), found[1])

    def _stop(self) -> None:
        """Close the page and end what shows it."""
        self._server.desk.close()
        self._shown.close()
        self._server.close()

    def _wait_for_page(self, deadline: float, timeout_s: float) -> None:
        """Wait until the page holds its line; a browser that dies before says nothing else."""
        desk = self._server.desk
        while not desk.arrived.wait(_LOOK_S):
            if (how := self._shown.ended()) is not None:
                raise self._failed(f"the browser {how} before it showed the page")
            if time.monotonic() > deadline:
                raise self._failed(f"no browser opened the page within {timeout_s:g} s")

    def _completed(self, header: dict[str, Any]) -> dict[str, Any]:
        """Add what is seen from here of the page's process, where it is a process of ours."""
        self._clocked(header)
        used = self._shown.usage()
        if header.get("event") == "opened":
            header["receipt"] = answers.receipt(header, self._receipt)
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
        now_ns = answers.nanoseconds(header.pop("now_ns", None))
        if now_ns is not None:
            zero_ns = time.monotonic_ns() - now_ns
            self._zero_ns = zero_ns if self._zero_ns is None else min(self._zero_ns, zero_ns)
        begin_ns = answers.nanoseconds(header.get("begin_ns"))
        if begin_ns is not None:
            header["begin_ns"] = begin_ns + (self._zero_ns or 0)

    def _failed(self, what: str, words: str | None = None, hint: str | None = None) -> BenchError:
        """End the job, and say what happened and how the browser ended, where it did."""
        how = None if self.closed else self._shown.ended()
        ended = f" (the browser {how})" if how and how not in what else ""
        return super()._failed(f"{what}{ended}", words, hint)
