from __future__ import annotations

import pytest

from torchopt2edge.report.html.blocks import filled, sort_value
from torchopt2edge.report.html.svg.axis import from_zero, label, positive, span
from torchopt2edge.report.html.svg.canvas import fit, width_of


def test_a_linear_axis_has_round_ticks_within_its_ends() -> None:
    axis = span([0.0, 97.0], 0.0, 100.0)
    assert axis.ticks(6) == [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    assert axis.at(axis.low) == 0.0
    assert axis.at(axis.high) == 100.0
    assert axis.at(1e9) == 100.0


@pytest.mark.parametrize("values", [[0.0], [5.0], [-3.0, -3.0], [1e-9, 2e-9], [1e12]])
def test_any_values_make_an_axis(values: list[float]) -> None:
    for axis in (span(values, 0, 100), from_zero(values, 0, 100), positive(values, 0, 100)):
        assert axis.low < axis.high
        assert all(axis.low <= tick <= axis.high for tick in axis.ticks(7))
        assert all(0 <= axis.at(value) <= 100 for value in values)


def test_a_factor_of_ten_makes_the_axis_logarithmic() -> None:
    assert not positive([1.0, 9.0], 0, 100).log
    axis = positive([0.2, 30.0], 0, 100)
    assert axis.log
    assert 1.0 in axis.ticks(7)
    assert len(positive([1e-6, 1e6], 0, 100).ticks(6)) <= 7


def test_labels_have_a_real_minus() -> None:
    assert [label(x) for x in (-5.0, 0.25, 1e6)] == ["−5", "0.25", "1e+06"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.83 (1.79–1.88)", "1.83"),
        ("−0.8", "-0.8"),
        ("2.23 M", "2.23e+06"),
        ("14.3×", "14.3"),
        ("∞", "inf"),
        ("", ""),
        ("none", ""),
    ],
)
def test_a_cell_is_sorted_by_the_number_it_begins_with(text: str, value: str) -> None:
    assert sort_value(text) == value


def test_a_long_name_keeps_both_its_ends() -> None:
    short = fit("a" * 50 + "b" * 50, 120)
    assert short.startswith("aaa")
    assert short.endswith("bbb")
    assert width_of(short) <= 120
    assert fit("ort-int8", 120) == "ort-int8"


def test_empty_columns_go() -> None:
    assert filled([["a", "b"], ["1", ""]]) == [["a"], ["1"]]
