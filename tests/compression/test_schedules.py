"""Schedules: what should be gone after how many steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchopt2edge.compression.schedules import Iterative, Linear, OneShot, Polynomial, Schedule
from torchopt2edge.errors import ConfigError

EVERY = [
    OneShot(),
    OneShot(begin=7),
    Polynomial(begin=10, end=110, initial=0.3, every=25),
    Linear(begin=0, end=40, every=7),
    Iterative(rounds=3, between=5, begin=2),
]


@pytest.mark.parametrize("schedule", EVERY, ids=lambda s: type(s).__name__)
def test_it_grows_to_the_final_amount_and_is_due_there(schedule: Schedule) -> None:
    amounts = [schedule.amount(step, 0.7) for step in range(200)]
    assert amounts == sorted(amounts)
    assert amounts[schedule.last] == amounts[-1] == pytest.approx(0.7)
    assert schedule.due(schedule.last)
    assert not any(schedule.due(step) for step in range(schedule.last + 1, 200))
    assert isinstance(schedule, Schedule)


def test_the_cubic_of_the_paper() -> None:
    """Zhu & Gupta 2017, eq. 1: s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n Δt))³."""
    schedule = Polynomial(begin=1000, end=3000, initial=0.3)
    assert schedule.amount(999, 0.7) == 0
    assert schedule.amount(1000, 0.7) == pytest.approx(0.3)
    assert schedule.amount(1500, 0.7) == pytest.approx(0.7 + (0.3 - 0.7) * 0.75**3)
    assert [step for step in range(4000) if schedule.due(step)] == list(range(1000, 3001, 100))


def test_rounds_are_equal_parts() -> None:
    schedule = Iterative(rounds=4, between=10)
    due = [step for step in range(100) if schedule.due(step)]
    assert due == [0, 10, 20, 30]
    assert [schedule.amount(step, 0.8) for step in due] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_the_end_is_due_even_off_the_grid() -> None:
    assert [s for s in range(30) if Linear(begin=3, end=20, every=10).due(s)] == [3, 13, 20]


@given(st.integers(0, 50), st.integers(0, 50), st.floats(0, 0.9), st.integers(0, 120))
def test_nobody_is_ahead_of_the_end(begin: int, length: int, final: float, step: int) -> None:
    schedule = Polynomial(begin=begin, end=begin + length, initial=0.5)
    assert 0 <= schedule.amount(step, final) <= final


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Polynomial(begin=5, end=4),
        lambda: Polynomial(begin=-1),
        lambda: Linear(every=0),
        lambda: Polynomial(power=0),
        lambda: Iterative(rounds=0),
        lambda: Iterative(between=0),
    ],
)
def test_schedules_that_cannot_run(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ConfigError, match="at least"):
        wrong()
