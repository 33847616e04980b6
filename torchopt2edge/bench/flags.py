"""What may be wrong with a measurement, said in a flag and in a sentence with its remedy.

Flags that invalidate the run (rule 6: such a run names no winner, see
`verdict.decide.INVALIDATING`):

- ``too-few-samples``: fewer inferences, seconds or rounds than the protocol itself asks for;
- ``throttled``: the rounds of a window ran at less than half the file's own speed, or the speed
  stepped down and stayed there (`throttling.step_down`), or more than half of the rounds' time is
  stalls that no typical inference explains (a CPU quota, severe heat, a neighbour that owns the
  cores), or the clock's ceiling moved during the run, or the system says that heat is severe;
  never one stop alone, however long;
- ``capped``: at the end a core's ceiling lay below what its silicon can, at the begin none did;
- ``emulated``: the instructions were interpreted, so the times are the emulator's.

Flags that warn, because rounds in turns put the same noise on every candidate and the interval
widens by itself: ``contended``, ``drift``, ``unstable-clock``; and ``throttles``, which says the
same as ``throttled`` where throttling is what the protocol looks for (no turns). A shared
two-core machine is always a little contended: a flag that invalidated there would be switched
off, and then it would protect nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from torchopt2edge.bench import throttling
from torchopt2edge.bench.child_session import Round
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.stats import rounds as round_stats
from torchopt2edge.types import Facts

_LOST = 0.5
_STALLED = 0.5
_DRIFT = 0.03
_STEAL = 0.05
_CPU_SHARE = 0.9
_SWITCHES_PER_S = 50.0
_CLOCK_SPREAD = 0.1
_TIMER_SHARE = 0.01
_SEVERE = 3  # of Android's thermal statuses: from here on work is slowed for all to see


def assess(rounds: Sequence[Round], protocol: TimingPlan, receipt: Facts) -> dict[str, str]:
    """Return the flags of one candidate's rounds, each with a sentence that says what to do."""
    found = {
        "too-few-samples": _too_few(rounds, protocol),
        "throttled": _throttled(rounds) if protocol.turns else None,
        "throttles": _throttled(rounds) if not protocol.turns else None,
        "emulated": _emulated(receipt),
        "capped": _capped(rounds),
        "contended": _contended(rounds, receipt),
        "drift": _drift(rounds),
        "unstable-clock": _unstable_clock(rounds, receipt),
    }
    return {flag: sentence for flag, sentence in found.items() if sentence}


def steal_share(rounds: Sequence[Round]) -> float | None:
    """Return the share of all cores' time that a hypervisor kept, or None when unknown."""
    ticks = sum(one.ticks for one in rounds)
    return sum(one.steal for one in rounds) / ticks if ticks else None


def switches_per_s(rounds: Sequence[Round]) -> float | None:
    """Return involuntary context switches per timed second (of a median round: bursts happen).

    A round in which a thread ended, and took its count along, tells nothing. None where a runner
    cannot know them (a page in a browser that others started).
    """
    known = [one.involuntary / (one.wall_ns / 1e9) for one in rounds if one.involuntary >= 0]
    return float(np.median(known)) if known else None


def cpu_share(rounds: Sequence[Round]) -> float | None:
    """Return CPU time per wall time: 1 when one thread ran whenever it wanted to; None: unknown."""
    if any(one.cpu_ns < 0 for one in rounds):
        return None
    return sum(one.cpu_ns for one in rounds) / sum(one.wall_ns for one in rounds)


def _too_few(rounds: Sequence[Round], protocol: TimingPlan) -> str | None:
    samples = sum(len(one.latency_ns) for one in rounds)
    whole = [one for one in rounds if _is_whole(one, protocol)]
    if samples >= protocol.min_samples and len(whole) >= protocol.rounds:
        return None
    seconds = sum(one.wall_ns for one in rounds) / 1e9
    return (
        f"{samples} inferences in {seconds:.2f} s and {len(whole)} whole rounds are fewer than "
        f"protocol {protocol.name!r} asks for: run it again"
    )


def _is_whole(one: Round, protocol: TimingPlan) -> bool:
    long = one.wall_ns / 1e9 >= protocol.round_seconds
    return long or len(one.latency_ns) >= protocol.round_max_samples


def _throttled(rounds: Sequence[Round]) -> str | None:
    samples = [one.latency_ns for one in rounds]
    lost, stalled = round_stats.lost_throughput(samples), round_stats.stalled(samples)
    caps, status = _readings(rounds, "clock_cap_mhz"), _readings(rounds, "thermal_status")
    if status and max(status) >= _SEVERE:
        after = _after_s(rounds, "thermal_status", lambda value: value >= _SEVERE)
        how = f"after {after:.0f} s the device's thermal status rose to {max(status):.0f} of 6"
    elif caps and min(caps) < max(caps):
        how = f"the clock's ceiling moved between {min(caps):.0f} and {max(caps):.0f} MHz"
    elif (step := throttling.step_down(rounds)) is not None and step.lasting:
        how = f"after {step.onset_s:.0f} s of work the speed fell to {step.kept:.0%} and stayed"
    elif lost > _LOST:
        how = f"throughput fell by {lost:.0%} for a while"
    elif stalled > _STALLED:
        how = f"{stalled:.0%} of the time of a typical round went by in stalls"
    else:
        return None
    return f"{how}: let the device cool, lift CPU quotas, stop other work, and run it again"


def _readings(rounds: Sequence[Round], sensor: str) -> list[float]:
    found = [one.sensors.get(sensor) for one in rounds]
    return [float(value) for value in found if isinstance(value, int | float)]


def _capped(rounds: Sequence[Round]) -> str | None:
    told = [one.sensors for one in rounds if isinstance(one.sensors.get("capped"), bool)]
    if not told or told[0]["capped"] or not told[-1]["capped"]:
        return None
    ceiling = told[-1].get("capped_mhz", told[-1].get("clock_cap_mhz"))
    to = f" to {ceiling:.0f} MHz" if isinstance(ceiling, int | float) else ""
    after = _after_s(rounds, "capped", lambda value: value is True)
    return (
        f"after {after:.0f} s the ceiling of a core's clock was lowered{to}: let the device cool, "
        "or hold its clocks (device.fixed_performance=true on a phone), and run it again"
    )


def _after_s(rounds: Sequence[Round], sensor: str, shows: Callable[[Any], bool]) -> float:
    """Return how long the run had lasted when a sensor first showed it."""
    known = ((one, one.sensors.get(sensor)) for one in rounds)
    first = next(one for one, value in known if isinstance(value, int | float) and shows(value))
    return (first.begin_ns + first.wall_ns - rounds[0].begin_ns) / 1e9


def _emulated(receipt: Facts) -> str | None:
    if receipt.get("emulated") is not True:
        return None
    return "the CPU was emulated, its times mean nothing: measure on the hardware itself"


def _contended(rounds: Sequence[Round], receipt: Facts) -> str | None:
    share, switches, steal = cpu_share(rounds), switches_per_s(rounds), steal_share(rounds)
    signs = []
    if steal is not None and steal > _STEAL:
        signs.append(f"the hypervisor took {steal:.0%} of the time")
    if share is not None and share < _CPU_SHARE:
        signs.append(f"the file got {share:.0%} of a core")
    if switches is not None and switches > _SWITCHES_PER_S:
        signs.append(f"it was interrupted {switches:.0f} times a second")
    others = receipt.get("other_jobs")
    if isinstance(others, int) and others > 0:
        signs.append("another run measured on the device")
    if not signs:
        return None
    return f"{', '.join(signs)}: stop other work or use a quieter machine for narrower intervals"


def _drift(rounds: Sequence[Round]) -> str | None:
    change, low, high = round_stats.drift(
        round_stats.round_medians([one.latency_ns for one in rounds])
    )
    if abs(change) < _DRIFT or low <= 0.0 <= high:
        return None
    return (
        f"latency moved by {change:+.1%} from the first round to the last: ratios hold (rounds "
        "ran in turns), for the absolute value warm up longer or cool down between rounds"
    )


def _unstable_clock(rounds: Sequence[Round], receipt: Facts) -> str | None:
    samples = np.concatenate([np.asarray(one.latency_ns) for one in rounds])
    tick = float(receipt.get("timer_resolution_ns", 0.0))
    if samples.min() <= 0 or tick > _TIMER_SHARE * float(np.median(samples)):
        return (
            "the timer is too coarse for this latency: use the TSC clocksource, or a larger batch"
        )
    clocks = _readings(rounds, "clock_mhz") or [0.0]
    low, high = np.percentile(clocks, [10, 90])
    if high - low > _CLOCK_SPREAD * high:
        return (
            f"the CPU's clock moved between {low:.0f} and {high:.0f} MHz: set the governor to "
            "'performance', or turn frequency boost off"
        )
    if any(one.sensors.get("capped") is True for one in rounds):
        return "the CPU's clock is capped below its maximum: lift the cap (scaling_max_freq)"
    return None
