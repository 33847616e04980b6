"""Columns that differ in meaning are found, and those that do not are left together."""

from __future__ import annotations

import numpy as np
import pytest

from torchopt2edge.stats.columns import column_groups


def boxes(rows: int = 50) -> np.ndarray:
    """Return [2, rows, 6]: four coordinates in pixels, two probabilities."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.uniform(50, 300, (2, rows, 4)), rng.random((2, rows, 2))], axis=2)


@pytest.mark.parametrize("axis", [1, 2])
def test_coordinates_and_probabilities_are_two_groups(axis: int) -> None:
    value = boxes() if axis == 2 else boxes().transpose(0, 2, 1)
    groups = column_groups(value)
    assert [group.axis for group in groups] == [axis, axis]
    assert [group.indices for group in groups] == [(0, 1, 2, 3), (4, 5)]
    assert groups[1].of(value).shape[axis] == 2
    assert str(groups[1]) == f"columns 4 to 5 of axis {axis}"


@pytest.mark.parametrize(
    "value",
    [
        np.random.default_rng(0).normal(size=(2, 50, 6)),
        np.random.default_rng(0).normal(size=(2, 6)) * [1, 1, 1, 1, 100, 100],
        np.zeros((2, 50, 6)),
        np.ones((2, 50, 6), np.int64),
        np.random.default_rng(0).normal(size=(2, 600, 700)) * np.geomspace(1, 1e6, 700),
    ],
    ids=["alike", "classes", "zeros", "integers", "too many"],
)
def test_no_columns(value: np.ndarray) -> None:
    assert column_groups(value) == []


def test_at_most_four_groups_and_none_lost() -> None:
    value = np.random.default_rng(0).normal(size=(2, 50, 9)) * np.geomspace(1, 1e8, 9)
    value[:, :, 0] = 0
    groups = column_groups(value)
    assert len(groups) <= 4
    assert sorted(at for group in groups for at in group.indices) == list(range(9))
