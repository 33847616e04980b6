"""Who shows the page: a Chromium of ours, a phone's browser over adb, a person's own."""

from __future__ import annotations

import contextlib
import html
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchopt2edge.devices import answers
from torchopt2edge.devices.adb import AdbLink
from torchopt2edge.devices.frame_job import ended
from torchopt2edge.devices.output import Log, follow
from torchopt2edge.devices.remote.transport import call
from torchopt2edge.devices.web import foreground as front
from torchopt2edge.devices.web.usage import Usage, members, usage
from torchopt2edge.errors import DeviceError

NAMES = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
)
_KEPT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TZ")
_GRACE_S = 0.5
_LONGEST_END_S = 5.0
_SMALL_SHM = 256 << 20
_OPTIONS = (
    "--headless",
    "--disable-gpu",  # WebAssembly needs none, and a software one takes a core
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--enable-logging=stderr",
    "--log-level=3",  # the page tells its own errors; of the browser's, those that end it
    "--metrics-recording-only",
    "--mute-audio",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--password-store=basic",
    # It ends when this pipe does, and the pipe ends when we do, however that comes about.
    "--remote-debugging-pipe",
)
# The pipe is its descriptor 3; what it would answer there goes nowhere.
_PIPED = 'exec "$@" 3<&0 4>/dev/null </dev/null >/dev/null'


@dataclass(frozen=True)
class Chromium:
    """A browser process of our own, in a session and with a profile folder of its own."""

    process: subprocess.Popen[bytes]
    profile: Path
    logging: threading.Thread

    def front(self) -> None:
        """It has one page alone."""

    def ended(self) -> str | None:
        """Say how it ended; None while it runs."""
        try:
            code = self.process.wait(_GRACE_S)  # what it held open is seen to end before it does
        except subprocess.TimeoutExpired:
            return None
        return ended(128 - code if code > 128 else code)  # a packager's script, as a shell does

    def usage(self) -> Usage | None:
        """Return what its page has used so far."""
        return usage(self.process.pid)

    def close(self) -> None:
        """Kill it with all that it started, and remove its profile."""
        # Before the wait: a process that is not reaped yet keeps its group's number from reuse.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        deadline = time.monotonic() + _LONGEST_END_S
        while (left := members(self.process.pid)) and time.monotonic() < deadline:
            for pid in left:  # a sandbox makes groups of its own
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.logging.join(_LONGEST_END_S)
        shutil.rmtree(self.profile, ignore_errors=True)


@dataclass(frozen=True)
class Phone:
    """A phone's browser: the page reaches us through ``adb reverse``.

    ``devtools`` is a port here that leads to the browser's developer tools, None without.
    """

    serial: str
    url: str
    port: int
    devtools: int | None

    def front(self) -> None:
        """Bring the page to the front, where the browser's developer tools answer."""
        if self.devtools is not None:
            front.bring(self.devtools, self.url)

    def ended(self) -> str | None:
        """Nobody tells whether a phone's browser runs; its page does."""
        return None

    def usage(self) -> Usage | None:
        """Its process is not ours to look into."""
        return None

    def close(self) -> None:
        """Take the ways there and back away; the page closes itself."""
        if self.devtools is not None:
            front.unforward(self.serial, self.devtools)
        with contextlib.suppress(DeviceError):
            call(["adb", "-s", self.serial, "reverse", "--remove", f"tcp:{self.port}"])


@dataclass(frozen=True)
class Person:
    """A browser that somebody opens the page in."""

    def front(self) -> None:
        """That is the person's to do: the page waits for it."""

    def ended(self) -> str | None:
        """Nobody tells whether it runs; its page does."""
        return None

    def usage(self) -> Usage | None:
        """Its process is not ours to look into."""
        return None

    def close(self) -> None:
        """Leave it: the page says that it can be closed."""


def find(browser: str | None) -> str:
    """Return the program: the one that is named, or the first Chromium on the PATH.

    Raises:
        DeviceError: there is none.
    """
    names = NAMES if browser is None else (browser,)
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    raise DeviceError(
        f"there is no browser: looked for {', '.join(names)}",
        hint="apt-get install chromium-headless-shell, or device.browser=/path/of/chromium",
    )


def version(program: str) -> str:
    """Return what the browser calls itself, such as ``Chromium 156.0.7000.1``.

    Raises:
        DeviceError: it does not start.
    """
    found = call([program, "--version"], timeout_s=30.0)
    text = found.stdout.decode(errors="replace")
    name = re.search(r"[A-Za-z][A-Za-z ]{0,60}\d{1,9}(\.\d{1,9}){1,6}", text)
    if found.code or name is None:
        said = found.said or answers.clean(text.strip().partition("\n")[0])
        raise DeviceError(
            f"the browser does not start, or is none: {said or f'status {found.code}'}",
            artifact=program,
            hint="device.browser=/path/of/chromium, one that '--version' runs with",
        )
    return name[0]


def chromium(program: str, url: str, affinity: Sequence[int] | None, log: Path) -> Chromium:
    """Start a browser with nothing but that page; its stderr goes to ``log``.

    Raises:
        DeviceError: it cannot be started.
    """
    profile = Path(tempfile.mkdtemp(prefix="t2e-browser-"))
    first = profile / "first.html"  # what is on a command line is no secret, what is in here is
    first.write_text(f'<meta http-equiv="refresh" content="0; url={html.escape(url)}">')
    pinned: list[str] = []
    if affinity is not None:  # before its first thread
        pinned = ["taskset", f"{sum(1 << core for core in set(affinity)):x}"]
    words = [*pinned, program, *_options(profile), first.as_uri()]
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.open("ab").close()
        process = subprocess.Popen(
            ["sh", "-c", _PIPED, "sh", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**environment, "HOME": str(profile), "TMPDIR": str(profile)},
            start_new_session=True,
        )
    except OSError as error:
        shutil.rmtree(profile, ignore_errors=True)
        raise DeviceError(
            f"the browser cannot be started: {error.strerror or error}", artifact=program
        ) from error
    if process.stderr is None:
        raise DeviceError("a browser needs a pipe on stderr", artifact=program)
    return Chromium(process, profile, follow(process.stderr, Log(log)))


def phone(serial: str | None, url: str, port: int) -> Phone:
    """Let a phone reach us and open the page in its browser.

    Raises:
        DeviceError: adb cannot reach it, or it has no browser that opens a page.
    """
    link = AdbLink(serial)
    way = call(["adb", "-s", link.chosen, "reverse", f"tcp:{port}", f"tcp:{port}"])
    if way.code:
        raise DeviceError(
            f"the phone cannot be given a way back here: {way.said}",
            artifact=link.chosen,
            hint="adb reverse works from Android 5 on",
        )
    found = Phone(link.chosen, url, port, front.forward(link.chosen))
    try:
        done = link.run(f"am start -a android.intent.action.VIEW -d {shlex.quote(url)}")
    except DeviceError:
        found.close()
        raise
    said = answers.shown(done.stdout + b"\n" + done.stderr)
    if done.code or "Error:" in said:
        found.close()
        raise DeviceError(
            f"the phone did not open the page: {said}",
            artifact=link.chosen,
            hint="install Chrome there, and unlock its screen",
        )
    return found


def person(url: str) -> Person:
    """Ask whoever reads the log to open the page."""
    logging.getLogger("torchopt2edge").warning(
        "open this page in the browser that is to measure: %s", url
    )
    return Person()


def _options(profile: Path) -> list[str]:
    words = [*_OPTIONS, f"--user-data-dir={profile}"]
    if os.getuid() == 0:
        words.append("--no-sandbox")  # it refuses to sandbox itself as root
    with contextlib.suppress(OSError):
        if shutil.disk_usage("/dev/shm").total < _SMALL_SHM:  # a container's default
            words.append("--disable-dev-shm-usage")
    return words
