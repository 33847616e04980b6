from __future__ import annotations

import pytest

from torchopt2edge.report.html.blocks import sort_value, without_empty_columns


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


def test_empty_columns_are_left_out() -> None:
    assert without_empty_columns([["a", "b"], ["1", ""]]) == [["a"], ["1"]]
