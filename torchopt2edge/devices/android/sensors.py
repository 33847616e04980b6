"""What Android says of heat, clocks and power: one script that asks, and how its answers are read.

The sections of an answer are dumps meant for people: cut short by a link that broke, mixed with
another program's complaints, or of a service that is not ready. What is not there in full is
"unavailable", never 0, and a highest temperature is none when one line of its list is spoilt.
"""

from __future__ import annotations

import re

from torchopt2edge.devices import answers
from torchopt2edge.runner.system_info import UNAVAILABLE
from torchopt2edge.types import Facts

STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""What Android calls its thermal statuses, 0 to 6."""

SAMPLE = r"""
sample() { # one sample to stdout; with an argument that of the battery as well
  { read -r up x </proc/uptime; } 2>/dev/null
  printf '\036at\n%s\n' "$up"
  printf '\036caps\n'
  for at in /sys/devices/system/cpu/cpu[0-9]*/cpufreq; do
    now=- most=- silicon=- governor=-
    { read -r now <"$at/scaling_cur_freq"; } 2>/dev/null
    { read -r most <"$at/scaling_max_freq"; } 2>/dev/null
    { read -r silicon <"$at/cpuinfo_max_freq"; } 2>/dev/null
    { read -r governor <"$at/scaling_governor"; } 2>/dev/null
    echo "core $now $most $silicon $governor"
  done 2>/dev/null
  printf '\036thermal\n'
  dumpsys thermalservice 2>/dev/null </dev/null | sed -n -e '/^HAL Ready:/p' \
    -e '/Thermal Status:/p' -e '/^Current temperatures from HAL:/,/^Current cooling/p'
  if [ $# -gt 0 ]; then
    printf '\036battery\n'
    dumpsys battery 2>/dev/null </dev/null
    printf '\036supply\n'
    for at in /sys/class/power_supply/*; do
      kind=- status=- online=-
      { read -r kind <"$at/type"; } 2>/dev/null
      { read -r status <"$at/status"; } 2>/dev/null
      { read -r online <"$at/online"; } 2>/dev/null
      echo "supply $kind $online $status"
    done 2>/dev/null
  fi
  printf '\036end\n'
}
"""
"""A function of POSIX sh; the reads are builtins, so that a sample starts few processes."""

_CURRENT = "Current temperatures from HAL:"
_READING = re.compile(
    r"\s*Temperature\{mValue=(-?\d{1,9}(?:\.\d{1,12})?(?:E-?\d{1,3})?|NaN), mType=(-?\d{1,3}), "
    r"mName=[^{}]*, mStatus=\d\}\s*",
    re.ASCII,
)
_MOST_KHZ = 100_000_000
_NO_DEGREES = range(6, 9)  # BCL voltage, current and percentage
_POWERED = re.compile(r"\s*(AC|USB|Wireless|Dock) powered: (true|false)\s*")
_ALWAYS_TOLD = {"AC", "USB", "Wireless"}


def read(text: str) -> list[tuple[float, Facts]]:
    """Return the samples in what `SAMPLE` printed again and again: (uptime in s, sensors).

    A sample without its end is none. What a sample did not ask of the battery is that of the one
    before it.
    """
    found: list[tuple[float, Facts]] = []
    battery_then: Facts = {}
    for piece in text.split("\x1eat\n")[1:]:
        body, ended, _ = piece.partition("\x1eend\n")
        up, _, rest = body.partition("\n")
        began = answers.uptime(up)
        if not ended or began is None:
            continue
        sections = dict(
            (name, words) for name, _, words in (one.partition("\n") for one in rest.split("\x1e"))
        )
        if "battery" in sections:
            battery_then = battery(sections["battery"])
            if battery_then["charging"] == UNAVAILABLE:
                battery_then["charging"] = supply(sections.get("supply", ""))
        heat = {**thermal(sections.get("thermal", "")), **caps(sections.get("caps", ""))}
        found.append((began, {**heat, **battery_then}))
    return found


def thermal(text: str) -> Facts:
    """Read ``dumpsys thermalservice``: ``thermal_status`` (0 to 6) and ``temperature_c``.

    The temperature is the hottest that the HAL shows now: cached ones are stale. A sensor at
    exactly 0, or beyond what silicon survives, is one that is not there.
    """
    lines = text.splitlines(keepends=True)
    whole = [line.rstrip("\r\n") for line in lines if line.endswith("\n")]
    states = [
        int(found[1])
        for line in whole
        if (found := re.fullmatch(r"\s*Thermal Status: ([0-6])\s*", line))
    ]
    heat = _current(whole) if any(line.strip() == "HAL Ready: true" for line in whole) else None
    return {
        "thermal_status": states[0] if len(states) == 1 else UNAVAILABLE,
        "temperature_c": max(heat) if heat else UNAVAILABLE,
    }


def _current(lines: list[str]) -> list[float] | None:
    """Return the degrees of the section of current temperatures; None unless it is whole."""
    if lines.count(_CURRENT) != 1:
        return None
    begin = lines.index(_CURRENT) + 1
    ends = [at for at in range(begin, len(lines)) if lines[at].startswith("Current cooling")]
    if not ends:
        return None
    degrees = []
    for line in lines[begin : ends[0]]:
        found = _READING.fullmatch(line)
        if found is None and line.strip():
            return None  # the line that is spoilt may have been the hottest
        if found and found[1] != "NaN" and int(found[2]) not in _NO_DEGREES:
            degrees.append(float(found[1]))
    return [round(one, 2) for one in degrees if -40.0 < one < 150.0 and one]


def battery(text: str) -> Facts:
    """Read ``dumpsys battery``: ``battery_c``, and ``charging``, whether anything feeds the phone.

    Energy that the battery gives can be measured only where nothing does. A state that was set
    by hand (``dumpsys battery unplug``) is no state.
    """
    lines = [line[:-1] for line in text.splitlines(keepends=True) if line.endswith("\n")]
    fed = {found[1]: found[2] == "true" for line in lines if (found := _POWERED.fullmatch(line))}
    degrees = _number(lines, "temperature")
    status = _number(lines, "status")
    charging: bool | str = UNAVAILABLE
    if "UPDATES STOPPED" in text:
        charging = UNAVAILABLE
    elif any(fed.values()) or status == 2:
        charging = True
    elif fed.keys() >= _ALWAYS_TOLD and status is not None:
        charging = False
    real = degrees is not None and -400 < degrees < 1500 and degrees != 0
    return {"battery_c": degrees / 10 if degrees and real else UNAVAILABLE, "charging": charging}


def supply(text: str) -> bool | str:
    """Read the lines ``supply TYPE ONLINE STATUS`` of /sys/class/power_supply: is it fed?"""
    lines = [line.rstrip() for line in text.splitlines(keepends=True) if line.endswith("\n")]
    rows = [line.split(None, 3) for line in lines]
    rows = [row for row in rows if len(row) == 4 and row[0] == "supply"]
    states = {row[3] for row in rows if row[1] == "Battery"}
    if states & {"Charging", "Full"} or any(row[2] == "1" for row in rows if row[1] != "Battery"):
        return True
    return False if states == {"Discharging"} else UNAVAILABLE


def caps(text: str) -> Facts:
    """Read the lines ``core CURRENT CEILING SILICON GOVERNOR``, in kHz.

    ``capped`` tells whether a core's ceiling lies below what its silicon can; ``capped_mhz`` is
    the ceiling of the core that lost most of its clock. ``clock_mhz`` is the cores' mean.
    """
    rows = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
    rows = [row for row in rows if len(row) == 5 and row[0] == "core"]
    known = [[answers.number(one, _MOST_KHZ) for one in row[1:4]] for row in rows]
    clocks = [now / 1000 for now, *_ in known if now is not None]
    ceilings = [(most, can) for _, most, can in known if most is not None and can]
    ceilings = ceilings if len(ceilings) == len(rows) else []
    lowest = min(ceilings, key=lambda one: one[0] / one[1], default=None)
    below = lowest is not None and lowest[0] < lowest[1]
    governors = {row[4] for row in rows} - {"-"}
    return {
        "clock_mhz": round(sum(clocks) / len(clocks), 1) if clocks else UNAVAILABLE,
        "capped": UNAVAILABLE if lowest is None else below,
        "capped_mhz": lowest[0] / 1000 if lowest is not None and below else UNAVAILABLE,
        "governor": answers.clean(",".join(sorted(governors)), 100) or UNAVAILABLE,
    }


def _number(lines: list[str], name: str) -> int | None:
    """Return the number of the line of that name; None where none or several give one."""
    found = [one for line in lines if (one := re.fullmatch(rf"\s*{name}: (-?\d{{1,9}})\s*", line))]
    return int(found[0][1]) if len(found) == 1 else None
