"""A link that goes nowhere: each script runs here, in a shell and with the tools of some device."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.devices.serving import skip
from torchopt2edge.devices.remote.device import Remote
from torchopt2edge.devices.remote.stream import Stream
from torchopt2edge.devices.remote.transport import Finished, LinkDown, call, unwrap, wrap

# Name → the shell, and the program whose links stand for all others on the device's PATH.
SHELLS = {
    "dash": (["dash"], None),
    "busybox": (["busybox", "sh"], "busybox"),
    "toybox": (["mksh"], "toybox"),
}
_NOT_THEIRS = ("sh", "python3", "dash")


ECHO = ["cat"]
COUNT = """
import sys
for at, line in enumerate(sys.stdin, 1):
    print('{"n": %d, "got": %s}' % (at, line.strip()), flush=True)
"""
"""Runners, as small as can be: one says what it is told, one how often it was told something."""


def tools(name: str, folder: Path) -> str:
    """Return the PATH of a device whose programs are those of one multi-call binary."""
    shell, box = SHELLS[name]
    folder.mkdir(parents=True, exist_ok=True)
    program = shutil.which(shell[0]) or ""
    if box is None:
        return os.environ["PATH"]
    binary = shutil.which(box) or ""
    listed = call([binary, "--list"] if box == "busybox" else [binary]).stdout.decode().split()
    for applet in listed:
        if applet not in _NOT_THEIRS and not (folder / applet).exists():
            (folder / applet).symlink_to(binary)
    if (folder / "sh").exists():
        return str(folder)
    if box == "toybox":
        (folder / "sh").symlink_to(program)
        for lacking in ("dd",):  # Debian's toybox is built with fewer than Android's
            if not (folder / lacking).exists():
                (folder / lacking).symlink_to(shutil.which(lacking) or "")
    else:
        (folder / "sh").symlink_to(binary)
    return str(folder)


@dataclass
class Cuts:
    """What happens to the next commands over a link: ``before`` the script runs, or ``after``."""

    plan: list[str] = field(default_factory=list)
    commands: int = 0
    sent: int = 0
    streams: list[Stream] = field(default_factory=list)


@dataclass(frozen=True)
class ShellLink:
    """Runs scripts here with a PATH, a home and a shell of its own."""

    shell: tuple[str, ...]
    path: str
    home: Path
    cuts: Cuts

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Finished:
        """Run it, unless the plan says that the link breaks."""
        self.cuts.commands += 1
        kind = self.cuts.plan.pop(0) if self.cuts.plan else "whole"
        if kind == "before":
            raise LinkDown("cut before")
        if kind == "stdin":
            stdin = stdin[: len(stdin) // 2]
        found = unwrap(call(self._argv(wrap(script)), stdin, timeout_s, self._environment))
        if found is None or kind in ("after", "stdin"):
            raise LinkDown(f"cut {kind}")
        return found

    def open(self, script: str) -> Stream:
        """Talk to it, unless the plan says that the link is down, or breaks before the end."""
        self.cuts.commands += 1
        kind = self.cuts.plan.pop(0) if self.cuts.plan else "whole"
        if kind == "before":
            raise LinkDown("cut before")
        self.cuts.streams.append(Stream.start(self._argv(script), self._environment))
        if kind != "whole":
            os.killpg(self.cuts.streams[-1].pid, signal.SIGKILL)
        return self.cuts.streams[-1]

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": self.path, "HOME": str(self.home)}

    def _argv(self, script: str) -> list[str]:
        program = shutil.which(self.shell[0]) or self.shell[0]
        return [program, *self.shell[1:], "-c", f"cd {self.home}\n{script}"]

    def push(self, file: Path, to: str) -> None:
        """Copy it."""
        self.cuts.sent += file.stat().st_size
        target = Path(to) if to.startswith("/") else self.home / to
        shutil.copyfile(file, target)

    def pull(self, source: str, file: Path) -> None:
        """Copy it."""
        shutil.copyfile(source, file)

    def recover(self) -> None:
        """Nothing helps."""


@dataclass(frozen=True)
class Shell(Remote):
    """A device that is this machine, seen through a device's shell."""

    kind: str = "dash"
    root: Path = Path()
    cuts: Cuts = field(default_factory=Cuts)

    @property
    def name(self) -> str:
        """The word in the rows' ``device``."""
        return f"shell:{self.kind}"

    @cached_property
    def link(self) -> ShellLink:
        """The link to nowhere."""
        home = self.root / "home"
        home.mkdir(parents=True, exist_ok=True)
        path = tools(self.kind, self.root / "bin")
        return ShellLink(tuple(SHELLS[self.kind][0]), path, home, self.cuts)


def made(kind: str, folder: Path) -> Shell:
    """Return this machine, seen through a shell."""
    shell, box = SHELLS[kind]
    for program in (shell[0], box):
        if program and not shutil.which(program):
            skip(f"there is no {program}")
    return Shell(
        kind=kind,
        root=folder,
        python=sys.executable,
        workdir=str(folder / "board"),
        patience_s=30,
        link_patience_s=20,
    )
