"""Every flag on rounds made by hand: raised when it should be, silent when it should not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from torchopt2edge.bench.child_session import Round
from torchopt2edge.bench.flags import assess
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.verdict.decide import INVALIDATING

PLAN = TimingPlan("plan", 100, 0.1, 10, 0.0, 0.0)


def rounds(latency: Sequence[int] = (1_000_000,) * 10, **changes: Any) -> list[Round]:
    """Ten quiet rounds of ten inferences of 1 ms each."""
    samples = [latency[at % len(latency)] for at in range(10)]
    made = [
        Round([ns + 1000 * (at % 3) for at in range(10)], 12 * ns, 12 * ns, 0, True, True, 1)
        for ns in samples
    ]
    return [replace(one, **changes) for one in made]


def flags(found: Sequence[Round], receipt: dict[str, Any] | None = None) -> dict[str, str]:
    return assess(found, PLAN, receipt or {})


def test_a_quiet_run_has_no_flag() -> None:
    assert flags(rounds(), {"emulated": False, "timer_resolution_ns": 1.0}) == {}


def test_fewer_samples_seconds_or_rounds_than_asked_for() -> None:
    assert "too-few-samples" in flags(rounds()[:9])
    assert "too-few-samples" in flags(rounds(latency_ns=[1_000_000] * 9))
    assert "too-few-samples" in flags(rounds(wall_ns=9_000_000, cpu_ns=9_000_000))
    enough = replace(PLAN, max_samples=100)
    assert assess(rounds(wall_ns=9_000_000, cpu_ns=9_000_000), enough, {}) == {}


def test_a_collapse_and_constant_stalls_are_throttling() -> None:
    assert "throttled" in flags(rounds([1_000_000] * 5 + [3_000_000] * 5))
    assert "throttled" in flags(rounds(latency_ns=[1_000_000] * 9 + [20_000_000]))
    assert "throttled" not in flags(rounds([1_000_000] * 9 + [1_900_000]))


def test_one_long_stop_is_not_throttling() -> None:
    stop = rounds()
    stop[4] = replace(stop[4], latency_ns=[*stop[4].latency_ns[:9], 900_000_000])
    assert "throttled" not in flags(stop)


def test_a_ceiling_that_moves_is_throttling_and_one_that_stays_a_warning() -> None:
    def sensors(cap: float) -> dict[str, Any]:
        return {"clock_cap_mhz": cap, "capped": cap < 1800.0, "clock_mhz": cap}

    moved = [replace(one, sensors=sensors(1800.0 - 10 * at)) for at, one in enumerate(rounds())]
    assert "1710 and 1800 MHz" in flags(moved)["throttled"]
    stays = rounds(sensors=sensors(1500.0))
    assert flags(stays).keys() == {"unstable-clock"}
    assert flags(rounds(sensors=sensors(1800.0))) == {}


def test_an_emulated_cpu() -> None:
    assert "hardware itself" in flags(rounds(), {"emulated": True})["emulated"]
    assert flags(rounds(), {"emulated": "unavailable"}) == {}


def test_signs_of_contention() -> None:
    assert "interrupted 1000 times" in flags(rounds(involuntary=12))["contended"]
    assert "hypervisor took 10%" in flags(rounds(steal=1, ticks=10))["contended"]
    assert "got 50% of a core" in flags(rounds(cpu_ns=6_000_000))["contended"]
    one_ended = [replace(one, involuntary=12 if at else -3) for at, one in enumerate(rounds())]
    assert "interrupted 1000 times" in flags(one_ended)["contended"]
    assert flags(rounds(involuntary=-1)) == {}
    one_burst = rounds()
    one_burst[4] = replace(one_burst[4], involuntary=500)
    assert flags(one_burst) == {}
    assert flags(rounds(steal=0, ticks=0)) == {}
    assert "another run" in flags(rounds(), {"other_jobs": 1})["contended"]
    assert flags(rounds(), {"other_jobs": 0}) == flags(rounds(), {"other_jobs": "unavailable"})


def test_a_trend_beyond_noise_is_drift() -> None:
    rising = [1_000_000 + 10_000 * at for at in range(10)]
    assert "+8.6%" in flags(rounds(rising))["drift"]
    assert "drift" not in flags(rounds([1_000_000 + 1_000 * at for at in range(10)]))
    assert "drift" not in flags(rounds([1_000_000, 1_060_000]))


def test_clocks_that_cannot_be_trusted() -> None:
    assert "too coarse" in flags(rounds(), {"timer_resolution_ns": 4e6})["unstable-clock"]
    jumpy = [
        replace(one, sensors={"clock_mhz": 1000.0 + 100.0 * at}) for at, one in enumerate(rounds())
    ]
    assert "moved between 1090 and 1810 MHz" in flags(jumpy)["unstable-clock"]


@pytest.mark.parametrize("flag", sorted(INVALIDATING))
def test_what_the_verdict_refuses_the_harness_can_say(flag: str) -> None:
    bad = rounds([1_000_000] * 5 + [3_000_000] * 4)[:9]
    assert flag in flags(bad, {"emulated": True})


def test_a_core_that_is_capped_on_the_way_and_one_that_always_was() -> None:
    def series(*capped: object) -> list[Round]:
        made = zip(range(10), rounds(), [*capped] + [capped[-1]] * 10, strict=False)
        return [
            replace(one, begin_ns=at * 10**9, sensors={"capped": on, "capped_mhz": 1826.0})
            for at, one, on in made
        ]

    assert (
        "after 2 s the ceiling of a core's clock was lowered to 1826 MHz"
        in flags(series("unavailable", False, True))["capped"]
    )
    assert "capped" not in flags(series(True))
    assert "capped" not in flags(series(False, True, False))
    assert "capped" not in flags(series("unavailable"))


def test_a_phone_that_says_it_is_severely_hot_is_throttled() -> None:
    def series(status: object) -> list[Round]:
        return [*rounds()[:9], replace(rounds()[9], sensors={"thermal_status": status})]

    assert "thermal status rose to 3 of 6" in flags(series(3))["throttled"]
    assert flags(series(2)) == flags(series("unavailable")) == {}
