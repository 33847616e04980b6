"""A phone or a board reached by the adb client; the server it talks to is the user's own."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torchopt2edge.devices import answers
from torchopt2edge.devices.android.steady import steady
from torchopt2edge.devices.output import MOST
from torchopt2edge.devices.remote.device import Remote
from torchopt2edge.devices.remote.stream import Stream
from torchopt2edge.devices.remote.transport import (
    LARGEST_PULLED,
    Finished,
    LinkDown,
    call,
    patience_for,
    unwrap,
    wrap,
)
from torchopt2edge.errors import DeviceError
from torchopt2edge.interfaces import Watch

# A state of ``adb devices`` → what it means, what fixes it.
STATES: Mapping[str, tuple[str, str]] = {
    "unauthorized": (
        "has not allowed this computer to debug it",
        "unlock its screen and accept the key there; if it does not ask, revoke USB debugging "
        "authorizations in its developer options and plug it in again",
    ),
    "authorizing": ("is being asked for permission", "unlock its screen and accept the key there"),
    "no permissions": (
        "may not be opened by this user",
        "add the udev rule of its vendor (apt-get install android-sdk-platform-tools-common) and "
        "plug it in again",
    ),
    "offline": ("does not answer", "unplug it and plug it in again, or adb reconnect offline"),
    "recovery": ("is in its recovery system", "adb reboot"),
    "sideload": ("is waiting for an update", "adb reboot"),
    "bootloader": ("is in its boot loader", "fastboot reboot"),
}
_HEAD = "List of devices attached"
# A serial may hold spaces (``adb-R58 (2)._adb-tls-connect._tcp``); what follows a state may not be
# one, but for the words in brackets. A state that we do not know is a single word.
_LINE = re.compile(
    rf"(?P<serial>\S.*?)(\t|  +| )(?P<state>device|host|{'|'.join(STATES)}|[a-z]+)"
    r"(?P<rest>(?: +\(.*| +\S+:\S.*)?)\s*"
)
_LONGEST_LINE, _MOST_DEVICES = 1000, 100
_DOWN = ("not found", "offline", "closed", "no devices", "cannot connect", "protocol fault")


@dataclass(frozen=True)
class Listed:
    """A line of ``adb devices -l``: serial, state (``device`` when it can be used), what it is."""

    serial: str
    state: str
    traits: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The model's name, or ""."""
        return self.traits.get("model", "").replace("_", " ")


@dataclass(frozen=True)
class AdbLink:
    """One device over the adb client; ``serial`` None is the only one that is connected."""

    serial: str | None = None
    environment: Mapping[str, str] | None = None

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Finished:
        """Run a POSIX sh script in the device's shell."""
        found = self._adb(["shell", "-T", wrap(script)], stdin, timeout_s)
        ended = unwrap(found)
        if ended is None:
            raise self._failure(found)
        return ended

    def open(self, script: str) -> Stream:
        """Start a POSIX sh script in the device's shell that we talk to."""
        return Stream.start(["adb", "-s", self.chosen, "shell", "-T", script], self.environment)

    def push(self, file: Path, to: str) -> None:
        """Copy a file to that path there."""
        if not file.is_file():
            raise DeviceError("there is no such file to push", artifact=file)
        limit = patience_for(file.stat().st_size)
        self._copied(self._adb(["push", str(file.resolve()), to], timeout_s=limit), to)

    def pull(self, source: str, file: Path) -> None:
        """Copy a file from there; its own ``pull`` would take one that never ends."""
        script = wrap(f"cat < {shlex.quote(source)}")
        words = ["-s", self.chosen, "shell", "-T", script]
        found = _client(words, timeout_s=600.0, environment=self.environment, most=LARGEST_PULLED)
        ended = unwrap(found)
        if ended is None:
            raise self._failure(found)
        if ended.code:
            raise DeviceError(f"it cannot be read: {ended.said}", artifact=source)
        try:
            file.write_bytes(ended.stdout)
        except OSError as error:
            raise DeviceError(f"it cannot be written: {error.strerror}", artifact=file) from error

    def recover(self) -> None:
        """Call a device of the network again; one on a cable comes back by itself."""
        if ":" in (self.serial or ""):
            with contextlib.suppress(DeviceError):
                _client(["connect", str(self.serial)], timeout_s=10.0, environment=self.environment)

    @cached_property
    def chosen(self) -> str:
        """The serial of the device.

        Raises:
            DeviceError: there is none, or several and none was named.
            LinkDown: the server does not answer.
        """
        if self.serial is not None:
            return self.serial
        found = listed(self.environment)
        ready = [one.serial for one in found if one.state == "device"]
        if len(ready) == 1:
            return ready[0]
        if ready:
            raise DeviceError(
                f"several devices are connected: {', '.join(ready)}",
                hint=f"device.serial={quoted(ready[0])}",
            )
        if found:
            raise explain(*found)
        raise DeviceError(
            "adb sees no device",
            hint="plug it in and allow USB debugging in its developer options, or adb connect "
            "ADDRESS:PORT",
        )

    def _adb(self, words: list[str], stdin: bytes = b"", timeout_s: float = 60.0) -> Finished:
        return _client(["-s", self.chosen, *words], stdin, timeout_s, self.environment)

    def _copied(self, found: Finished, path: str) -> None:
        """Judge a push or a pull: a broken link is tried again, a folder that refuses is not."""
        if found.code:
            said = answers.shown(found.stderr + b"\n" + found.stdout, 2000)
            if ("remote" in said and "couldn't" in said) or "failed to copy" in said:
                # Not its summary: that counts the file as pushed all the same.
                why = next(
                    (one for one in (found.stderr + found.stdout).splitlines() if b"error:" in one),
                    said.encode(),
                )
                raise DeviceError(f"adb could not copy it: {answers.shown(why)}", artifact=path)
            raise self._failure(found)

    def _failure(self, found: Finished) -> DeviceError:
        """Say why a command did not come to its end, by the state that the server shows."""
        said = answers.shown(found.stderr)
        every = listed(self.environment)
        state = next((one for one in every if one.serial == self.chosen), None)
        if state is not None and state.state not in ("device", "offline"):
            return explain(state)
        if state is None:
            return LinkDown(
                f"adb does not see the device {self.chosen}",
                hint=_others(every),
                absent=True,
            )
        if state.state == "offline":
            error = explain(state)
            return LinkDown(error.what, hint=error.hint)
        if found.code in (0, 1, 255) or any(sign in said for sign in _DOWN):
            return LinkDown(f"the link to {self.chosen} broke: {said or 'it was closed'}")
        return DeviceError(f"adb ended with status {found.code}: {said}", artifact=self.chosen)


@dataclass(frozen=True)
class Adb(Remote):
    """A phone or a board at ``serial`` (None: the only one that is connected).

    The other fields are those of `Remote`; a phone has no Python, so the native runner measures.
    With ``fixed_performance`` its clocks are held, where it offers that, while it is measured.
    """

    serial: str | None = None
    runner: str = "native"
    workdir: str = "/data/local/tmp/torchopt2edge"
    fixed_performance: bool = False

    @property
    def name(self) -> str:
        """The word in the rows' ``device``."""
        return "adb" if self.serial is None else f"adb:{self.serial}"

    @cached_property
    def link(self) -> AdbLink:
        """The link to it."""
        return AdbLink(self.serial)

    def steady(self) -> contextlib.AbstractContextManager[Watch | None]:
        """Keep a phone steady, and watch its sensors, while the block runs (`steady`)."""
        return steady(self, self.fixed_performance)


def listed(environment: Mapping[str, str] | None = None) -> list[Listed]:
    """Return what ``adb devices -l`` shows, devices in every state.

    Raises:
        DeviceError: there is no adb, or its server cannot be started.
        LinkDown: the server does not answer.
    """
    argv = ["adb", "devices", "-l"]
    try:
        found = call(argv, timeout_s=20.0, environment=environment, doubt=_starting)
    except LinkDown as error:
        raise LinkDown(
            "the adb server hangs: it takes our call and does not answer",
            hint="adb kill-server; where that hangs as well, pkill -KILL -x adb",
            absent=True,
        ) from error
    if found.code:
        raise DeviceError(
            f"adb cannot list the devices: {found.said}",
            hint="adb kill-server, then adb devices shows what is wrong",
        )
    return parse(found.stdout.decode(errors="replace"))


def parse(text: str) -> list[Listed]:
    """Read the output of ``adb devices -l``; lines of the starting server are no devices.

    A device says itself what its serial is: one that is not printable cannot be typed, and is none.
    """
    found: list[Listed] = []
    for line in text.partition(_HEAD)[2].splitlines():
        shown = len(line) <= _LONGEST_LINE and line.replace("\t", " ").isprintable()
        read = _LINE.fullmatch(line) if shown else None
        if read is None or line.startswith("*") or len(found) >= _MOST_DEVICES:
            continue
        pairs = [word.partition(":") for word in read["rest"].split() if ":" in word]
        traits = {key: value for key, _, value in pairs}
        found.append(Listed(read["serial"].strip(), read["state"], traits))
    return found


def explain(*found: Listed) -> DeviceError:
    """Return the error for devices that are there, and none of which can be used."""
    said = [
        (one.serial, *STATES.get(one.state, (f"is in the state {one.state!r}", "adb reconnect")))
        for one in found
    ]
    what = ", ".join(f"{serial} {state}" for serial, state, _ in said)
    if len(said) == 1:
        return DeviceError(f"the device {what}", hint=said[0][2])
    hints = "; ".join(f"{serial}: {hint}" for serial, _, hint in said)
    return DeviceError(f"adb sees no device that can be used: {what}", hint=hints)


def _others(found: Sequence[Listed]) -> str:
    """Return what to do about a serial that is not there."""
    ready = [f"device.serial={quoted(one.serial)}" for one in found if one.state == "device"]
    there = f" ({' or '.join(ready)})" if ready else ""
    return f"adb devices -l shows those that it sees{there}"


def quoted(serial: str) -> str:
    """Return a serial as it is typed in an override: one of mDNS may hold a space and brackets."""
    if re.fullmatch(r"[\w.:-]+", serial):
        return serial
    return shlex.quote(f'"{serial}"')


def _client(
    words: list[str],
    stdin: bytes = b"",
    timeout_s: float = 60.0,
    environment: Mapping[str, str] | None = None,
    most: int = MOST,
) -> Finished:
    """Run the client; where it takes long, see that the server is not what hangs."""

    def doubt(_: str) -> None:
        listed(environment)

    try:
        return call(["adb", *words], stdin, timeout_s, environment, doubt, most)
    except LinkDown as error:
        if error.absent:
            raise
        raise LinkDown(
            f"{error.what}: its server answers, the device does not",
            hint="unplug it and plug it in again, or adb reconnect",
        ) from error


def _starting(said: str) -> None:
    """Wait for a server only while it starts: one that runs knows its devices at once."""
    if "daemon" not in said:
        raise LinkDown("it does not say what it knows")
