"""What a teacher said is kept, and never made up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from torchopt2edge.compression.distillation.cache import Cache
from torchopt2edge.training.batch import Batch


class Teacher:
    """Says the index and the view of every sample; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, batch: Batch) -> Tensor:
        self.asked += 1
        assert batch.index is not None
        view = float(batch.view or 0)
        return torch.stack([batch.index.float(), torch.full((len(batch.index),), view)], 1)


def batch(view: int, *index: int) -> Batch:
    return Batch(torch.zeros(len(index), 1), None, torch.tensor(index), view)


def test_a_hit_is_what_was_said(tmp_path: Path) -> None:
    cache, teacher = Cache(tmp_path / "a", 2, 10), Teacher()
    said = cache.outputs(batch(1, 3, 7), teacher)
    cache.flush()
    again = Cache(tmp_path / "a", 2, 10)
    assert torch.equal(again.outputs(batch(1, 7, 3), teacher), said.flip(0))
    assert (teacher.asked, again.found) == (1, 1)
    again.outputs(batch(0, 3, 7), teacher)  # another view
    again.outputs(batch(1, 3, 4), teacher)  # one of them is new
    assert teacher.asked == 3


def test_what_was_not_flushed_does_not_count(tmp_path: Path) -> None:
    cache, teacher = Cache(tmp_path / "a", 1, 10), Teacher()
    cache.outputs(batch(0, 1, 2), teacher)  # killed here: rows may be on disk, nobody says so
    again = Cache(tmp_path / "a", 1, 10)
    again.outputs(batch(0, 1, 2), teacher)
    assert (teacher.asked, again.found) == (2, 0)


def test_a_folder_that_was_left_half_made_is_begun_anew(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "rows.f32").write_bytes(b"\x01" * 7)
    cache, teacher = Cache(folder, 1, 4), Teacher()
    assert cache.outputs(batch(0, 2), teacher).tolist() == [[2.0, 0.0]]


@pytest.mark.parametrize("view", [2, 5])
def test_later_views_run_the_teacher(tmp_path: Path, view: int) -> None:
    cache, teacher = Cache(tmp_path / "a", 2, 10), Teacher()
    for _ in range(2):
        cache.outputs(batch(view, 1), teacher)
    assert teacher.asked == 2
    assert not (tmp_path / "a").exists()
