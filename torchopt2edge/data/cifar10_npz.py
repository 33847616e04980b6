"""CIFAR-10, or any small colour images, in .npz files.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

from __future__ import annotations

import functools
import hashlib
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.data.augment import flipped, randaugmented, shifted
from torchopt2edge.data.dataset import Mapped, Samples, Split, check_name, prepared, stratified
from torchopt2edge.errors import DataError
from torchopt2edge.preprocessing.preprocess import Preprocess

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Cifar10Npz:
    """Images from files with ``x`` [N, H, W, 3] uint8 and ``y`` [N] integer labels.

    ``train`` may be absent: then only the test split exists. Images that stand in the test file
    too are left out of the calibration split. Samples are x/255, less the mean, over the
    standard deviation of each channel; ``augment`` shifts training images by up to 4 pixels and
    mirrors them, after `randaugmented` with the magnitude ``randaugment``.
    """

    # The fingerprint tells what the files hold: where they lie does not matter to the store.
    test: str = field(default="data/cifar10_test.npz", metadata={"identity": False})
    train: str | None = field(default=None, metadata={"identity": False})
    num_classes: int = 10
    size: int = 32
    calibration_count: int = 512
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    augment: bool = True
    randaugment: int = 0
    seed: int = 0

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(3, size, size)."""
        return (3, self.size, self.size)

    @property
    def preprocess(self) -> Preprocess:
        """Scale to 0 … 1, less the mean, over the standard deviation."""
        return Preprocess(self.mean, self.std)

    def fingerprint(self) -> str:
        """Return the sha256 of the files."""
        paths = [path for path in (self.train, self.test) if path]
        return ",".join(_digest(path, _stamp(path)) for path in paths)

    def split(self, name: Split) -> Samples:
        """Return a split: (float32 [3, size, size] normalised, label).

        Raises:
            DataError: a file is missing or damaged, or no training file was given.
        """
        check_name(name)
        if name == "test":
            images, labels = self._read(self.test)
            return self._samples(images, labels, range(len(labels)), False)
        if not self.train:
            raise DataError(
                f"the {name} split needs a training file; the test file is never used for it",
                artifact=self.test,
                hint="data.train=<path of an .npz with x and y>",
            )
        images, labels = self._read(self.train)
        if name == "train":
            return self._samples(images, labels, range(len(labels)), self.augment)
        import numpy as np

        tested = {_hash(image) for image in self._read(self.test)[0]}
        free = np.array([i for i, image in enumerate(images) if _hash(image) not in tested])
        if not len(free):
            raise DataError(
                "every training image is a test image too: nothing to calibrate on",
                artifact=self.train,
                hint="data.train=<path of the training images>",
            )
        chosen = free[stratified(labels[free], self.calibration_count, self.seed)]
        return self._samples(images, labels, chosen.tolist(), False)

    def _read(self, path: str) -> tuple[Array, Array]:
        images, labels = _load(path, _stamp(path))
        shape = (len(labels), self.size, self.size, 3)
        if images.shape != shape or str(images.dtype) != "uint8":
            raise DataError(
                f"x is {images.dtype} {images.shape}, not uint8 {shape}",
                artifact=path,
                hint=f"store x as uint8 [N, {self.size}, {self.size}, 3] and y as [N]",
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise DataError(f"y goes beyond 0 … {self.num_classes - 1}", artifact=path)
        return images, labels

    def _samples(self, images: Array, labels: Array, indices: Any, augment: bool) -> Samples:
        preprocess, strength = self.preprocess, self.randaugment if augment else 0

        def sample(index: int) -> tuple[Tensor, int]:
            raw = randaugmented(images[index], strength)
            image = prepared(preprocess, raw)
            return (flipped(shifted(image, 4)) if augment else image), int(labels[index])

        return Mapped(sample, indices)


def _stamp(path: str) -> tuple[int, int]:
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise DataError(
            "a data file is missing", artifact=path, hint="data.test=<path> data.train=<path>"
        ) from error
    return (stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=8)
def _digest(path: str, stamp: tuple[int, int]) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=2)
def _load(path: str, stamp: tuple[int, int]) -> tuple[Array, Array]:
    import numpy as np

    try:
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return file["x"], file["y"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"a data file cannot be read: {error}",
            artifact=path,
            hint="store it with numpy.savez(path, x=images, y=labels)",
        ) from error


def _hash(image: Array) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()
