"""Steps in speed on series made by hand: seen within ten seconds, and not where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from torchopt2edge.bench.child_session import Round
from torchopt2edge.bench.throttling import step_down, summary, windows

MS = 1_000_000


def series(speed: list[float], seed: int = 0, noise: float = 0.02) -> list[Round]:
    """A round of a second for every relative speed; an inference takes 10 ms at speed 1."""
    rng = np.random.default_rng(seed)
    made = []
    for at, one in enumerate(speed):
        count = max(1, round(100 * one))
        latency = 10 * MS / one * (1.0 + noise * rng.exponential(size=count))
        nanoseconds = [int(value) for value in latency]
        made.append(Round(nanoseconds, sum(nanoseconds), 0, 0, True, True, 1, at * 10**9))
    return made


@pytest.mark.parametrize("seed", range(20))
def test_a_loss_of_a_third_is_seen_within_ten_seconds(seed: int) -> None:
    begin = int(np.random.default_rng(seed).integers(15, 100))
    rounds = series([1.0] * begin + [0.7] * 10, seed)
    found = step_down(rounds)
    assert found is not None
    assert found.onset_s == pytest.approx(begin, abs=3.0)
    assert found.kept == pytest.approx(0.7, abs=0.05)
    assert found.lasting


@pytest.mark.parametrize("seed", range(5))
def test_ten_quiet_minutes_raise_no_alarm(seed: int) -> None:
    weather = 1.0 + 0.03 * np.random.default_rng(seed).standard_t(4, 600)
    assert step_down(series([max(0.6, one) for one in weather], seed)) is None


def test_a_neighbour_that_went_away_is_no_lasting_loss() -> None:
    found = step_down(series([1.0] * 30 + [0.5] * 10 + [1.0] * 30))
    assert found is not None
    assert not found.lasting


def test_heat_begins_when_it_does_and_not_with_the_neighbour_before_it() -> None:
    rounds = series([1.0] * 30 + [0.6] * 10 + [1.0] * 260 + [0.7] * 300, noise=0.0)
    found = step_down(rounds)
    assert found is not None
    assert found.onset_s == pytest.approx(300.0, abs=3.0)
    assert found.kept == pytest.approx(0.7, abs=0.02)
    assert found.lasting
    assert summary(rounds)["onset_s"] == pytest.approx(300.0, abs=3.0)


def test_a_governor_that_now_and_then_lets_go_is_one_step() -> None:
    found = step_down(series([1.0] * 120 + ([0.6] * 9 + [0.95] * 3) * 40, noise=0.0))
    assert found is not None
    assert found.onset_s == pytest.approx(120.0, abs=3.0)
    assert found.lasting


@pytest.mark.parametrize("speed", [[0.7] * 100 + [1.0] * 500, [1.0] * 99 + [0.05] * 2 + [1.0] * 99])
def test_a_gain_and_a_single_stall_are_no_loss(speed: list[float]) -> None:
    assert step_down(series(speed)) is None


def test_a_slow_slide_is_seen_too() -> None:
    found = step_down(series(list(np.linspace(1.0, 0.6, 300))))
    assert found is not None
    assert found.lasting


def test_stalls_count_though_the_median_does_not_move() -> None:
    """A quota: nine of ten inferences as fast as ever, one waits for the next period."""
    calm = series([1.0] * 30, noise=0.0)
    waits = [10 * MS] * 9 + [110 * MS]
    stalled = [Round(waits * 5, 50 * 20 * MS, 0, 0, True, True, 1)] * 30
    found = step_down([*calm, *stalled])
    assert found is not None
    assert found.kept == pytest.approx(0.5, abs=0.03)


def test_a_window_is_inferences_over_their_own_time() -> None:
    ends, speeds = windows(series([1.0] * 6, noise=0.0), 2.0)
    assert speeds == pytest.approx([100.0] * len(speeds))
    assert ends[0] == pytest.approx(2.0)
    assert windows([])[0].size == 0
    assert windows(series([1.0]))[0].size == 0


def test_the_last_minute_is_held_against_the_first() -> None:
    found = summary(series([1.0] * 70 + [0.5] * 140, noise=0.0))
    assert found["first_minute_ms"] == pytest.approx(10.0)
    assert found["last_minute_ms"] == pytest.approx(20.0)
    assert found["kept"] == pytest.approx(50.0)
    assert found["onset_s"] == pytest.approx(70.0, abs=2.1)
    assert summary(series([1.0] * 70))["onset_s"] is None
    back = series([1.0] * 70 + [0.5] * 20 + [1.0] * 70, noise=0.0)
    assert step_down(back) is not None
    assert summary(back)["onset_s"] is None, "a neighbour came and went"


def test_a_run_shorter_than_two_minutes_compares_its_halves() -> None:
    found = summary(series([1.0] * 10 + [0.5] * 10, noise=0.0))
    assert found["kept"] == pytest.approx(50.0, abs=1.0)
