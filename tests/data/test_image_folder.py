from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from torchopt2edge.data import check_disjoint
from torchopt2edge.data.image_folder import ImageFolder
from torchopt2edge.errors import DataError
from torchopt2edge.store import identity


def _photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((50, 40)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for label, name in enumerate(("cat", "dog")):
        for i in range(6):
            _photo(tmp_path / "train" / name / f"{i}.jpg", 10 * label + i)
        for i in range(2):
            _photo(tmp_path / "test" / name / f"{i}.jpg", 100 + 10 * label + i)
    twin = (tmp_path / "test" / "cat" / "0.jpg").read_bytes()
    (tmp_path / "train" / "cat" / "0.jpg").write_bytes(twin)
    return tmp_path


def _data(root: Path, **settings: object) -> ImageFolder:
    return ImageFolder(root=str(root), size=24, resize=32, **settings)  # type: ignore[arg-type]


def test_splits_have_the_declared_shape(root: Path):
    data = _data(root)
    assert data.num_classes == 2
    for name, count in (("train", 12), ("test", 4)):
        split = data.split(name)  # type: ignore[arg-type]
        assert len(split) == count
        image, label = split[count - 1]
        assert tuple(image.shape) == data.input_shape == (3, 24, 24)
        assert image.dtype == torch.float32
        assert label == 1


def test_samples_are_the_preprocessing_of_the_raw_images(root: Path):
    tall = root / "test" / "dog" / "tall.jpg"
    Image.open(root / "test" / "dog" / "0.jpg").rotate(90, expand=True).save(tall)
    data = _data(root)
    split = data.split("test")
    theirs = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.CenterCrop(24),
            transforms.ToTensor(),
            transforms.Normalize((0,) * 3, data.std),
        ]
    )
    for i, path in enumerate(sorted((root / "test").rglob("*.jpg"))):
        with Image.open(path) as image:
            raw, same = np.asarray(image), theirs(image)
        sample = split[i][0].numpy()
        assert sample.tobytes() == data.preprocess(raw).tobytes()
        mean, std = (np.array(given)[:, None, None] for given in (data.mean, data.std))
        assert np.abs(sample * std + mean - same.numpy() * std).max() < 1.01 / 255


def test_an_image_smaller_than_the_crop_is_refused(root: Path):
    with pytest.raises(DataError, match="crop of 24×24 does not fit into an image of 20×25"):
        ImageFolder(root=str(root), size=24, resize=20).split("test")[0]


def test_a_copy_of_a_test_image_is_left_out_of_calibration(root: Path):
    data = _data(root)
    calibration = data.split("calibration")
    assert len(calibration) == 11
    check_disjoint(calibration, data.split("test"))
    with pytest.raises(DataError, match="1 of the 12"):
        check_disjoint(_data(root, augment=False).split("train"), data.split("test"))


def test_only_training_images_are_augmented(root: Path):
    data = _data(root)
    train, calibration = data.split("train"), data.split("calibration")
    assert any(not torch.equal(train[0][0], train[0][0]) for _ in range(5))
    assert all(torch.equal(calibration[0][0], calibration[0][0]) for _ in range(5))


def test_missing_folders_say_what_to_type(tmp_path: Path):
    _photo(tmp_path / "train" / "cat" / "0.jpg", 0)
    data = _data(tmp_path)
    assert len(data.split("calibration")) == 1
    with pytest.raises(DataError, match=r"missing \[.*test\].*data.root="):
        data.split("test")
    with pytest.raises(DataError, match=r"data.root="):
        _data(tmp_path / "nowhere").fingerprint()


def test_folder_without_images_is_refused(tmp_path: Path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="no class folder with images"):
        _data(tmp_path).split("train")


def test_identity_follows_the_files(root: Path):
    before = identity(_data(root))
    assert identity(_data(root)) == before
    _photo(root / "train" / "dog" / "new.jpg", 5)
    assert identity(_data(root)) != before
