"""Peak resident memory of a process and of all that it starts, sampled from outside.

``VmHWM`` of each process, which the kernel keeps (``ru_maxrss`` is inherited over fork and exec):
a sample late in a process's life tells its whole past, so ten samples a second miss only what a
process newly reached in its last tenth of a second.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType

PERIOD_S = 0.1
_ROLES = {"child.py": "converter", "onnx2tf": "onnx2tf command", "runner": "runner"}


class Watch:
    """Samples a tree of processes in a thread, from ``__enter__`` to ``__exit__``."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen: dict[int, tuple[str, int]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Watch:
        """Begin to sample."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop sampling."""
        self._end.set()
        self._thread.join()

    @property
    def peaks_mb(self) -> dict[str, float]:
        """The largest peak of any process, by its role, in 1e6 bytes."""
        found: dict[str, float] = {}
        for role, peak in list(self._seen.values()):
            found[role] = max(found.get(role, 0.0), round(peak / 1e6, 1))
        return found

    def _loop(self) -> None:
        while not self._end.wait(PERIOD_S):
            for pid in tree(self._pid):
                peak = peak_bytes(pid)
                if peak is not None:
                    # The last value, not the greatest: between fork and exec a child shows its
                    # parent's memory, which is counted there.
                    role = "main" if pid == self._pid else _role(pid)
                    self._seen[pid] = (role, peak)


def tree(root: int) -> list[int]:
    """Return a process and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                children.setdefault(int(parent), []).append(int(entry.name))
    found = [root]
    for pid in found:  # grows while it is walked: breadth first
        found.extend(children.get(pid, []))
    return found


def peak_bytes(pid: int) -> int | None:
    """Return a process's VmHWM, or None when it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _role(pid: int) -> str:
    """Say what a process is for, from its command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "gone"
    names = [Path(word).name for word in words if word]
    for mark, role in _ROLES.items():
        if any(mark in name for name in names):
            return role
    return names[0] if names else "kernel"
