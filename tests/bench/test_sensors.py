"""Sensors on recorded trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchopt2edge.bench.sensors import sense, temperature


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_a_machine_without_sensors_says_so(tmp_path: Path) -> None:
    assert set(sense(tmp_path).values()) == {"unavailable"}


def test_a_board_is_read(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu/cpu{}/cpufreq/{}"
    files = {"proc/loadavg": "0.42 0.30 0.20 1/200 1234"}
    for at, (now, most) in enumerate([(1_500_000, 1_500_000), (600_000, 1_800_000)]):
        files[cpu.format(at, "scaling_cur_freq")] = str(now)
        files[cpu.format(at, "scaling_max_freq")] = str(most)
        files[cpu.format(at, "cpuinfo_max_freq")] = "1800000"
    files["sys/class/thermal/thermal_zone0/temp"] = "48312"
    files["sys/class/thermal/thermal_zone1/temp"] = "51000"
    assert sense(tree(tmp_path, files)) == {
        "temperature_c": 51.0,
        "clock_mhz": 1050.0,
        "clock_cap_mhz": 1500.0,
        "capped": True,
        "load": 0.42,
    }


@pytest.mark.parametrize("text", ["0", "-274000", "999999", "N/A", ""])
def test_a_sensor_that_is_not_there_is_not_a_temperature(tmp_path: Path, text: str) -> None:
    root = tree(tmp_path, {"sys/class/thermal/thermal_zone0/temp": text})
    assert temperature(root) == "unavailable"
