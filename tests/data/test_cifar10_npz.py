from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from torchopt2edge.data import check_disjoint
from torchopt2edge.data.cifar10_npz import Cifar10Npz
from torchopt2edge.errors import DataError
from torchopt2edge.store import identity


def _write(path: Path, count: int, seed: int, repeat: int = 0) -> str:
    images = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    if repeat:
        shared = np.random.default_rng(77).integers(0, 256, (repeat, 32, 32, 3), dtype=np.uint8)
        images[:repeat] = shared
    np.savez(path, x=images, y=np.arange(count) % 10)
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> Cifar10Npz:
    test = _write(tmp_path / "test.npz", 20, 0, repeat=5)
    train = _write(tmp_path / "train.npz", 40, 1, repeat=5)
    return Cifar10Npz(test=test, train=train, calibration_count=40)


def test_samples_are_normalised_by_channel(data: Cifar10Npz):
    with np.load(data.test) as file:
        raw = file["x"][3].astype(np.float64) / 255
    wanted = (raw - np.array(data.mean)) / np.array(data.std)
    image, label = data.split("test")[3]
    assert label == 3
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), wanted, atol=1e-6)


def test_samples_are_the_preprocessing_of_the_raw_images(data: Cifar10Npz):
    with np.load(data.test) as file:
        raw = file["x"]
    split = data.split("test")
    mean, std = (torch.tensor(given)[:, None, None] for given in (data.mean, data.std))
    for i, image in enumerate(raw):
        sample = split[i][0].numpy().tobytes()
        assert sample == data.preprocess(image).tobytes()
        plain = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std
        assert sample == plain.numpy().tobytes()


def test_images_of_the_test_file_are_left_out_of_calibration(data: Cifar10Npz):
    calibration = data.split("calibration")
    assert len(calibration) == 35
    check_disjoint(calibration, data.split("test"))


def test_calibration_has_the_wanted_count_and_is_deterministic(data: Cifar10Npz):
    small = Cifar10Npz(test=data.test, train=data.train, calibration_count=10)
    first, second = small.split("calibration"), small.split("calibration")
    assert len(first) == 10
    assert sorted(first[i][1] for i in range(10)) == list(range(10))
    assert all(torch.equal(first[i][0], second[i][0]) for i in range(10))


@pytest.mark.parametrize("name", ["train", "calibration"])
def test_without_a_training_file_only_test_exists(data: Cifar10Npz, name: str):
    alone = Cifar10Npz(test=data.test)
    assert len(alone.split("test")) == 20
    with pytest.raises(DataError, match=f"the {name} split needs a training file.*data.train="):
        alone.split(name)  # type: ignore[arg-type]


def test_missing_file_says_what_to_type(tmp_path: Path):
    with pytest.raises(DataError, match=r"missing.*nowhere\.npz.*data\.test="):
        Cifar10Npz(test=str(tmp_path / "nowhere.npz")).split("test")


def test_damaged_file_is_refused(tmp_path: Path):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(DataError, match="cannot be read"):
        Cifar10Npz(test=str(tmp_path / "bad.npz")).split("test")


def test_pickled_arrays_are_refused(tmp_path: Path):
    np.savez(tmp_path / "p.npz", x=np.array([{}], dtype=object), y=np.zeros(1, int))
    with pytest.raises(DataError, match="allow_pickle"):
        Cifar10Npz(test=str(tmp_path / "p.npz")).split("test")


def test_wrong_shapes_and_labels_are_refused(tmp_path: Path):
    np.savez(tmp_path / "s.npz", x=np.zeros((2, 3, 32, 32), np.uint8), y=np.zeros(2, int))
    with pytest.raises(DataError, match=r"not uint8 \(2, 32, 32, 3\)"):
        Cifar10Npz(test=str(tmp_path / "s.npz")).split("test")
    np.savez(tmp_path / "l.npz", x=np.zeros((2, 32, 32, 3), np.uint8), y=np.array([0, 10]))
    with pytest.raises(DataError, match="beyond 0 … 9"):
        Cifar10Npz(test=str(tmp_path / "l.npz")).split("test")


def test_identity_is_the_content_and_not_the_place(data: Cifar10Npz, tmp_path: Path):
    moved = tmp_path / "moved.npz"
    moved.write_bytes(Path(data.test).read_bytes())
    assert identity(Cifar10Npz(test=data.test)) == identity(Cifar10Npz(test=str(moved)))
    other = _write(tmp_path / "other.npz", 20, 5)
    assert identity(Cifar10Npz(test=data.test)) != identity(Cifar10Npz(test=other))


def test_randaugment_replays_with_its_view(tmp_path: Path) -> None:
    from torchopt2edge.data.augment import randaugmented
    from torchopt2edge.training.augmented_views import Views

    raw = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "train.npz", x=raw, y=np.arange(4))
    np.savez(tmp_path / "test.npz", x=raw[::-1], y=np.arange(4))
    files = {"test": str(tmp_path / "test.npz"), "train": str(tmp_path / "train.npz")}
    plain, strong = (Cifar10Npz(**files, randaugment=n) for n in (0, 14))
    views = Views(strong.split("train"), 0)
    assert torch.equal(views[(1, 2)][0], views[(1, 2)][0])
    changed = [
        not torch.equal(views[(v, 2)][0], Views(plain.split("train"), 0)[(v, 2)][0])
        for v in range(6)
    ]
    assert any(changed)
    assert torch.equal(strong.split("test")[1][0], plain.split("test")[1][0])
    assert np.array_equal(randaugmented(raw[0], 0), raw[0])
