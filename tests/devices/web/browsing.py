"""What runs of ours a test can look at: browsers, and the processes of one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import psutil

MISSING = "no Chromium; as root: tests/report/html/provide.sh installs it"


def browsers(folder: Path) -> list[int]:
    """Return processes of the browsers whose profiles lie in a folder: those that still say so."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if one.environ().get("HOME", "").startswith(f"{folder}/t2e-browser-"):
                found.append(one.pid)
    return found


def settled(look: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Whether something comes true in time."""
    deadline = time.monotonic() + within_s
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def mains(process: psutil.Process) -> list[psutil.Process]:
    """Return a browser's own process, which its packager's script started, or which is it."""
    family = [process, *process.children(recursive=True)]
    return [one for one in family if "--type=" not in _words(one)][-1:]


def pages(process: psutil.Process) -> list[psutil.Process]:
    """Return the processes of a browser that show pages."""
    return [one for one in process.children(recursive=True) if "--type=renderer" in _words(one)]


def _words(process: psutil.Process) -> str:
    """Return what a process was started with; of one that ended meanwhile a type that none has."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return "--type=gone"
