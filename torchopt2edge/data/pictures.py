"""A folder of pictures without labels: what a net sees, where nobody says what is right."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge.data.dataset import Split, check_name, prepared
from torchopt2edge.data.image_files import fingerprint_lines, image_files, read_image
from torchopt2edge.errors import DataError
from torchopt2edge.preprocessing.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Unlabelled:
    """A lazy split of pictures: float32 [3, H, W] each, without a target."""

    paths: tuple[Path, ...]
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return prepared(self.preprocess, read_image(self.paths[index]))


@dataclass(frozen=True)
class Pictures:
    """All pictures below ``root``, brought to ``size``.

    They calibrate a model and check its files, and score nothing.

    Attributes:
        root: the folder.
        size: height and width, or one number for both; the picture is resized to it and not cut.
        mean: of each channel, taken off after scaling to 0 … 1 (ImageNet's by default).
        std: of each channel, divided by.
        interpolation: ``bilinear`` or ``bicubic``.
        calibration_count: how many pictures are drawn at most.
        seed: what they are drawn with.
    """

    root: str = field(default="data/pictures", metadata={"identity": False})
    size: tuple[int, int] | int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    calibration_count: int = 256
    seed: int = 0

    labelled = False
    tools = ("pillow",)  # decodes the images

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(3, height, width)."""
        return (3, *self._sides)

    @property
    def _sides(self) -> tuple[int, int]:
        if isinstance(self.size, int):
            return self.size, self.size
        height, width = self.size
        return int(height), int(width)

    @property
    def preprocess(self) -> Preprocess:
        """Resize, scale, less the mean, over the standard deviation."""
        return Preprocess(
            tuple(self.mean),
            tuple(self.std),
            resize=self._sides,
            interpolation=self.interpolation,
        )

    def fingerprint(self) -> str:
        """Return the sha256 over the files' names, sizes and times of change."""
        total = hashlib.sha256()
        for line in fingerprint_lines(self._folder()):
            total.update(line.encode())
        return total.hexdigest()

    def split(self, name: Split) -> Unlabelled:
        """Return the pictures that calibrate; there is no other split.

        Raises:
            DataError: the folder is missing or holds no picture, or another split is asked for.
        """
        import numpy as np

        check_name(name)
        if name != "calibration":
            raise DataError(
                "pictures without labels neither train a net nor score one",
                artifact=self.root,
                hint="data=image_folder data.root=<folder with train/<class>/ and test/<class>/>",
            )
        paths = image_files(self._folder())
        if not paths:
            raise DataError(
                "there is no picture in a folder", artifact=self.root, hint="data.root=FOLDER"
            )
        order = np.random.default_rng(self.seed).permutation(len(paths))
        drawn = tuple(paths[at] for at in order[: self.calibration_count])
        return Unlabelled(drawn, self.preprocess)

    def _folder(self) -> Path:
        folder = Path(self.root)
        if not folder.is_dir():
            raise DataError(
                "a folder of pictures is missing", artifact=folder, hint="data.root=FOLDER"
            )
        return folder
