"""What a watch saw lies beside the rounds that ran at the time, however late the answers came."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchopt2edge.bench import harness
from torchopt2edge.bench.child_session import Round
from torchopt2edge.bench.device_monitor import joined, merged, series, steady
from torchopt2edge.bench.harness import Lane, measure
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.devices.fake import Fake
from torchopt2edge.devices.local import Local
from torchopt2edge.types import Candidate

MakeNet = Callable[..., Candidate]
Sample = dict[str, np.ndarray]
S = 1_000_000_000
BEHIND = 5000.0  # our clock less the device's


def a_round(begin_s: float, wall_s: float = 1.0, **sensors: Any) -> Round:
    """One round at that time of the device's clock."""
    begin, wall = round(begin_s * S), round(wall_s * S)
    return Round([wall], wall, wall, 0, True, True, 1, begin_ns=begin, sensors=sensors)


def test_a_round_gets_what_was_seen_last_before_its_end() -> None:
    rounds = [a_round(10.0), a_round(20.0), a_round(30.0), a_round(90.0)]
    # The second answer came 4 s late over a link that was gone for a while.
    heard = [BEHIND + 11.02, BEHIND + 25.0, BEHIND + 31.05, BEHIND + 91.02]
    moments = [(BEHIND + at, {"temperature_c": at}) for at in (9.0, 10.5, 15.0, 20.5, 24.0, 29.0)]
    found = [one.sensors.get("temperature_c") for one in joined(rounds, heard, moments)]
    assert found == [10.5, 20.5, 29.0, None]


def test_what_fits_not_together_is_left_as_it_is() -> None:
    rounds = [a_round(10.0, load=1.0)]
    assert joined(rounds, [1.0], []) == rounds
    assert joined(rounds, [], [(1.0, {"a": 1})]) == rounds
    assert joined([], [], [(1.0, {"a": 1})]) == []


def test_the_watchs_thermometer_goes_first_and_the_runners_clock() -> None:
    read = {"temperature_c": 48.0, "clock_mhz": 1800.0, "capped": "unavailable"}
    seen = {"temperature_c": 41.5, "clock_mhz": 300.0, "capped": True, "battery_c": "unavailable"}
    assert merged(read, seen) == {
        "temperature_c": 41.5,
        "clock_mhz": 1800.0,
        "capped": True,
        "battery_c": "unavailable",
    }
    gone = {"temperature_c": "unavailable"}
    assert merged(read, gone)["temperature_c"] == 48.0


def test_a_device_without_a_way_to_is_left_alone() -> None:
    with steady(Local()) as watch:
        assert watch is None


def test_rows_of_a_phone_have_its_heat_and_no_energy(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    seen = [{"temperature_c": 40.0 + at, "charging": True, "thermal_status": 0} for at in range(9)]
    device = Fake(temperatures_c=(99.0,), seen=[*seen, {**seen[-1], "thermal_status": 3}])
    (row,) = measure([net("a")], lambda _: sample, device, brief, tmp_path)
    degrees = [one["temperature_c"] for one in row.facts["sensors"]]
    assert len(degrees) == brief.rounds
    assert degrees == sorted(degrees)
    assert 40.0 <= degrees[0] <= degrees[-1] < 99.0
    assert row.facts["steady"] == {"stay_on": "yes"}
    assert row.facts["energy"].startswith("unavailable: the device was charging")
    assert "energy_mj" not in row.metrics
    assert device.clock.steady == [True, False]


def test_it_is_steady_no_longer_when_the_run_is_interrupted(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("round 3"):
            raise KeyboardInterrupt

    device = Fake(seen=[{"temperature_c": 40.0}])
    with pytest.raises(harness.Interrupted):
        measure([net("a")], lambda _: sample, device, brief, tmp_path, stop)
    assert device.clock.steady == [True, False]


class Falling:
    """A watch whose temperature falls a degree a look; at one look it sees nothing."""

    def __init__(self, start: float, blind_at: float) -> None:
        self.now = start
        self.blind_at = blind_at

    def sense(self) -> dict[str, Any]:
        """Look."""
        self.now -= 1.0
        return {} if self.now == self.blind_at else {"temperature_c": self.now}


@pytest.mark.parametrize(("blind_at", "left"), [(0.0, 42.0), (46.0, 46.0)])
def test_the_gate_asks_the_watch_and_no_other_thermometer(
    net: MakeNet, monkeypatch: pytest.MonkeyPatch, blind_at: float, left: float
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    watch: Any = Falling(50.0, blind_at)
    other: Any = Falling(1000.0, 0.0)
    lane = Lane(net("a"), ExitStack(), other, watch=watch)
    harness._cool_down([lane], 40.0, TimingPlan("p", 1, 0.0, 5, 0.0, 60.0))
    assert (watch.now, other.now) == (left, 1000.0)


def test_what_the_watch_saw_is_kept_second_by_second_on_the_rounds_clock() -> None:
    rounds, heard = [a_round(100.0), a_round(160.0)], [BEHIND + 101.01, BEHIND + 161.0]
    seen = {"temperature_c": 40.5, "charging": True}
    moments = [(BEHIND + at, {**seen, "capped_mhz": at}) for at in range(90, 170)]
    moments[15] = (moments[15][0], {"temperature_c": "unavailable", "capped_mhz": 0})
    kept = series(rounds, heard, moments, zero_ns=99 * S)
    assert kept["at_s"] == [float(at - 99) for at in range(100, 162)]
    assert kept["temperature_c"] == [None if at == 105 else 40.5 for at in range(100, 162)]
    assert kept.keys() == {"at_s", "temperature_c", "capped_mhz"}


def test_of_hours_the_watch_keeps_what_a_row_can_hold() -> None:
    rounds, heard = [a_round(0.0), a_round(7200.0)], [BEHIND + 1.0, BEHIND + 7201.0]
    moments = [(BEHIND + at, {"temperature_c": 20.0 + at / 100}) for at in range(7202)]
    at_s = series(rounds, heard, moments, zero_ns=0)["at_s"]
    assert 500 < len(at_s) <= 600
    assert at_s[0] == 0.0
    assert at_s[-1] > 7150.0


def test_a_watch_that_saw_nothing_leaves_nothing() -> None:
    assert series([a_round(1.0)], [BEHIND + 2.0], [], zero_ns=0) == {}
    assert series([], [], [(1.0, {"a": 1})], zero_ns=0) == {}
    assert series([a_round(1.0)], [BEHIND + 2.0], [(BEHIND + 1.5, {"a": "no"})], zero_ns=0) == {}
