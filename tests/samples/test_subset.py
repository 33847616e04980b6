"""Samples drawn to be scored: the same ones each time, kept whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.disk import full_disk
from torchopt2edge.errors import EvaluateError
from torchopt2edge.samples.subset import draw
from torchopt2edge.types import TensorSpec

INPUTS = (TensorSpec("x", (-1, 3)),)


def loader(count: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return labelled batches in which sample i is i three times, and so is its label."""
    numbers = np.arange(count, dtype=np.float32)
    rows = np.repeat(numbers[:, None], 3, axis=1)
    cuts = [*range(size, count, size)]
    return [*zip(np.split(rows, cuts), np.split(np.arange(count), cuts), strict=True)]


def test_a_draw_takes_the_same_samples_whole_each_time(tmp_path: Path) -> None:
    found = []
    for size in (7, 100):  # however the loader cuts them
        folder = tmp_path / str(size)
        folder.mkdir()
        drawn = draw(loader(250, size), INPUTS, 250, 100, folder)
        assert drawn.of == 250
        taken = [*drawn]
        assert [len(labels) for _, labels in taken] == [64, 36]
        for given, labels in (*taken, *drawn):  # twice
            np.testing.assert_array_equal(given["x"], np.repeat(labels[:, None], 3, axis=1))
        found.append(np.concatenate([labels for _, labels in taken]))
    np.testing.assert_array_equal(*found)
    assert len(set(found[0])) == 100
    assert (found[0] < 125).sum() in range(35, 66)  # from all over the set


def test_a_loader_that_changes_or_lacks_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match="had 250 labelled samples and now has 240"):
        draw(loader(240, 10), INPUTS, 250, 100, tmp_path)
    short = [(np.ones((4, 3), np.float32), np.ones(3))]
    with pytest.raises(EvaluateError, match="had 4 labelled samples and now has 3"):
        draw(short, INPUTS, 4, 2, tmp_path)
    with pytest.raises(EvaluateError, match=r"cannot be kept.*evaluate_samples=100"):
        draw(loader(250, 10), INPUTS, 250, 100, tmp_path / "nowhere")


def test_a_draw_that_fills_its_disk_says_where(tmp_path: Path) -> None:
    with full_disk(tmp_path / "small") as folder:
        wide = (TensorSpec("x", (-1, 3000)),)
        many = [(np.ones((50, 3000), np.float32), np.zeros(50, np.int64))] * 4
        with pytest.raises(EvaluateError, match="No space left") as caught:
            draw(many, wide, 200, 100, folder)
        assert caught.value.artifact == str(folder)


def test_a_file_that_the_loader_cannot_read_is_its_own_error(tmp_path: Path) -> None:
    def images() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield np.ones((4, 3), np.float32), np.zeros(4)
        yield np.load(tmp_path / "missing.npy"), np.zeros(4)

    (tmp_path / "kept").mkdir()
    with pytest.raises(FileNotFoundError, match=r"missing\.npy"):
        draw(images(), INPUTS, 8, 4, tmp_path / "kept")
