"""A browser as a device: ONNX Runtime Web and LiteRT.js run the candidates in a page.

Every candidate gets a page of its own, in a fresh browser with an empty profile; on a phone and in
a person's own browser, in a tab. The page speaks the runner's frames with a server on this
machine's loopback (`web.server`).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchopt2edge.devices import core_classes as core
from torchopt2edge.devices.adb import Adb
from torchopt2edge.devices.web import browsers
from torchopt2edge.devices.web import packages as web_packages
from torchopt2edge.devices.web.job import BrowserJob, Shown
from torchopt2edge.devices.web.server import PageServer
from torchopt2edge.errors import DeviceError
from torchopt2edge.runner import system_info
from torchopt2edge.types import Facts

USER = "user"
"""As ``browser``: somebody opens the page in a browser of theirs."""


@dataclass(frozen=True)
class Browser:
    """A browser here, or at the phone ``adb`` (a serial), with ``threads`` per session.

    ``browser`` is a program (None: the first Chromium found), or ``user``: the page's address is
    logged for a person to open. ``affinity``, or ``cores`` (a class of them), keeps a browser of
    ours on those cores. ``fetch`` allows npm to fetch the runtimes.

    Raises (when used, not when built):
        DeviceError: there is no such browser, its runtimes are not installed, or this machine has
            not what is asked for.
    """

    threads: int = 1
    affinity: tuple[int, ...] | None = None
    cores: str | None = None
    runner: str = "web"
    browser: str | None = None
    adb: str | None = None
    fetch: bool = False

    @property
    def name(self) -> str:
        """The word in the rows' ``device``."""
        return "browser" if self.adb is None else f"browser:{self.adb}"

    @property
    def python(self) -> str:
        """The interpreter of what no browser can run; only this machine has one."""
        return sys.executable

    def facts(self) -> Facts:
        """Say what the machine is that the browser runs on, and which browser it is."""
        self._check()
        affinity = None if self.affinity is None else list(self.affinity)
        ours = {
            "device_threads": self.threads,
            "device_affinity": affinity,
            "device_cores": self.cores,
        }
        if self.adb is not None:
            return {**Adb(serial=self.adb).facts(), "browser": system_info.UNAVAILABLE, **ours}
        if self.browser == USER:
            return {**system_info.machine(), "browser": system_info.UNAVAILABLE, **ours}
        return {
            **system_info.machine(),
            "browser": browsers.version(browsers.find(self.browser)),
            **ours,
        }

    @property
    def pinned(self) -> tuple[int, ...] | None:
        """The cores that a browser of ours is kept on; None: the system's choice."""
        if self.cores is None:
            return self.affinity
        return core.choose(core.classes(), self.cores, self.name)

    def push(self, file: Path) -> str:
        """Return the file's own path: the page gets it from here when it opens it."""
        return str(file.resolve())

    def start(self, argv: Sequence[str], log: Path) -> BrowserJob:
        """Show a fresh page; what it and its browser say goes to ``log``.

        ``argv`` is what `deploy.launch` gives for this runner; a page takes no arguments.
        """
        self._check()
        packages = web_packages.installed(self.fetch)
        log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as closing:
            server = PageServer(packages)
            closing.callback(server.close)
            server.desk.keep_log(log)
            page, receipt = self._show(server, log)
            closing.pop_all()
        return BrowserJob(server, page, log, receipt)

    def _show(self, server: PageServer, log: Path) -> tuple[Shown, Facts]:
        if self.adb is not None:
            return browsers.phone(self.adb, server.url, server.port), {}
        if self.browser == USER:
            return browsers.person(server.url), {}
        pinned = self.pinned
        cores = pinned or sorted(os.sched_getaffinity(0))
        program = browsers.find(self.browser)
        return browsers.chromium(program, server.url, pinned, log), {"affinity": list(cores)}

    def _check(self) -> None:
        if self.runner != "web":
            raise DeviceError(f"a browser has no runner {self.runner!r}", hint="device.runner=web")
        core.check(self.threads, self.cores, self.affinity, self.name)
        if self.affinity is None and self.cores is None:
            return
        if self.adb is not None or self.browser == USER:
            raise DeviceError(
                "a browser that is not started here cannot be kept on cores",
                hint="device.affinity=null",
            )
        core.check_ours(self.affinity)
