"""Which cores are alike: a phone's fast and slow ones must not be mixed in one measurement.

Classes come from what the kernel tells of its cores: their capacity, else their greatest clock,
else the part that an Arm core calls itself. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.devices import answers
from torchopt2edge.errors import DeviceError
from torchopt2edge.runner import system_info

NAMES = ("big", "mid", "little")
"""The words for classes: the fastest, those in between, the slowest."""

FOLDER = "sys/devices/system/cpu"
"""Where a Linux tells of its cores, below its root."""

_ALIKE = 0.08  # cores of one part differ by less: some may clock a little higher than their twins
# What Arm calls its cores (MIDR part numbers), where nothing else tells how fast they are.
_LITTLE = {"0xd03", "0xd04", "0xd05", "0xd46", "0xd80"}  # A53 A35 A55 A510 A520
_MID = {"0xd07", "0xd08", "0xd09", "0xd0a", "0xd0b", "0xd0d", "0xd41", "0xd47", "0xd4d", "0xd81",
        "0xd87"}  # A57 A72 A73 A75 A76 A77 A78 A710 A715 A720 A725  # fmt: skip
_BIG = {"0xd44", "0xd48", "0xd4e", "0xd82", "0xd85"}  # X1 X2 X3 X4 X925

Class = dict[str, Any]


def classes(files: system_info.Files = system_info.HERE) -> list[Class]:
    """Return the classes of the cores that are on, the fastest first; [] when not told.

    Each is ``{cores, name}`` with its ``capacity`` (1024 is the fastest core there) and ``max_mhz``
    where those are known; ``name`` is one of `NAMES`.
    """
    parts, capacity = _parts(files), _of_each(files, "cpu_capacity")
    clocks = {core: khz / 1000 for core, khz in _of_each(files, "cpufreq/cpuinfo_max_freq").items()}
    speeds: Mapping[int, float] = capacity or clocks or _ranks(parts)
    on = online(files)
    grouped = _grouped({core: speeds[core] for core in speeds if core in (on or speeds)}, parts)
    made = []
    for at, group in enumerate(grouped):
        one: Class = {"cores": sorted(group), "name": _name(at, len(grouped))}
        if capacity:
            one["capacity"] = round(max(capacity[core] for core in group))
        if mhz := [clocks[core] for core in group if core in clocks]:
            one["max_mhz"] = max(mhz)
        made.append(one)
    return made


def online(files: system_info.Files = system_info.HERE) -> set[int]:
    """Return the cores that are on, by the kernel's list (``0-3,6``); empty when not told."""
    return answers.core_numbers(files.read(f"{FOLDER}/online") or "")


def choose(known: Sequence[Mapping[str, Any]], name: str, device: str) -> tuple[int, ...]:
    """Return all cores of the class of that name; between several in the middle: of them all.

    Raises:
        DeviceError: there is no such word, or the device has no such class.
    """
    if name not in NAMES:
        raise DeviceError(
            f"there is no class of cores {name!r}",
            artifact=device,
            hint=f"device.cores={', '.join(NAMES)}, or null",
        )
    found = sorted(core for one in known if one["name"] == name for core in one["cores"])
    if found:
        return tuple(found)
    has = ", ".join(f"{one['name']} {one['cores']}" for one in known)
    raise DeviceError(
        f"it has no class of cores {name!r} ({has or 'it does not tell its cores apart'})",
        artifact=device,
        hint=f"device.cores={known[0]['name']}, or null" if known else "device.affinity=[0]",
    )


def those(asked: Sequence[int], known: Sequence[Mapping[str, Any]], device: str) -> tuple[int, ...]:
    """Return the cores that were asked for by number.

    Raises:
        DeviceError: the device tells its cores, and has not all of them.
    """
    has = sorted(core for one in known for core in one["cores"])
    missing = sorted(set(asked) - set(has)) if has else []
    if missing:
        raise DeviceError(
            f"it has no core {', '.join(map(str, missing))} that is on (it has {has})",
            artifact=device,
            hint=f"device.affinity=[{has[-1]}], or null",
        )
    return tuple(asked)


def pin(cores: Sequence[int] | None) -> list[str]:
    """Return the words that keep the program behind them on those cores; [] for None."""
    return [] if cores is None else ["taskset", f"{sum(1 << one for one in set(cores)):x}"]


def check(threads: int, cores: str | None, affinity: Sequence[int] | None, device: str) -> None:
    """Refuse a session without threads, and two answers to which cores it is kept on.

    Raises:
        DeviceError: there are no threads, or both name cores.
    """
    if threads < 1:
        raise DeviceError(f"a session cannot have {threads} threads", hint="device.threads=1")
    if cores is not None and affinity is not None:
        raise DeviceError(
            f"cores={cores} and affinity={list(affinity)} both name cores",
            artifact=device,
            hint="device.affinity=null, or device.cores=null",
        )


def check_ours(affinity: Sequence[int] | None) -> None:
    """Refuse cores of this machine that we may not use; None is the system's choice.

    Raises:
        DeviceError: there are none, or one is not ours.
    """
    here = sorted(os.sched_getaffinity(0))
    if affinity is not None and (not affinity or set(affinity) - set(here)):
        raise DeviceError(
            f"the cores {sorted(affinity)} are not all ours (we may use {here})",
            hint=f"device.affinity=[{here[-1]}]",
        )


def _name(at: int, count: int) -> str:
    """Return the word for a class: with a single one there is nothing slower than big."""
    if at == 0:
        return "big"
    return "little" if at == count - 1 else "mid"


def _of_each(files: system_info.Files, name: str) -> dict[int, float]:
    """Return the number in that file of each core; {} unless all that have it give one."""
    found: dict[int, float] = {}
    for place in files.names(f"{FOLDER}/cpu[0-9]*/{name}"):
        value = answers.number(files.read(place) or "")
        core = answers.number(place.removeprefix(f"{FOLDER}/cpu").partition("/")[0])
        if not value or core is None:
            return {}
        found[core] = float(value)
    return found


def _parts(files: system_info.Files) -> dict[int, str]:
    """Return what /proc/cpuinfo calls the part of each core that is on."""
    found: dict[int, str] = {}
    core = -1
    for line in (files.read("proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "processor":
            told = answers.number(value, answers.MOST_CORES)
            core = -1 if told is None else told
        elif key.strip().lower() == "cpu part" and core >= 0:
            found[core] = value.strip().lower()
    return found


def _ranks(parts: Mapping[int, str]) -> dict[int, float]:
    """Return 1, 2 or 3 for the kind of each core; {} where a part is unknown."""
    kinds = [(_LITTLE, 1.0), (_MID, 2.0), (_BIG, 3.0)]
    found = {core: rank for core, part in parts.items() for known, rank in kinds if part in known}
    return found if len(found) == len(parts) else {}


def _grouped(speeds: Mapping[int, float], parts: Mapping[int, str]) -> list[list[int]]:
    """Return cores of about one speed and of one part together, the fastest first."""
    if not parts.keys() >= speeds.keys():
        parts = {}  # a list that was cut would split twins
    made: list[list[int]] = []
    for core in sorted(speeds, key=lambda one: (-speeds[one], parts.get(one, ""), one)):
        first = made[-1][0] if made else None
        if (
            first is not None
            and parts.get(first) == parts.get(core)
            and speeds[core] >= (1.0 - _ALIKE) * speeds[first]
        ):
            made[-1].append(core)
        else:
            made.append([core])
    return made
