"""Patches of photographs and their originals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchopt2edge.data.dataset import check_disjoint
from torchopt2edge.data.digit_traits import DigitTraits
from torchopt2edge.data.super_resolution import Enlarging
from torchopt2edge.errors import DataError
from torchopt2edge.training.augmented_views import Views


def test_splits_are_pairs_that_share_no_pixel() -> None:
    data = Enlarging(size=16, train_count=20, calibration_count=8)
    for name, count in (("train", 20), ("calibration", 8)):
        split = data.split(name)  # type: ignore[arg-type]
        assert len(split) == count
        small, whole = split[3]
        assert small.shape == data.input_shape
        assert whole.shape == (3, 32, 32)
        assert 0 <= float(small.min()) <= float(whole.max()) <= 1
        assert float((whole.mean((1, 2)) - small.mean((1, 2))).abs().max()) < 0.02
    assert len(data.split("test")) > 20
    check_disjoint(data.split("calibration"), data.split("test"))


def test_a_view_replays() -> None:
    views = Views(Enlarging(size=16, train_count=8).split("train"), 1)
    assert torch.equal(views[(2, 5)][1], views[(2, 5)][1])
    assert not torch.equal(views[(2, 5)][1], views[(3, 5)][1])


def test_photographs_of_ones_own(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    data = Enlarging(root=str(tmp_path), size=10, scale=2)
    assert data.split("test")[0][1].shape == (3, 20, 20)
    before = data.fingerprint()
    Image.fromarray(pixels[::-1]).save(tmp_path / "one.png")
    assert data.fingerprint() != before
    with pytest.raises(DataError, match=r"no photograph has 200 pixels.*smaller data\.size"):
        Enlarging(root=str(tmp_path), size=100).split("test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no photographs"):
        Enlarging(root=str(tmp_path / "empty")).split("test")


def test_traits_are_those_of_the_digit() -> None:
    data = DigitTraits(size=16, traits=("even", "loop"))
    digits = data._digits.split("test")
    for index in range(20):
        digit = digits[index][1]
        wanted = [digit % 2 == 0, digit in (0, 6, 8, 9)]
        assert data.split("test")[index][1].tolist() == wanted
    with pytest.raises(DataError, match=r"'round'.*even,large"):
        DigitTraits(traits=("round",)).split("test")
