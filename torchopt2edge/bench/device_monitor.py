"""What a device's own watch saw, laid beside the rounds that ran at the time."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from torchopt2edge.bench.child_session import Round
from torchopt2edge.interfaces import Device, Steady, Watch
from torchopt2edge.runner.system_info import UNAVAILABLE
from torchopt2edge.types import Facts

_OLDEST_S = 15.0  # a moment further from a round's end tells nothing of it
_LATER_S = 1.0  # a moment that follows so closely belongs to the round as well
_MOST = 600  # moments that a row keeps


def steady(device: Device) -> AbstractContextManager[Watch | None]:
    """Keep a device steady while the block runs, where it has a way to."""
    return device.steady() if isinstance(device, Steady) else contextlib.nullcontext()


def joined(
    rounds: Sequence[Round], heard: Sequence[float], moments: Sequence[tuple[float, Facts]]
) -> list[Round]:
    """Return the rounds with what was seen at their ends among their sensors.

    ``heard`` is when each round's answer came, by our ``monotonic``: late by the link, so the
    earliest (against the device's own clock) tells how the two clocks lie.
    """
    ends = [(one.begin_ns + one.wall_ns) / 1e9 for one in rounds]
    if not moments or not ends or len(heard) != len(ends):
        return list(rounds)
    behind = _behind(ends, heard)
    times = [at for at, _ in moments]
    made = []
    for one, end in zip(rounds, ends, strict=True):
        at = bisect.bisect_right(times, end + behind + _LATER_S) - 1
        near = at >= 0 and end + behind - times[at] <= _OLDEST_S
        made.append(replace(one, sensors=merged(one.sensors, moments[at][1])) if near else one)
    return made


def series(
    rounds: Sequence[Round],
    heard: Sequence[float],
    moments: Sequence[tuple[float, Facts]],
    zero_ns: int,
) -> Facts:
    """Return what was seen from the first of the rounds to the last one, a column for each sensor.

    ``at_s`` are seconds since ``zero_ns`` of the device's own clock; a sensor that gave no number
    then is None. Of many moments 600 are kept, evenly; {} when nothing was seen.
    """
    ends = [(one.begin_ns + one.wall_ns) / 1e9 for one in rounds]
    if not ends or len(heard) != len(ends):
        return {}
    behind, begin = _behind(ends, heard), rounds[0].begin_ns / 1e9
    seen = [(at - behind, read) for at, read in moments if begin <= at - behind <= max(ends)]
    kept = seen[:: max(1, -(-len(seen) // _MOST))]
    names = sorted({name for _, read in kept for name, value in read.items() if _is_number(value)})
    columns = {
        name: [value if _is_number(value := read.get(name)) else None for _, read in kept]
        for name in names
    }
    return {"at_s": [round(at - zero_ns / 1e9, 1) for at, _ in kept], **columns} if names else {}


def _behind(ends: Sequence[float], heard: Sequence[float]) -> float:
    """Return our clock less the device's, by the answer that came with the least delay."""
    return min(at - end for at, end in zip(heard, ends, strict=True))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def merged(read: Facts, seen: Facts) -> Facts:
    """Return the runner's sensors with what the watch adds to them.

    The runner reads closer to the round, but of its thermometers nobody knows which are real: the
    watch's temperature goes before it.
    """
    known = {name for name, value in read.items() if value != UNAVAILABLE} - {"temperature_c"}
    return {
        **read,
        **{
            name: value
            for name, value in seen.items()
            if name not in known and (value != UNAVAILABLE or name not in read)
        },
    }


def temperature(watch: Watch | None) -> tuple[bool, float | None]:
    """Return whether the watch is the one to ask for the temperature, and what it says.

    One that has a thermometer is asked again and again; a reading that failed once is no reason
    to compare with another thermometer.
    """
    if watch is None:
        return False, None
    found = watch.sense()
    degrees = found.get("temperature_c")
    if isinstance(degrees, int | float):
        return True, float(degrees)
    return not found, None
