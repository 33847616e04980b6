"""What a browser's processes have used, read from /proc by the session that they all are of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_SESSION = 3  # in /proc/<pid>/stat, counted behind the name, which may hold anything


@dataclass(frozen=True)
class Usage:
    """CPU nanoseconds, involuntary switches and peak resident bytes of the page's process."""

    cpu_ns: int
    involuntary: int
    peak_bytes: int


def members(session: int, proc: Path = _PROC) -> list[int]:
    """Return the processes of a session that live."""
    found = []
    for place in proc.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            rest = place.read_text(errors="replace").rpartition(")")[2].split()
            if int(rest[_SESSION]) == session and rest[0] not in "ZX":
                found.append(int(place.parent.name))
    return found


def usage(session: int, proc: Path = _PROC) -> Usage | None:
    """Return what the pages of a browser have used, None where the system does not say."""
    pages = [pid for pid in members(session, proc) if _is_page(proc / str(pid))]
    if not pages:
        return None
    status = [text for pid in pages for text in _texts(proc / str(pid), "status")]
    times = [text.split()[0] for pid in pages for text in _texts(proc / str(pid), "schedstat")]
    if not times or not status:
        return None
    peaks = [_field((_read(proc / str(pid) / "status")), "VmHWM:") for pid in pages]
    return Usage(
        cpu_ns=sum(map(int, times)),
        involuntary=sum(_field(text, "nonvoluntary_ctxt_switches:") for text in status),
        peak_bytes=max(peaks) * 1024,
    )


def _is_page(process: Path) -> bool:
    words = _read(process / "cmdline").replace("\0", " ").split()  # Chromium writes its own title
    return "--type=renderer" in words


def _texts(process: Path, name: str) -> Iterator[str]:
    """Yield a file of every thread."""
    for place in (process / "task").glob(f"*/{name}"):
        if text := _read(place):
            yield text


def _read(place: Path) -> str:
    try:
        return place.read_text(errors="replace")
    except OSError:
        return ""


def _field(status: str, name: str) -> int:
    for line in status.splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0
