from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from torchopt2edge.data import check_disjoint
from torchopt2edge.data.torchvision_data import TorchvisionData
from torchopt2edge.errors import DataError


def _idx(path: Path, array: np.ndarray) -> None:
    """Write MNIST's own format: a magic number with the rank, the sizes, the bytes."""
    sizes = struct.pack(f">{array.ndim}i", *array.shape)
    path.write_bytes(struct.pack(">i", 0x800 + array.ndim) + sizes + array.tobytes())


@pytest.fixture
def data(tmp_path: Path) -> TorchvisionData:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    test = rng.integers(0, 256, (10, 28, 28), dtype=np.uint8)
    train[:3] = test[:3]
    for name, images in (("train", train), ("t10k", test)):
        _idx(raw / f"{name}-images-idx3-ubyte", images)
        _idx(raw / f"{name}-labels-idx1-ubyte", (np.arange(len(images)) % 10).astype(np.uint8))
    return TorchvisionData(name="MNIST", root=str(tmp_path), calibration_count=50, augment=False)


def test_grey_images_become_colour_images(data: TorchvisionData):
    image, label = data.split("test")[4]
    assert tuple(image.shape) == data.input_shape == (3, 32, 32)
    assert image.dtype == torch.float32
    assert label == 4


def test_samples_are_the_preprocessing_of_the_raw_images(data: TorchvisionData):
    from torchvision.datasets import MNIST

    source, split = MNIST(data.root, train=False), data.split("test")
    for i, (image, _) in enumerate(source):
        sample = split[i][0].numpy().tobytes()
        assert sample == data.preprocess(np.asarray(image.convert("RGB"))).tobytes()
        assert sample == data.preprocess(np.asarray(image)).tobytes(), "grey becomes colour"


def test_calibration_leaves_out_test_images(data: TorchvisionData):
    assert len(data.split("calibration")) == 27
    check_disjoint(data.split("calibration"), data.split("test"))
    with pytest.raises(DataError, match="3 of the 30"):
        check_disjoint(data.split("train"), data.split("test"))


def test_absent_files_name_the_switch(tmp_path: Path):
    with pytest.raises(DataError, match=r"data\.download=true"):
        TorchvisionData(root=str(tmp_path)).split("test")


def test_unknown_name_is_refused():
    with pytest.raises(DataError, match="CIFAR11"):
        TorchvisionData(name="CIFAR11").split("test")
