"""Temperature, clock, power and energy as the machine shows them.

A sensor that is absent is "unavailable", never 0. What only a board's own program tells
(Raspberry Pi's ``vcgencmd``, Jetson's ``tegrastats``) is asked for where that program is.
"""

from __future__ import annotations

import operator
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from torchopt2edge.runner.system_info import ROOT, UNAVAILABLE, Tree, load, read

_PROGRAMS = ("usr/bin", "usr/local/bin", "opt/vc/bin")
# vcgencmd get_throttled: 1 the clock is capped, 2 throttled, 3 the soft temperature limit holds.
_PI_LIMITED = 0b1110
_LONGEST_LINE = 4096


def sense(root: Path = ROOT) -> dict[str, Any]:
    """Return one sample: hottest zone in °C, mean clock and lowest cap of the cores in MHz, load.

    ``capped`` tells whether a core's ceiling was lowered below what its silicon offers: the
    plainest evidence of throttling there is. ``energy_j`` is what the processor's packages have
    used so far (RAPL, which wraps around), ``power_w`` what a rail of the board draws now.
    """
    maximum, silicon = _mhz(root, "scaling_max_freq"), _mhz(root, "cpuinfo_max_freq")
    current = _mhz(root, "scaling_cur_freq")
    found = {
        "temperature_c": temperature(root),
        "clock_mhz": round(sum(current) / len(current), 1) if current else UNAVAILABLE,
        "clock_cap_mhz": min(maximum) if maximum else UNAVAILABLE,
        "capped": (
            any(map(operator.lt, maximum, silicon))
            if maximum and len(maximum) == len(silicon)
            else UNAVAILABLE
        ),
        "load": load(Tree(root)),
        "energy_j": energy(root),
        "power_w": power(root),
    }
    return {**found, **_board(root)}


def temperature(root: Path = ROOT) -> float | str:
    """Return the hottest thermal zone in °C; where there is no zone, the hottest hwmon sensor.

    A zone at exactly 0, or beyond what silicon survives, is a sensor that is not there.
    """
    for folder, name in (("thermal", "thermal_zone*/temp"), ("hwmon", "hwmon*/temp*_input")):
        found = _numbers(root, f"sys/class/{folder}", name)
        readings = [value / 1000 for value in found if -40_000 < value < 150_000 and value]
        if readings:
            return max(readings)
    return UNAVAILABLE


def energy(root: Path = ROOT) -> float | str:
    """Return the joules that all packages have used since their counters began."""
    found = _numbers(root, "sys/class/powercap", "intel-rapl:[0-9]/energy_uj")
    return sum(found) / 1e6 if found else UNAVAILABLE


def power(root: Path = ROOT) -> float | str:
    """Return the watts of the greatest rail that a power monitor shows (hwmon, in µW)."""
    found = _numbers(root, "sys/class/hwmon", "hwmon*/power*_input")
    return round(max(found) / 1e6, 3) if found else UNAVAILABLE


def joules(before: object, after: object) -> float | None:
    """Return what two readings of `energy` lie apart, None where one is none or it wrapped."""
    if not isinstance(before, float) or not isinstance(after, float) or after < before:
        return None
    return after - before


def vcgencmd(text: str) -> dict[str, Any]:
    """Read ``throttled=0x50000`` of a Raspberry Pi's firmware; {} when it is something else."""
    found = re.search(r"throttled=0x([0-9a-fA-F]+)", text)
    if found is None:
        return {}
    bits = int(found[1], 16)
    return {"capped": bool(bits & _PI_LIMITED), "under_voltage": bool(bits & 1)}


def tegrastats(text: str) -> dict[str, Any]:
    """Read one line of Jetson's ``tegrastats``: hottest sensor and the board's input power."""
    made: dict[str, Any] = {}
    degrees = [float(one) for one in re.findall(r"@(-?\d+(?:\.\d+)?)C", text)]
    real = [one for one in degrees if -40.0 < one < 150.0 and one]
    if real:
        made["temperature_c"] = max(real)
    rail = re.search(r"(?:VDD_IN|POM_5V_IN) (\d+)(?:mW)?/", text)
    if rail:
        made["power_w"] = int(rail[1]) / 1000
    return made


def _board(root: Path) -> dict[str, Any]:
    """Ask the programs of the board, where they are."""
    if (pi := _program(root, "vcgencmd")) is not None:
        return vcgencmd(_said([pi, "get_throttled"]))
    if (jetson := _program(root, "tegrastats")) is not None:
        return tegrastats(_said([jetson, "--interval", "100"]))
    return {}


def _program(root: Path, name: str) -> str | None:
    return shutil.which(name, path=":".join(str(root / folder) for folder in _PROGRAMS))


def _said(argv: list[str]) -> str:
    """Return the first line that a program prints (one of the two never ends by itself)."""
    try:
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        ) as process:
            try:
                assert process.stdout is not None
                return process.stdout.readline(_LONGEST_LINE).decode(errors="replace")
            finally:
                process.kill()
    except OSError:
        return ""


def _numbers(root: Path, folder: str, pattern: str) -> list[int]:
    texts = (read(place) for place in sorted((root / folder).glob(pattern)))
    return [int(text) for text in texts if text and text.lstrip("-").isdigit()]


def _mhz(root: Path, name: str) -> list[float]:
    found = _numbers(root, "sys/devices/system/cpu", f"cpu[0-9]*/cpufreq/{name}")
    return [value / 1000 for value in found]
