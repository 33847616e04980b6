"""A machine as it tells about itself over a link: one script's output, read by `system_info`.

The script prints the files that matter; they are kept in memory under the names that were asked
for (`answers`), so that a phone, a board and this machine are read by the same code.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchopt2edge.devices import answers
from torchopt2edge.devices import core_classes as core
from torchopt2edge.runner import system_info

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
  others=0
  for at in */*/; do
    case $at in {run}/*) continue ;; esac
    if [ -e "$at/pid" ] && read -r pid <"$at/pid" && [ "/proc/$pid/cwd" -ef "$at" ]; then
      others=$((others + 1))
    fi
  done
  echo $others
)
"""


def others(jobs: str, run: str) -> str:
    """Return the script that counts the jobs of other runs that live in the folder ``jobs``.

    ``jobs`` is quoted already; it goes before the other scripts, which leave the home folder.
    """
    return _OTHERS.format(jobs=jobs, run=run)


@dataclass(frozen=True)
class Told:
    """The files that a machine printed, by name (`linux.Files`)."""

    files: Mapping[str, str]

    def read(self, name: str) -> str | None:
        """Return a file's text without the newline at its end, None where it was not printed."""
        text = self.files.get(name)
        return None if text is None else text.strip()

    def names(self, pattern: str) -> list[str]:
        """Return the files of a pattern, in order."""
        return sorted(fnmatch.filter(self.files, pattern))


def count(said: bytes) -> int:
    """Return how many jobs `others` counted."""
    return answers.number(answers.machine_files(said).get("others", "")) or 0


def machine(said: bytes) -> dict[str, Any]:
    """Return the facts of the machine on which `SCRIPT` printed this.

    Raises:
        AnswerError: it tells what it was not asked for, or of more than a machine has.
    """
    files = answers.machine_files(said)
    told = Told(files)

    def of(name: str) -> str:
        return told.read(name) or system_info.UNAVAILABLE

    return {
        **system_info.described(told),
        "core_classes": core.classes(told),
        "arch": of("arch"),
        "kernel": of("kernel"),
        "bits": bits(files),
        "libc": libc(files["libc"]) if "libc" in files else system_info.UNAVAILABLE,
        "libstdc++": bool(files["libstdc++"].strip())
        if "libstdc++" in files
        else system_info.UNAVAILABLE,
        "cores": cores(files),
        "emulated": system_info.emulated(told, files.get("arch", ""), files.get("exe", "").strip()),
        **_android(files),
    }


def bits(files: Mapping[str, str]) -> int | str:
    """Return how wide the pointers of the system's programs are: a 64-bit kernel may run 32."""
    said = files.get("bits", "").strip()
    return int(said) if said in ("32", "64") else system_info.UNAVAILABLE


def libc(said: str) -> str:
    """Return the C library: ``glibc 2.36``, ``musl``, or ``none`` that either would be."""
    found = re.search(r"(?:^glibc |\bGLIBC |version |/ld-)(2\.\d{1,3})", said, re.MULTILINE)
    if found and not said.startswith("musl"):
        return f"glibc {found[1]}"
    return "musl" if "ld-musl" in said else "none"


def cores(files: Mapping[str, str]) -> int | str:
    """Return how many cores run, by the kernel's list (``0-3,6``), else by /proc/stat."""
    count = len(answers.core_numbers(files.get(f"{core.FOLDER}/online", "")))
    lines = files.get("proc/stat", "").splitlines()
    counted = sum(line.startswith("cpu") and line[3:4].isdecimal() for line in lines)
    return count or counted or system_info.UNAVAILABLE


def _android(files: Mapping[str, str]) -> dict[str, Any]:
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
