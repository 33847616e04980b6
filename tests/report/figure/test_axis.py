from __future__ import annotations

import pytest

from torchopt2edge.report.figure.axis import from_zero, padded, tick_text, zero_or_log


def test_a_linear_axis_has_round_ticks_within_its_ends() -> None:
    axis = padded([0.0, 97.0], 0.0, 100.0)
    assert axis.ticks(6) == [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    assert axis.at(axis.low) == 0.0
    assert axis.at(axis.high) == 100.0
    assert axis.at(1e9) == 100.0


@pytest.mark.parametrize("values", [[0.0], [5.0], [-3.0, -3.0], [1e-9, 2e-9], [1e12]])
def test_any_values_make_an_axis(values: list[float]) -> None:
    for make in (padded, from_zero, zero_or_log):
        axis = make(values, 0, 100)
        assert axis.low < axis.high
        assert all(axis.low <= tick <= axis.high for tick in axis.ticks(7))
        assert all(0 <= axis.at(value) <= 100 for value in values)


def test_a_factor_of_ten_makes_the_axis_logarithmic() -> None:
    assert not zero_or_log([1.0, 9.0], 0, 100).log
    axis = zero_or_log([0.2, 30.0], 0, 100)
    assert axis.log
    assert 1.0 in axis.ticks(7)
    assert len(zero_or_log([1e-6, 1e6], 0, 100).ticks(6)) <= 7


def test_ticks_have_a_real_minus() -> None:
    assert [tick_text(x) for x in (-5.0, 0.25, 1e6)] == ["−5", "0.25", "1e+06"]
