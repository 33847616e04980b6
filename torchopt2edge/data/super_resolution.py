"""Photographs and what they look like when they are shrunk: pairs to learn enlarging from."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.data.dataset import Samples, Split, check_name
from torchopt2edge.errors import DataError
from torchopt2edge.preprocessing.preprocess import Preprocess

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, Any]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class Enlarging:
    """Pairs of a small patch [3, size, size] and its original [3, scale · size, scale · size].

    Without ``root`` the photographs are the two that come with scikit-learn, else those in that
    folder. Every photograph is cut at columns: the left 60 % are for training, the next 15 % for
    calibration, the rest for the test; no patch crosses a border. Originals are shrunk with
    Pillow's bicubic filter. ``train_count`` patches make an epoch, each at a place and mirrored as
    its view says; the other splits are grids. Values are from 0 to 1.
    """

    root: str | None = field(default=None, metadata={"identity": False})
    scale: int = 2
    size: int = 32
    train_count: int = 512
    calibration_count: int = 64
    augment: bool = True
    seed: int = 0

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(3, size, size)."""
        return (3, self.size, self.size)

    @property
    def preprocess(self) -> Preprocess:
        """Scale to 0 … 1."""
        return Preprocess((0.0,) * 3, (1.0,) * 3)

    def fingerprint(self) -> str:
        """Return the sha256 over the photographs' bytes."""
        if self.root is None:
            return "sklearn.datasets.load_sample_images"
        total = hashlib.sha256()
        for path in _files(self.root):
            total.update(path.read_bytes())
        return total.hexdigest()

    def split(self, name: Split) -> Samples:
        """Return a split.

        Raises:
            DataError: no photographs, or smaller ones than a patch of the split needs.
        """
        check_name(name)
        images = _photographs(self.root)
        left, right = {"train": (0.0, 0.6), "calibration": (0.6, 0.75), "test": (0.75, 1.0)}[name]
        parts = [
            image[:, round(left * image.shape[1]) : round(right * image.shape[1])]
            for image in images
        ]
        edge = self.scale * self.size
        parts = [part for part in parts if min(part.shape[:2]) >= edge]
        if not parts:
            raise DataError(
                f"no photograph has {edge} pixels for a patch in its {name} part",
                artifact=self.root,
                hint="a smaller data.size, or larger photographs",
            )
        if name == "train" and self.augment:
            return _Random(parts, self.scale, edge, self.train_count)
        limit = self.calibration_count if name == "calibration" else None
        return _Grid(parts, self.scale, edge, limit)


@dataclass(frozen=True, eq=False)
class _Random:
    """Patches at random places, mirrored every second time."""

    parts: list[Array]
    scale: int
    edge: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        import torch

        part = self.parts[index % len(self.parts)]
        room = (part.shape[0] - self.edge, part.shape[1] - self.edge)
        top, left = (int(torch.randint(0, size + 1, ())) for size in room)
        patch = part[top : top + self.edge, left : left + self.edge]
        return _pair(patch[:, ::-1] if torch.rand(()) < 0.5 else patch, self.scale)


@dataclass(frozen=True, eq=False)
class _Grid:
    """Patches side by side, at most ``limit``, evenly spread."""

    parts: list[Array]
    scale: int
    edge: int
    limit: int | None

    @functools.cached_property
    def places(self) -> list[tuple[int, int, int]]:
        """(part, top, left) of every patch."""
        every = [
            (number, top, left)
            for number, part in enumerate(self.parts)
            for top in range(0, part.shape[0] - self.edge + 1, self.edge)
            for left in range(0, part.shape[1] - self.edge + 1, self.edge)
        ]
        if self.limit is None or self.limit >= len(every):
            return every
        return [every[i * len(every) // self.limit] for i in range(self.limit)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        number, top, left = self.places[index]
        return _pair(self.parts[number][top : top + self.edge, left : left + self.edge], self.scale)


def _pair(patch: Array, scale: int) -> tuple[Tensor, Tensor]:
    """Return (small, original) float32 [3, …] of one uint8 [H, W, 3]."""
    import numpy as np
    import torch
    from PIL import Image

    whole = Image.fromarray(np.ascontiguousarray(patch))
    size = (whole.width // scale, whole.height // scale)
    small = np.asarray(whole.resize(size, Image.Resampling.BICUBIC))
    made = [torch.from_numpy(np.array(one)).permute(2, 0, 1) / 255 for one in (small, patch)]
    return made[0].contiguous(), made[1].contiguous()


def _files(root: str) -> list[Path]:
    files = sorted(p for p in Path(root).rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise DataError(
            "a folder holds no photographs", artifact=root, hint="data.root=<folder of images>"
        )
    return files


@functools.lru_cache(maxsize=2)
def _photographs(root: str | None) -> list[Array]:
    import numpy as np

    if root is None:
        from sklearn.datasets import load_sample_images

        return [np.asarray(image) for image in load_sample_images().images]
    from PIL import Image

    return [np.asarray(Image.open(path).convert("RGB")) for path in _files(root)]
