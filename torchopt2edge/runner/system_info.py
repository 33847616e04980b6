"""What a Linux machine says of itself under /proc and /sys: the reading that every device shares.

Standard library only: the runner reads the same on the device. What cannot be read is
"unavailable", never 0 and never a guess. Every function takes the files, so that what a phone or a
board printed of its own (`devices.remote.facts`) is read as well as those of this machine.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

UNAVAILABLE = "unavailable"
ROOT = Path("/")

_LONGEST_NAME = 200

# The instructions that decide which integer and half-precision kernels a runtime picks.
_TELLING = {
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni",
    "avx_vnni_int8", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "fphp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme", "neon",
    "rvv", "v",
}  # fmt: skip


class Files(Protocol):
    """What a machine tells of itself: texts under the names that they have below its root."""

    def read(self, name: str) -> str | None:
        """Return a file's text without the trailing newline, or None when it cannot be read."""

    def names(self, pattern: str) -> list[str]:
        """Return the files of a pattern, in order."""


@dataclass(frozen=True)
class Tree:
    """The files below a folder; that of a running Linux is its root."""

    root: Path = ROOT

    def read(self, name: str) -> str | None:
        """Return a small file's text without the trailing newline, or None."""
        return read(self.root / name)

    def names(self, pattern: str) -> list[str]:
        """Return the files of a pattern, in order."""
        return sorted(str(one.relative_to(self.root)) for one in self.root.glob(pattern))


HERE = Tree()
"""The machine that we run on."""


def read(path: Path) -> str | None:
    """Return a small file's text without the trailing newline, or None when it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def machine(files: Files = HERE) -> dict[str, Any]:
    """Return the facts about this machine: CPU, memory, system, governor, load, steal."""
    told = described(files)
    if told["os"] == UNAVAILABLE:
        told["os"] = platform.system() or UNAVAILABLE
    return {
        **told,
        "arch": platform.machine() or UNAVAILABLE,
        "cores": os.cpu_count() or UNAVAILABLE,
        "kernel": platform.release() or UNAVAILABLE,
        "emulated": emulated(files, platform.machine(), _program()),
    }


def described(files: Files) -> dict[str, Any]:
    """Return what a machine's files say of it, whichever machine it is."""
    model, flags = cpu(files)
    clocksource = files.read("sys/devices/system/clocksource/clocksource0/current_clocksource")
    return {
        "cpu": model,
        "cpu_flags": flags,
        "memory_gb": memory_gb(files),
        "os": system(files),
        "governor": governor(files),
        "clocksource": clocksource or UNAVAILABLE,
        "load": load(files),
        "steal": steal_since_boot(files),
    }


def cpu(files: Files = HERE) -> tuple[str, list[str]]:
    """Return the CPU's model and those of its flags that decide which kernels run."""
    text = files.read("proc/cpuinfo") or ""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    flags = fields.get("flags") or fields.get("features") or fields.get("isa") or ""
    name = fields.get("model name") or fields.get("hardware") or fields.get("uarch")
    if name is None and "cpu part" in fields:  # arm64 names only an implementer and a part
        name = f"ARM implementer {fields.get('cpu implementer')} part {fields['cpu part']}"
    return (name or UNAVAILABLE)[:_LONGEST_NAME], sorted(_TELLING.intersection(flags.split()))


def memory_gb(files: Files = HERE) -> float | str:
    """Return the machine's memory in 1e9 bytes."""
    for line in (files.read("proc/meminfo") or "").splitlines():
        words = line.split()
        if words[:1] == ["MemTotal:"] and len(words) > 1 and words[1].isdecimal():
            return round(int(words[1]) * 1024 / 1e9, 2)
    return UNAVAILABLE


def system(files: Files = HERE) -> str:
    """Return the name that the distribution gives itself."""
    for line in (files.read("etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip('"')[:_LONGEST_NAME]
    return UNAVAILABLE


def governor(files: Files = HERE) -> str:
    """Return the cpufreq governors in use, joined by commas when the cores differ."""
    places = files.names("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    named = ",".join(sorted({text for one in places if (text := files.read(one))}))
    return named[:_LONGEST_NAME] or UNAVAILABLE


def load(files: Files = HERE) -> float | str:
    """Return the one-minute load average."""
    text = files.read("proc/loadavg")
    return float(text.split()[0]) if text else UNAVAILABLE


def cpu_ticks(files: Files = HERE) -> tuple[int, int] | None:
    """Return (steal, total) ticks of all cores since boot, or None when they cannot be read."""
    for line in (files.read("proc/stat") or "").splitlines():
        parts = line.split()
        if parts[:1] == ["cpu"] and len(parts) > 8:  # guest time is inside user time already
            ticks = [int(part) for part in parts[1:9]]
            return ticks[7], sum(ticks)
    return None


def steal_since_boot(files: Files = HERE) -> float | str:
    """Return the share of time, 0 to 1, that the hypervisor kept from this machine since boot."""
    ticks = cpu_ticks(files)
    return round(ticks[0] / ticks[1], 4) if ticks and ticks[1] else UNAVAILABLE


def emulated(files: Files, arch: str, program: str) -> bool:
    """Whether a machine's processes run under qemu-user or on a CPU that is interpreted.

    qemu-user hides itself in ``/proc/self/exe`` but not in the thread's own entry, which is
    ``program``; an older one also shows the host's cpuinfo to a guest of another architecture.
    """
    text = files.read("proc/cpuinfo") or ""
    foreign = "vendor_id" in text and arch.startswith(("arm", "aarch", "riscv"))
    return program.rpartition("/")[2].startswith("qemu-") or foreign or "QEMU TCG" in text


def thread_counts(files: Files = HERE) -> tuple[int, int]:
    """Return (involuntary context switches, peak resident bytes) of this process so far.

    The peak is ``VmHWM`` (``ru_maxrss`` is inherited over fork and exec); the switches are those
    of every thread. A value that cannot be read is -1.
    """
    switches = 0
    for status in files.names("proc/self/task/*/status"):
        count = _field(files.read(status) or "", "nonvoluntary_ctxt_switches:")
        switches = -1 if count < 0 or switches < 0 else switches + count
    peak = _field(files.read("proc/self/status") or "", "VmHWM:")
    return switches, peak * 1024 if peak >= 0 else -1


def _program() -> str:
    """Return what this thread says that it runs."""
    try:
        return os.readlink(f"/proc/self/task/{os.getpid()}/exe")
    except OSError:
        return ""


def _field(status: str, name: str) -> int:
    for line in status.splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return -1
