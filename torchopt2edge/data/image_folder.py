"""Photographs in a folder per class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.data.dataset import Mapped, Samples, Split, check_name, prepared, stratified
from torchopt2edge.errors import DataError
from torchopt2edge.preprocessing.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImageFolder:
    """Images at ``root/train/<class>/`` and ``root/test/<class>/``; the test folder may be absent.

    The shorter side is resized to ``resize`` and the centre of ``size``×``size`` cut out, then
    scaled to 0 … 1, less the mean, over the standard deviation of each channel (ImageNet's by
    default). ``augment`` cuts training images at random and mirrors them. A file that is byte
    for byte a test image is left out of the calibration split.
    """

    root: str = field(default="data/images", metadata={"identity": False})
    size: int = 224
    resize: int = 256
    calibration_count: int = 256
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    augment: bool = True
    randaugment: int = 0
    seed: int = 0

    tools = ("pillow",)  # decodes the images

    @property
    def num_classes(self) -> int:
        """The number of folders in ``root/train`` (in ``root/test`` when there is no train)."""
        part = "train" if (Path(self.root) / "train").is_dir() else "test"
        return sum(entry.is_dir() for entry in self._folder(part).iterdir())

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(3, size, size)."""
        return (3, self.size, self.size)

    @property
    def preprocess(self) -> Preprocess:
        """Resize, crop, scale, less the mean, over the standard deviation."""
        return Preprocess(
            tuple(self.mean),
            tuple(self.std),
            resize=self.resize,
            crop=(self.size, self.size),
            interpolation=self.interpolation,
        )

    def fingerprint(self) -> str:
        """Return the sha256 over the files' names, sizes and times of change."""
        if not Path(self.root).is_dir():
            raise _missing(Path(self.root))
        total = hashlib.sha256()
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            for name in sorted(files):
                path = Path(folder, name)
                stat = path.stat()
                line = f"{path.relative_to(self.root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
                total.update(line.encode())
        return total.hexdigest()

    def split(self, name: Split) -> Samples:
        """Return a split: (float32 [3, size, size] normalised, label).

        Raises:
            DataError: the split's folder is missing or empty.
        """
        import numpy as np

        check_name(name)
        part = "test" if name == "test" else "train"
        images = self._images(part)
        indices = list(range(len(images)))
        if name == "calibration":
            paths = [Path(path) for path, _ in images.samples]
            free = np.array(self._untested(paths))
            if not len(free):
                raise DataError(
                    "every training image is a test image too: nothing to calibrate on",
                    artifact=self.root,
                    hint="put other images into train/",
                )
            labels = np.array(images.targets)[free]
            indices = free[stratified(labels, self.calibration_count, self.seed)].tolist()

        prepare = self._augmented() if self.augment and name == "train" else self._prepare

        def sample(index: int) -> tuple[Tensor, int]:
            image, label = images[index]
            return prepare(image), int(label)

        return Mapped(sample, indices)

    def _untested(self, paths: list[Path]) -> list[int]:
        """Return the indices of the files that are no test image; only equal sizes are read."""
        test = Path(self.root) / "test"
        by_size: dict[int, list[Path]] = {}
        for path in test.rglob("*") if test.is_dir() else ():
            if path.is_file():
                by_size.setdefault(path.stat().st_size, []).append(path)
        return [
            index
            for index, path in enumerate(paths)
            if not any(
                path.read_bytes() == other.read_bytes()
                for other in by_size.get(path.stat().st_size, ())
            )
        ]

    def _folder(self, part: str) -> Path:
        folder = Path(self.root) / part
        if not folder.is_dir():
            raise _missing(folder)
        return folder

    def _prepare(self, image: Any) -> Tensor:
        import numpy as np

        return prepared(self.preprocess, np.asarray(image))

    def _augmented(self) -> Callable[[Any], Tensor]:
        from torchvision import transforms
        from torchvision.transforms.v2 import RandAugment

        steps: Callable[[Any], Tensor] = transforms.Compose(
            [
                transforms.RandomResizedCrop(self.size),
                transforms.RandomHorizontalFlip(),
                *([RandAugment(magnitude=self.randaugment)] if self.randaugment else []),
                transforms.ToTensor(),
                transforms.Normalize(self.mean, self.std),
            ]
        )
        return steps

    def _images(self, part: str) -> Any:
        from torchvision import datasets

        folder = self._folder(part)
        try:
            return datasets.ImageFolder(folder)
        except FileNotFoundError as error:
            raise DataError(
                "a folder of images has no class folder with images in it",
                artifact=folder,
                hint=f"put images into {folder}/<class>/",
            ) from error


def _missing(folder: Path) -> DataError:
    return DataError(
        "a folder of images is missing",
        artifact=folder,
        hint="data.root=<folder with train/<class>/ and test/<class>/>",
    )
