"""A .npy that grows: what NumPy reads of it, and what it costs."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from torchopt2edge.errors import DataError
from torchopt2edge.samples.npy_stream import Column, rows


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "bool", "float64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_numpy_reads_it(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    whole = (np.arange(50 * 24).reshape(50, 24)[:, : int(np.prod(shape))] % 7).astype(dtype)
    whole = np.asfortranarray(whole.reshape(50, *shape))
    file = tmp_path / "0.npy"
    with Column(file, "x") as column:
        for begin, end in [(0, 1), (1, 9), (9, 9), (9, 50)]:
            column.extend(whole[begin:end])
    found = np.load(file)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("count", [1, 9, 10, 1001])
def test_the_count_may_have_any_number_of_digits(count: int, tmp_path: Path) -> None:
    with Column(tmp_path / "0.npy", "x") as column:
        for one in range(count):
            column.extend(np.full((1, 2), one, np.float32))
    np.testing.assert_array_equal(
        np.load(tmp_path / "0.npy"), np.arange(count, dtype=np.float32)[:, None].repeat(2, 1)
    )
    assert sum(len(batch) for batch in rows(tmp_path / "0.npy", 7)) == count


def test_samples_of_another_shape(tmp_path: Path) -> None:
    with Column(tmp_path / "0.npy", "image") as column:
        column.extend(np.zeros((2, 3, 4)))
        with pytest.raises(
            DataError, match=r"'image' have unequal shapes: \(3, 5\) after \(3, 4\)"
        ):
            column.extend(np.zeros((2, 3, 5)))


def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        with Column(tmp_path / "0.npy", "x") as column:
            for _ in range(count):
                column.extend(np.zeros((1, 64, 64), np.float32))
        assert sum(len(batch) for batch in rows(tmp_path / "0.npy", 2)) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few = peak(4)
    assert peak(200) < few + 2 * 64 * 64 * 4
