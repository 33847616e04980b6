from __future__ import annotations

import numpy as np
import pytest
import torch

from torchopt2edge.data import check_disjoint, loader
from torchopt2edge.data.dataset import hashes
from torchopt2edge.data.digits import Digits
from torchopt2edge.errors import DataError
from torchopt2edge.store import identity

DATA = Digits(size=16, channels=1, augment=False)


def _hashes(data: Digits, name: str) -> list[str]:
    split = data.split(name)  # type: ignore[arg-type]
    return hashes(split[i] for i in range(len(split)))


def test_splits_are_the_whole_data_set_once():
    train, test = _hashes(DATA, "train"), _hashes(DATA, "test")
    assert (len(train), len(test)) == (1257, 540)
    assert not set(train) & set(test)


def test_calibration_is_a_part_of_train_and_never_of_test():
    calibration = _hashes(DATA, "calibration")
    assert len(calibration) == DATA.calibration_count
    assert set(calibration) <= set(_hashes(DATA, "train"))
    check_disjoint(DATA.split("calibration"), DATA.split("test"))


def test_overlap_is_refused_with_its_size():
    with pytest.raises(DataError, match="200 of the 200 different"):
        check_disjoint(DATA.split("calibration"), DATA.split("train"))


def test_splits_follow_the_seed():
    again = Digits(size=16, channels=1, augment=False)
    other = Digits(size=16, channels=1, augment=False, seed=1)
    for name in ("train", "calibration", "test"):
        assert _hashes(again, name) == _hashes(DATA, name)
        assert set(_hashes(other, name)) != set(_hashes(DATA, name))


def test_classes_have_equal_shares():
    test = DATA.split("test")
    counts = np.bincount([test[i][1] for i in range(len(test))], minlength=DATA.num_classes)
    assert counts.min() == counts.max() == 54


def test_samples_are_as_declared_and_normalised():
    images, labels = next(iter(loader(Digits().split("test"), 540)))
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert tuple(images.shape[1:]) == Digits().input_shape == (3, 32, 32)
    assert abs(float(images.mean())) < 0.05
    assert abs(float(images.std()) - 1) < 0.05


def test_samples_are_the_preprocessing_of_the_raw_digits():
    from sklearn.datasets import load_digits

    raw = load_digits().images
    grey = torch.from_numpy(raw).float()[:, None] / 16
    large = torch.nn.functional.interpolate(grey, size=(32, 32), mode="bilinear")
    wanted = ((large - 0.305) / 0.323).expand(-1, 3, -1, -1)
    made = Digits().preprocess(raw.astype(np.uint8)[..., None])
    np.testing.assert_allclose(made, wanted.numpy(), atol=1e-5)
    split = Digits().split("test")
    known = {image.tobytes() for image in made}
    assert all(split[i][0].numpy().tobytes() in known for i in range(len(split)))


def test_only_training_images_are_augmented():
    data = Digits(size=16, channels=1)
    train, calibration = data.split("train"), data.split("calibration")
    assert any(not torch.equal(train[0][0], train[0][0]) for _ in range(20))
    assert all(torch.equal(calibration[0][0], calibration[0][0]) for _ in range(20))


def test_loader_follows_its_seed():
    def order(seed: int) -> list[int]:
        batches = loader(DATA.split("train"), 64, shuffle=True, seed=seed)
        return [int(label) for _, labels in batches for label in labels]

    assert order(3) == order(3) != order(4)


def test_unknown_split_is_refused():
    with pytest.raises(DataError, match="validation"):
        DATA.split("validation")  # type: ignore[arg-type]


def test_identity_for_the_store_covers_every_field():
    assert identity(DATA) == identity(Digits(size=16, channels=1, augment=False))
    assert identity(DATA) != identity(Digits(size=16, channels=1, augment=False, seed=9))
