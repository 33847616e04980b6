from __future__ import annotations

import math

import pytest

from torchopt2edge.report.text import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.0972, "0.0972"), (1.0, "1.00"), (24.51, "24.5"), (1834.2, "1834"), (0, "0")],
)
def test_three_digits_tell_and_none_is_empty(value: float | None, text: str) -> None:
    assert numbers.significant(value) == text


def test_interval_gets_the_digits_that_show_its_width() -> None:
    assert numbers.interval(1.83, 1.79, 1.88) == "1.83 (1.79–1.88)"
    assert numbers.interval(1.8312, 1.8301, 1.8324) == "1.831 (1.830–1.832)"
    assert numbers.interval(1.5, None, 2.0) == "1.50"
    assert numbers.interval(2.0, 2.0, 2.0) == "2.00 (2.00–2.00)"


def test_sign_of_a_difference() -> None:
    assert numbers.signed(-0.31, 1) == "−0.3"
    assert numbers.signed(0.31, 1) == "+0.3"
    assert numbers.signed(-0.04, 1) == "0.0"
    assert numbers.signed(0.04, 1) == "0.0"
    assert numbers.signed(None, 1) == ""


def test_what_is_not_finite_is_said() -> None:
    assert numbers.fixed(math.inf, 1) == "∞"
    assert numbers.fixed(-math.inf, 1) == "−∞"
    assert numbers.fixed(math.nan, 1) == "?"
    assert numbers.significant(math.inf) == "∞"


def test_ratios() -> None:
    assert numbers.times(1.8349) == "1.83×"
    assert numbers.times(24.06) == "24.1×"
    assert numbers.times_interval((1.83, 1.79, 1.88)) == "1.83× (1.79–1.88)"
    assert numbers.times_interval((1.0021, 1.0011, 1.0049)) == "1.002× (1.001–1.005)"


def test_counts_and_durations() -> None:
    assert numbers.count(2_230_000) == "2.23 M"
    assert numbers.count(512) == "512"
    assert numbers.count(None) == ""
    assert numbers.duration(0.42) == "0.4 s"
    assert numbers.duration(200) == "3 min 20 s"
    assert numbers.duration(7500) == "2 h 05 min"
    assert numbers.duration(None) == ""
