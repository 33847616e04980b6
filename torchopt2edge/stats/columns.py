"""Columns of an output that differ in meaning: coordinates of boxes beside probabilities.

Summed over all values of such an output, the columns with large values decide alone: a detector
kept 33.5 dB and lost half of its boxes. So columns of one size are judged together, and columns of
another size by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

MOST_COLUMNS = 512
APART = 10.0  # columns whose sizes differ by this factor differ in meaning
MOST_GROUPS = 4


@dataclass(frozen=True)
class Columns:
    """Some columns of an output.

    Attributes:
        axis: the axis along which they stand.
        indices: which ones.
    """

    axis: int
    indices: tuple[int, ...]

    def of(self, value: Array) -> Array:
        """Return these columns of an array of the same layout."""
        return np.take(value, self.indices, axis=self.axis)

    def __str__(self) -> str:
        first, last = self.indices[0], self.indices[-1]
        whole = last - first + 1 == len(self.indices)
        named = (
            f"{first} to {last}" if whole and last > first else ", ".join(map(str, self.indices))
        )
        return f"columns {named} of axis {self.axis}"


def column_groups(value: Array) -> list[Columns]:
    """Return groups of columns of like size; [] where all columns are alike, or there are none.

    Args:
        value: an output, [samples, rows, columns] or [samples, columns, rows]. Others have no
            columns: of [samples, classes] each column is a class.

    Returns:
        Two to four groups, those with the largest values first.
    """
    if value.ndim != 3 or not np.issubdtype(value.dtype, np.floating):
        return []
    axis = max((2, 1), key=lambda at: _factor(_sizes(value, at)))
    sizes = _sizes(value, axis)
    if _factor(sizes) < APART:
        return []
    smallest = sizes[sizes > 0].min()
    decades = np.floor(np.log10(np.maximum(sizes, smallest) / smallest + 1e-9) / np.log10(APART))
    steps = sorted(set(decades.tolist()), reverse=True)[: MOST_GROUPS - 1]
    groups = [np.flatnonzero(decades == step) for step in steps]
    groups.append(np.flatnonzero(decades < steps[-1]))
    return [Columns(axis, tuple(map(int, group))) for group in groups if len(group)]


def _sizes(value: Array, axis: int) -> Array:
    """Return the root of the mean square of each column; empty where they are no columns."""
    if not 2 <= value.shape[axis] <= MOST_COLUMNS:
        return np.empty(0)
    others = tuple(at for at in range(value.ndim) if at != axis)
    return np.asarray(np.sqrt(np.mean(np.square(value, dtype=np.float64), axis=others)))


def _factor(sizes: Array) -> float:
    """Return by what factor the largest column exceeds the smallest that is not 0."""
    positive = sizes[sizes > 0]
    return float(positive.max() / positive.min()) if len(positive) > 1 else 0.0
