"""Temperature and clock as the kernel shows them; absent sensors are "unavailable", never 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchopt2edge.devices.linux import ROOT, UNAVAILABLE, load, read


def sense(root: Path = ROOT) -> dict[str, Any]:
    """Return one sample: hottest zone in °C, mean clock and lowest cap of the cores in MHz, load.

    ``capped`` tells whether a core's ceiling was lowered below what its silicon offers: the
    plainest evidence of throttling there is.
    """
    maximum, silicon = _mhz(root, "scaling_max_freq"), _mhz(root, "cpuinfo_max_freq")
    current = _mhz(root, "scaling_cur_freq")
    return {
        "temperature_c": temperature(root),
        "clock_mhz": round(sum(current) / len(current), 1) if current else UNAVAILABLE,
        "clock_cap_mhz": min(maximum) if maximum else UNAVAILABLE,
        "capped": (
            any(now < most for now, most in zip(maximum, silicon, strict=True))
            if maximum and len(maximum) == len(silicon)
            else UNAVAILABLE
        ),
        "load": load(root),
    }


def temperature(root: Path = ROOT) -> float | str:
    """Return the hottest thermal zone in °C.

    A zone at exactly 0, or beyond what silicon survives, is a sensor that is not there.
    """
    readings = []
    for zone in (root / "sys/class/thermal").glob("thermal_zone*/temp"):
        text = read(zone)
        if text and text.lstrip("-").isdigit() and -40_000 < int(text) < 150_000 and int(text):
            readings.append(int(text) / 1000)
    return max(readings) if readings else UNAVAILABLE


def _mhz(root: Path, name: str) -> list[float]:
    places = sorted((root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/cpufreq/{name}"))
    return [int(text) / 1000 for place in places if (text := read(place)) and text.isdigit()]
