"""Photographs in a folder per class."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.data.dataset import Mapped, Samples, Split, check_name, prepared, stratified
from torchopt2edge.data.image_files import (
    fingerprint_lines,
    image_files,
    read_image,
    visible_folders,
)
from torchopt2edge.errors import DataError
from torchopt2edge.preprocessing.preprocess import Preprocess

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, Any]

MOST_BROKEN = 0.05
"""The largest share of images that ``skip_broken`` leaves out."""
_log = logging.getLogger("torchopt2edge")


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
    skip_broken: bool = False

    tools = ("pillow",)  # decodes the images

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the folders in ``root/train`` (in ``root/test`` when there is no train)."""
        part = "train" if (Path(self.root) / "train").is_dir() else "test"
        return tuple(folder.name for folder in visible_folders(self._folder(part)))

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

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
        for line in fingerprint_lines(Path(self.root)):
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
        found = self._images(part)
        indices = list(range(len(found)))
        if name == "calibration":
            free = np.array(self._untested([path for path, _ in found]))
            if not len(free):
                raise DataError(
                    "every training image is a test image too: nothing to calibrate on",
                    artifact=self.root,
                    hint="put other images into train/",
                )
            labels = np.array([label for _, label in found])[free]
            indices = free[stratified(labels, self.calibration_count, self.seed)].tolist()

        prepare = self._augmented() if self.augment and name == "train" else self._prepare

        def sample(index: int) -> tuple[Tensor, int]:
            path, label = found[index]
            return prepare(read_image(path)), label

        return Mapped(sample, indices)

    def _untested(self, paths: list[Path]) -> list[int]:
        """Return the indices of the files that are no test image; only equal sizes are read."""
        test = Path(self.root) / "test"
        by_size: dict[int, list[Path]] = {}
        for path in image_files(test) if test.is_dir() else ():
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

    def _prepare(self, image: Array) -> Tensor:
        return prepared(self.preprocess, image)

    def _augmented(self) -> Callable[[Array], Tensor]:
        from torchvision import transforms
        from torchvision.transforms.v2 import RandAugment

        steps: Callable[[Array], Tensor] = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomResizedCrop(self.size),
                transforms.RandomHorizontalFlip(),
                *([RandAugment(magnitude=self.randaugment)] if self.randaugment else []),
                transforms.ToTensor(),
                transforms.Normalize(self.mean, self.std),
            ]
        )
        return steps

    def _images(self, part: str) -> list[tuple[Path, int]]:
        """Return the images of a part with their labels, class by class.

        Raises:
            DataError: there is none, or a folder that is no class.
        """
        folder, classes = self._folder(part), self.classes
        names = [each.name for each in visible_folders(folder)]
        unknown = [name for name in names if name not in classes]
        if unknown:
            raise DataError(
                f"{part}/ has the folder {unknown[0]!r}, which is no class of train/",
                artifact=folder,
                hint=f"the classes are {', '.join(classes[:10])}: rename or remove the folder",
            )
        if len(names) < len(classes):
            missing = [name for name in classes if name not in names]
            _log.warning("%s/ has no images of %d classes: %s", part, len(missing), missing[:10])
        found = [
            (path, classes.index(name)) for name in names for path in image_files(folder / name)
        ]
        if self.skip_broken:
            found = _readable(found, folder)
        if not found:
            raise DataError(
                "a folder of images has no class folder with images in it",
                artifact=folder,
                hint=f"put images into {folder}/<class>/",
            )
        return found


def _readable(found: list[tuple[Path, int]], folder: Path) -> list[tuple[Path, int]]:
    """Leave out the images that cannot be read, and list them.

    Raises:
        DataError: they are more than `MOST_BROKEN`.
    """
    broken: dict[Path, str] = {}
    for path, _ in found:
        try:
            read_image(path)
        except DataError as error:
            broken[path] = error.what
    for path, why in broken.items():
        _log.warning("left out: %s: %s", os.fsencode(path).decode("utf-8", "replace"), why)
    if len(broken) > MOST_BROKEN * len(found):
        raise DataError(
            f"{len(broken)} of {len(found)} images cannot be read",
            artifact=folder,
            hint="the log lists them: write the data set again",
        )
    return [each for each in found if each[0] not in broken]


def _missing(folder: Path) -> DataError:
    return DataError(
        "a folder of images is missing",
        artifact=folder,
        hint="data.root=<folder with train/<class>/ and test/<class>/>",
    )
