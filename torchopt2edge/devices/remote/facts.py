"""A machine as it tells about itself over a link: one script's output, read as `system_info` reads.

The script prints the files that matter; here they are laid under a temporary root, so that a
phone, a board and this machine are read by the same code.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from torchopt2edge.devices import core_classes as core
from torchopt2edge.runner import system_info

_MARK = b"\x1e"  # no file of /proc or /sys holds it
_CORE = "sys/devices/system/cpu"
SCRIPT = r"""
cd /
show() { printf '\036%s\n' "$1"; }
for file in proc/cpuinfo proc/meminfo proc/loadavg proc/stat etc/os-release \
  sys/devices/system/clocksource/clocksource0/current_clocksource \
  sys/devices/system/cpu/online \
  sys/devices/system/cpu/cpu[0-9]*/cpu_capacity \
  sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor \
  sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq; do
  if [ -r "$file" ]; then show "$file"; cat "$file" 2>/dev/null; fi
done
show arch; uname -m
show kernel; uname -r
show bits; getconf LONG_BIT 2>/dev/null ||
  case $(head -c 5 "/proc/$$/exe" 2>/dev/null | tail -c 1 | od -An -tu1 2>/dev/null) in
    *1) echo 32 ;; *2) echo 64 ;; esac
show libc; getconf GNU_LIBC_VERSION 2>/dev/null
for file in lib*/ld-musl-*.so.1 lib*/ld-linux*.so.*; do
  if [ -e "$file" ]; then readlink -f "$file"; "/$file" --version 2>/dev/null; fi
done
show libstdc++
ls -d lib*/libstdc++.so.6 lib*/*/libstdc++.so.6 usr/lib*/libstdc++.so.6 \
  usr/lib*/*/libstdc++.so.6 2>/dev/null
show exe; readlink "/proc/$$/task/$$/exe" 2>/dev/null
if command -v getprop >/dev/null; then
  for name in ro.product.manufacturer ro.product.model ro.soc.model ro.product.cpu.abi \
    ro.build.version.release; do show "$name"; getprop "$name"; done
fi
"""
BUSY = r"""
cd /
for file in proc/loadavg proc/stat sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor; do
  if [ -r "$file" ]; then printf '\036%s\n' "$file"; cat "$file" 2>/dev/null; fi
done
"""
"""What of `SCRIPT` changes while we work."""

UNTOLD = dict.fromkeys(("load", "steal", "governor", "other_jobs"), system_info.UNAVAILABLE)
"""The facts that it gives, of a device that does not answer."""

_OTHERS = r"""
printf '\036others\n'
(
  cd {jobs} 2>/dev/null || exit 0
  for at in */*/; do
    case $at in {run}/*) continue ;; esac
    if [ -e "$at/pid" ] && read -r pid <"$at/pid" && [ "/proc/$pid/cwd" -ef "$at" ]; then
      echo "$at"
    fi
  done
)
"""


def others(jobs: str, run: str) -> str:
    """Return the script that names the jobs of other runs that live in the folder ``jobs``.

    ``jobs`` is quoted already; it goes before the other scripts, which leave the home folder.
    """
    return _OTHERS.format(jobs=jobs, run=run)


def count(said: bytes) -> int:
    """Return how many jobs `others` named."""
    return len(parse(said).get("others", "").splitlines())


def machine(said: bytes) -> dict[str, Any]:
    """Return the facts of the machine on which `SCRIPT` printed this."""
    files = parse(said)
    with tempfile.TemporaryDirectory(prefix="t2e-") as folder:
        root = _lay(files, Path(folder))
        found = system_info.machine(root)
        found |= {"core_classes": core.classes(root)}
    arch = files.get("arch", "").strip()
    foreign = "vendor_id" in files.get("proc/cpuinfo", "")
    found |= {
        "arch": arch or system_info.UNAVAILABLE,
        "kernel": files.get("kernel", "").strip() or system_info.UNAVAILABLE,
        "bits": bits(files),
        "libc": libc(files["libc"]) if "libc" in files else system_info.UNAVAILABLE,
        "libstdc++": bool(files["libstdc++"].strip())
        if "libstdc++" in files
        else system_info.UNAVAILABLE,
        "cores": cores(files),
        "os": found["os"] if "etc/os-release" in files else system_info.UNAVAILABLE,
        "emulated": found["emulated"] or (foreign and arch.startswith(("arm", "aarch", "riscv"))),
    }
    return found | _android(files)


def parse(said: bytes) -> dict[str, str]:
    """Return the files that the script printed, by their paths."""
    found = {}
    for piece in said.split(_MARK)[1:]:
        name, ended, body = piece.partition(b"\n")
        if not ended:
            continue
        whole = body[: body.rfind(b"\n") + 1]  # a line that was cut is none
        found[name.decode(errors="replace")] = whole.decode(errors="replace")
    return found


def bits(files: dict[str, str]) -> int | str:
    """Return how wide the pointers of the system's programs are: a 64-bit kernel may run 32."""
    said = files.get("bits", "").strip()
    return int(said) if said in ("32", "64") else system_info.UNAVAILABLE


def libc(said: str) -> str:
    """Return the C library: ``glibc 2.36``, ``musl``, or ``none`` that either would be."""
    found = re.search(r"(?:^glibc |\bGLIBC |version |/ld-)(2\.\d+)", said, re.MULTILINE)
    if found and not said.startswith("musl"):
        return f"glibc {found[1]}"
    return "musl" if "ld-musl" in said else "none"


def cores(files: dict[str, str]) -> int | str:
    """Return how many cores run, by the kernel's list (``0-3,6``), else by /proc/stat."""
    count = len(core.numbers(files.get(f"{_CORE}/online", "")))
    lines = files.get("proc/stat", "").splitlines()
    counted = sum(line.startswith("cpu") and line[3:4].isdigit() for line in lines)
    return count or counted or system_info.UNAVAILABLE


def _android(files: dict[str, str]) -> dict[str, Any]:
    def of(name: str) -> str:
        return files.get(name, "").strip()

    release = of("ro.build.version.release")
    if not release and not of("ro.product.model"):
        return {}
    found = {
        "os": f"Android {release}".strip(),
        "model": f"{of('ro.product.manufacturer')} {of('ro.product.model')}".strip(),
        "abi": of("ro.product.cpu.abi") or system_info.UNAVAILABLE,
    }
    return found | ({"cpu": of("ro.soc.model")} if of("ro.soc.model") else {})


def _lay(files: dict[str, str], root: Path) -> Path:
    for name, body in files.items():
        if "/" not in name or ".." in name:
            continue
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
    own = root / f"proc/self/task/{os.getpid()}/exe"  # where `system_info.emulated` looks
    own.parent.mkdir(parents=True, exist_ok=True)
    own.symlink_to(files.get("exe", "").strip() or "unknown")
    return root
