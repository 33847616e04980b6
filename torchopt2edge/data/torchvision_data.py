"""Data sets that torchvision knows how to download."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.data.augment import randaugmented, shifted
from torchopt2edge.data.dataset import Mapped, Samples, Split, check_name, prepared, stratified
from torchopt2edge.errors import DataError
from torchopt2edge.preprocessing.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TorchvisionData:
    """``torchvision.datasets.<name>`` under ``root``, as colour images of ``size``×``size``.

    It takes the data sets that have a ``train=`` or a ``split=`` argument. Nothing is downloaded
    unless ``download`` says so. ``augment`` shifts training images by up to ``size // 8`` pixels.
    """

    name: str = "CIFAR10"
    root: str = field(default="data", metadata={"identity": False})
    download: bool = field(default=False, metadata={"identity": False})
    num_classes: int = 10
    size: int = 32
    calibration_count: int = 512
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    augment: bool = True
    randaugment: int = 0
    seed: int = 0

    tools = ("pillow",)  # decodes the images

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(3, size, size)."""
        return (3, self.size, self.size)

    @property
    def preprocess(self) -> Preprocess:
        """Resize the colour image, scale, less the mean, over the standard deviation."""
        return Preprocess(self.mean, self.std, resize=(self.size, self.size))

    def fingerprint(self) -> str:
        """Return the name: torchvision itself checks what it downloaded against known sums."""
        return f"torchvision.datasets.{self.name}"

    def split(self, name: Split) -> Samples:
        """Return a split: (float32 [3, size, size] normalised, label).

        Raises:
            DataError: torchvision has no such data set, or its files are not there.
        """
        import numpy as np

        check_name(name)
        source = self._source("test" if name == "test" else "train")
        indices = list(range(len(source)))
        if name == "calibration":
            tested = {self._raw(image) for image, _ in self._source("test")}
            free = [i for i in indices if self._raw(source[i][0]) not in tested]
            labels = np.array([int(source[i][1]) for i in free])
            chosen = stratified(labels, self.calibration_count, self.seed)
            indices = [free[i] for i in chosen]
        preprocess = self.preprocess
        training = self.augment and name == "train"
        reach, strength = (self.size // 8, self.randaugment) if training else (0, 0)

        def sample(index: int) -> tuple[Tensor, int]:
            image, label = source[index]
            colour = randaugmented(np.asarray(image.convert("RGB")), strength)
            return shifted(prepared(preprocess, colour), reach), int(label)

        return Mapped(sample, indices)

    @staticmethod
    def _raw(image: Any) -> bytes:
        raw: bytes = image.tobytes()
        return raw

    def _source(self, part: str) -> Any:
        from torchvision import datasets

        cls: Any = getattr(datasets, self.name, None)
        names = inspect.signature(cls).parameters if cls is not None else {}
        if "root" not in names or not {"train", "split"} & names.keys():
            raise DataError(
                f"torchvision has no data set called {self.name!r} with a train and a test part",
                hint="data.name=CIFAR10, CIFAR100, MNIST, FashionMNIST, SVHN, Flowers102 …",
            )
        which = {"train": part == "train"} if "train" in names else {"split": part}
        try:
            return cls(Path(self.root), download=self.download, **which)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"{self.name} is not there: {error}",
                artifact=self.root,
                hint="data.download=true, or data.root=<where it lies>",
            ) from error
