"""Sensors on recorded trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchopt2edge.runner.sensors import joules, sense, tegrastats, temperature, vcgencmd


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
        "energy_j": "unavailable",
        "power_w": "unavailable",
    }


def test_energy_and_rails_are_read(tmp_path: Path) -> None:
    files = {
        "sys/class/powercap/intel-rapl:0/energy_uj": "262143000000",
        "sys/class/powercap/intel-rapl:1/energy_uj": "1000000",
        "sys/class/powercap/intel-rapl:0:0/energy_uj": "99",
        "sys/class/hwmon/hwmon1/power1_input": "4300000",
        "sys/class/hwmon/hwmon0/temp1_input": "44000",
    }
    found = sense(tree(tmp_path, files))
    assert found["energy_j"] == 262144.0
    assert found["power_w"] == 4.3
    assert found["temperature_c"] == 44.0


def test_a_counter_that_wrapped_is_no_energy() -> None:
    assert joules(10.0, 12.5) == 2.5
    assert joules(12.5, 10.0) is None
    assert joules("unavailable", 10.0) is None


def test_the_programs_of_boards_are_asked(tmp_path: Path) -> None:
    program = tree(tmp_path, {}) / "usr/bin/vcgencmd"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho throttled=0x50004\n")
    program.chmod(0o755)
    found = sense(tmp_path)
    assert found["capped"] is True
    assert found["under_voltage"] is False
    program.rename(program.with_name("tegrastats"))
    line = (
        "RAM 2448/7620MB (lfb 1x4MB) SWAP 0/3810MB CPU [12%@1510,9%@1510] GR3D_FREQ 0% "
        "cpu@48.1C tj@49.5C gpu@-256C VDD_IN 4300mW/4200mW"
    )
    program.with_name("tegrastats").write_text(f"#!/bin/sh\necho '{line}'\nsleep 60\n")
    found = sense(tmp_path)
    assert found["temperature_c"] == 49.5
    assert found["power_w"] == 4.3


@pytest.mark.parametrize("text", ["", "throttled=", "error=1", "VCHI initialization failed"])
def test_a_board_that_says_nothing_adds_nothing(text: str) -> None:
    assert vcgencmd(text) == {}
    assert tegrastats(text) == {}


@pytest.mark.parametrize("text", ["0", "-274000", "999999", "N/A", ""])
def test_a_sensor_that_is_not_there_is_not_a_temperature(tmp_path: Path, text: str) -> None:
    root = tree(tmp_path, {"sys/class/thermal/thermal_zone0/temp": text})
    assert temperature(root) == "unavailable"
