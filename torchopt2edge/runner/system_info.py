"""What a Linux machine says of itself under /proc and /sys: the reading that every device shares.

Standard library only: the runner reads the same on the device. What cannot be read is
"unavailable", never 0 and never a guess. Every function takes the root of the tree, so that a
recorded phone or board can be read as well as this machine.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

UNAVAILABLE = "unavailable"
ROOT = Path("/")

# The instructions that decide which integer and half-precision kernels a runtime picks.
_TELLING = {
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni",
    "avx_vnni_int8", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "fphp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme", "neon",
    "rvv", "v",
}  # fmt: skip


def read(path: Path) -> str | None:
    """Return a small file's text without the trailing newline, or None when it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def machine(root: Path = ROOT) -> dict[str, Any]:
    """Return the facts about the machine: CPU, memory, system, governor, load, steal."""
    model, flags = cpu(root)
    return {
        "cpu": model,
        "cpu_flags": flags,
        "arch": platform.machine() or UNAVAILABLE,
        "cores": os.cpu_count() or UNAVAILABLE,
        "memory_gb": memory_gb(root),
        "os": system(root),
        "kernel": platform.release() or UNAVAILABLE,
        "governor": governor(root),
        "clocksource": read(
            root / "sys/devices/system/clocksource/clocksource0/current_clocksource"
        )
        or UNAVAILABLE,
        "emulated": emulated(root),
        "load": load(root),
        "steal": steal_since_boot(root),
    }


def cpu(root: Path = ROOT) -> tuple[str, list[str]]:
    """Return the CPU's model and those of its flags that decide which kernels run."""
    text = read(root / "proc/cpuinfo") or ""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    flags = fields.get("flags") or fields.get("features") or fields.get("isa") or ""
    name = fields.get("model name") or fields.get("hardware") or fields.get("uarch")
    if name is None and "cpu part" in fields:  # arm64 names only an implementer and a part
        name = f"ARM implementer {fields.get('cpu implementer')} part {fields['cpu part']}"
    return name or UNAVAILABLE, sorted(_TELLING.intersection(flags.split()))


def memory_gb(root: Path = ROOT) -> float | str:
    """Return the machine's memory in 1e9 bytes."""
    for line in (read(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) * 1024 / 1e9, 2)
    return UNAVAILABLE


def system(root: Path = ROOT) -> str:
    """Return the name that the distribution gives itself."""
    for line in (read(root / "etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip('"')
    return platform.system() or UNAVAILABLE


def governor(root: Path = ROOT) -> str:
    """Return the cpufreq governors in use, joined by commas when the cores differ."""
    places = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    return ",".join(sorted({text for place in places if (text := read(place))})) or UNAVAILABLE


def load(root: Path = ROOT) -> float | str:
    """Return the one-minute load average."""
    text = read(root / "proc/loadavg")
    return float(text.split()[0]) if text else UNAVAILABLE


def cpu_ticks(root: Path = ROOT) -> tuple[int, int] | None:
    """Return (steal, total) ticks of all cores since boot, or None when they cannot be read."""
    for line in (read(root / "proc/stat") or "").splitlines():
        parts = line.split()
        if parts[:1] == ["cpu"] and len(parts) > 8:  # guest time is inside user time already
            ticks = [int(part) for part in parts[1:9]]
            return ticks[7], sum(ticks)
    return None


def steal_since_boot(root: Path = ROOT) -> float | str:
    """Return the share of time, 0 to 1, that the hypervisor kept from this machine since boot."""
    ticks = cpu_ticks(root)
    return round(ticks[0] / ticks[1], 4) if ticks and ticks[1] else UNAVAILABLE


def emulated(root: Path = ROOT) -> bool:
    """Whether this process runs under qemu-user or on a CPU that is interpreted.

    qemu-user hides itself in ``/proc/self/exe`` but not in the thread's own entry; an older one
    also shows the host's cpuinfo to a guest of another architecture.
    """
    own = root / f"proc/self/task/{os.getpid()}/exe"
    try:
        program = own.readlink().name
    except OSError:
        program = ""
    text = read(root / "proc/cpuinfo") or ""
    foreign = "vendor_id" in text and platform.machine().startswith(("arm", "aarch", "riscv"))
    return program.startswith("qemu-") or foreign or "QEMU TCG" in text


def thread_counts(root: Path = ROOT) -> tuple[int, int]:
    """Return (involuntary context switches, peak resident bytes) of this process so far.

    The peak is ``VmHWM`` (``ru_maxrss`` is inherited over fork and exec); the switches are those
    of every thread. A value that cannot be read is -1.
    """
    switches = 0
    for status in (root / "proc/self/task").glob("*/status"):
        count = _field(read(status) or "", "nonvoluntary_ctxt_switches:")
        switches = -1 if count < 0 or switches < 0 else switches + count
    peak = _field(read(root / "proc/self/status") or "", "VmHWM:")
    return switches, peak * 1024 if peak >= 0 else -1


def _field(status: str, name: str) -> int:
    for line in status.splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return -1
