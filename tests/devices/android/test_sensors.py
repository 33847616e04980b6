"""What Android says of heat and power: whole, cut anywhere, and mixed with complaints."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.devices.serving import skip
from tests.devices.shells import SHELLS, tools
from torchopt2edge.devices.android import sensors as android_sensors
from torchopt2edge.runner.system_info import UNAVAILABLE

# In the form that `dumpsys thermalservice` has since Android 10; the cached values are stale.
THERMAL = """\
IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
Thermal Status: 1
Cached temperatures:
\tTemperature{mValue=66.5, mType=0, mName=CPU0, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=62.500004, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=37.0, mType=0, mName=CPU7, mStatus=1}
\tTemperature{mValue=0.0, mType=10, mName=TPU, mStatus=0}
\tTemperature{mValue=NaN, mType=4, mName=USB, mStatus=0}
\tTemperature{mValue=4123.0, mType=6, mName=vbat, mStatus=0}
\tTemperature{mValue=100.0, mType=8, mName=soc, mStatus=0}
\tTemperature{mValue=31.2, mType=2, mName=battery, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=5, mName=tpu_cooling}
Temperature static thresholds from HAL:
\tTemperatureThreshold{mType=3, mName=skin, mHotThrottlingThresholds=[NaN, 39.0]}
"""
BATTERY = """\
Current Battery Service state:
  AC powered: false
  USB powered: {usb}
  Wireless powered: false
  Max charging current: 0
  Charge counter: 5021744
  status: {status}
  health: 2
  present: true
  level: 71
  voltage: 4123
  temperature: 312
  technology: Li-ion
"""
CHARGING, DISCHARGING = (
    BATTERY.format(usb="true", status=2),
    BATTERY.format(usb="false", status=3),
)
CAPS = """\
core 1803000 1803000 1803000 sched_pixel
core 1401000 2253000 2253000 sched_pixel
core 1826000 1826000 2802000 sched_pixel
"""
COMPLAINT = "Error: service died\n"


def test_a_hot_phone() -> None:
    assert android_sensors.thermal(THERMAL) == {"thermal_status": 1, "temperature_c": 62.5}


def test_a_battery() -> None:
    assert android_sensors.battery(CHARGING) == {"battery_c": 31.2, "charging": True}
    assert android_sensors.battery(DISCHARGING) == {"battery_c": 31.2, "charging": False}


def test_ceilings() -> None:
    assert android_sensors.caps(CAPS) == {
        "clock_mhz": round((1803 + 1401 + 1826) / 3, 1),
        "capped": True,
        "capped_mhz": 1826.0,
        "governor": "sched_pixel",
    }
    free = "".join(CAPS.splitlines(keepends=True)[:2])
    assert android_sensors.caps(free)["capped"] is False
    assert android_sensors.caps(free)["capped_mhz"] == UNAVAILABLE
    assert set(android_sensors.caps("core - - - -\n").values()) == {UNAVAILABLE}
    assert android_sensors.caps(free + "core 1 - 2802000 x\n")["capped"] == UNAVAILABLE


PARSERS = {
    "thermal": (android_sensors.thermal, THERMAL),
    "charging": (android_sensors.battery, CHARGING),
    "discharging": (android_sensors.battery, DISCHARGING),
    "full": (android_sensors.battery, BATTERY.format(usb="true", status=5)),
}


@pytest.mark.parametrize("name", PARSERS)
def test_a_text_cut_at_any_byte_says_the_same_or_nothing(name: str) -> None:
    parse, text = PARSERS[name]
    whole = parse(text)
    told = set()
    for cut in range(len(text) + 1):
        for key, value in parse(text[:cut]).items():
            assert value in (whole[key], UNAVAILABLE), (cut, key)
            told |= {(key, value != UNAVAILABLE)}
    assert told == {(key, is_told) for key in whole for is_told in (True, False)}


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("complaint", [COMPLAINT, COMPLAINT.strip(), f"\n{COMPLAINT}"])
def test_a_complaint_in_between_spoils_what_it_hits_and_nothing_more(
    name: str, complaint: str
) -> None:
    parse, text = PARSERS[name]
    whole = parse(text)
    lies = []
    for at in range(len(text) + 1):
        # A line break of another program in the middle of a number is not to be seen.
        if complaint[0] == "\n" and text[at - 1 : at].isdigit() and text[at : at + 1].isdigit():
            continue
        found = parse(text[:at] + complaint + text[at:])
        lies += [(at, key) for key in whole if found[key] not in (whole[key], UNAVAILABLE)]
    assert lies == []
    assert parse(complaint + text) == whole


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Can't find service: thermalservice\n",
        THERMAL.replace("HAL Ready: true", "HAL Ready: false"),
        THERMAL.replace("\tTemperature{mValue=62.500004", "\tTemperature{mValue=62,500004"),
        THERMAL.replace("Current temperatures", "Cached temperatures"),
        "HAL Ready: true\nCurrent temperatures from HAL:\nCurrent cooling devices from HAL:\n",
    ],
)
def test_a_hal_that_is_not_ready_has_no_temperature(text: str) -> None:
    assert android_sensors.thermal(text)["temperature_c"] == UNAVAILABLE


def test_statuses_beyond_the_list_are_none() -> None:
    assert (
        android_sensors.thermal("Thermal Status: 6\n")["thermal_status"]
        == len(android_sensors.STATUS) - 1
    )
    assert android_sensors.thermal("Thermal Status: 7\n")["thermal_status"] == UNAVAILABLE
    assert android_sensors.thermal("Thermal Status: -1\n")["thermal_status"] == UNAVAILABLE


def test_a_state_set_by_hand_is_no_state() -> None:
    stopped = DISCHARGING.replace("  AC", "  (UPDATES STOPPED -- use 'reset' to restart)\n  AC")
    assert android_sensors.battery(stopped)["charging"] == UNAVAILABLE
    docked = DISCHARGING.replace("  Max", "  Dock powered: true\n  Max")
    assert android_sensors.battery(docked)["charging"] is True


@pytest.mark.parametrize(
    ("text", "fed"),
    [
        ("supply USB 1 -\nsupply Battery - Discharging\n", True),
        ("supply Battery - Not charging\nsupply USB 1 -\n", True),
        ("supply Battery - Full\n", True),
        ("supply USB 0 -\nsupply Battery 1 Discharging\n", False),
        ("supply USB 0 -\nsupply Battery 1 Discharging", UNAVAILABLE),
        ("supply * - -\n", UNAVAILABLE),
        ("", UNAVAILABLE),
    ],
)
def test_what_the_kernel_says_of_its_supplies(text: str, fed: object) -> None:
    assert android_sensors.supply(text) == fed


def sample(up: str, battery: str = "") -> str:
    """One sample as the phone prints it."""
    more = f"\x1ebattery\n{battery}\x1esupply\nsupply USB 0 -\n" if battery else ""
    return f"\x1eat\n{up}\n\x1ecaps\n{CAPS}\x1ethermal\n{THERMAL}{more}\x1eend\n"


def test_a_series_keeps_the_batterys_last_word() -> None:
    text = sample("10.50", CHARGING) + sample("11.60") + sample("12.70", DISCHARGING)
    found = android_sensors.read(text)
    assert [at for at, _ in found] == [10.5, 11.6, 12.7]
    assert [one["charging"] for _, one in found] == [True, True, False]
    assert {one["temperature_c"] for _, one in found} == {62.5}
    assert "charging" not in android_sensors.read(sample("1.00"))[0][1]


def test_a_series_cut_at_any_byte_has_whole_samples_alone() -> None:
    text = sample("10.50", CHARGING) + sample("11.60")
    whole = android_sensors.read(text)
    for cut in range(len(text) + 1):
        assert android_sensors.read(text[:cut]) == whole[: text[:cut].count("\x1eend\n")]
    for cut in range(len(text)):  # the end of a long file, read from anywhere
        tail = android_sensors.read(text[cut:])
        assert [at for at, _ in tail] == [at for at, _ in whole][len(whole) - len(tail) :]


@pytest.mark.parametrize("kind", SHELLS)
def test_the_script_reads_a_phone_through_its_own_shell(kind: str, tmp_path: Path) -> None:
    shell, box = SHELLS[kind]
    for needed in (shell[0], box):
        if needed and not shutil.which(needed):
            skip(f"there is no {needed}")
    path = tools(kind, tmp_path / "bin")
    own = tmp_path / "phone"
    own.mkdir()
    for name, text in (("thermalservice", THERMAL), ("battery", DISCHARGING)):
        (own / name).write_text(text)
    program = own / "dumpsys"
    program.write_text(f'#!/bin/sh\necho complaint >&2\nexec cat "{own}/$1"\n')
    program.chmod(0o755)
    said = subprocess.run(
        [
            shutil.which(shell[0]) or "",
            *shell[1:],
            "-c",
            f"{android_sensors.SAMPLE}\nsample battery",
        ],
        env={"PATH": f"{own}:{path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stderr == ""
    ((up, found),) = android_sensors.read(said.stdout)
    assert 0 < up <= float(Path("/proc/uptime").read_text().split()[0])
    assert (found["temperature_c"], found["thermal_status"]) == (62.5, 1)
    assert (found["battery_c"], found["charging"]) == (31.2, False)
