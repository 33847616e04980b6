"""What a data set is to the stages, and what they all do with one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torchopt2edge.errors import DataError
from torchopt2edge.preprocessing.preprocess import Preprocess, apply

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.utils.data import DataLoader

    Array = np.ndarray[Any, Any]
    Ints = np.ndarray[Any, np.dtype[np.int64]]

Split = Literal["train", "calibration", "test"]


class Samples(Protocol):
    """A split: (float32 [C, H, W] preprocessed, target) by index.

    The target is what the task's loss takes: an int for classes, a tensor for others.
    """

    def __len__(self) -> int:
        """The number of samples."""

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """One sample."""


class DataSet(Protocol):
    """A frozen dataclass that makes the splits of one data set.

    One whose labels are classes, 0 … ``num_classes`` - 1, has ``num_classes`` too.

    ``calibration`` is a part of the training data and never of the test data, whatever the
    files hold: a sample that also stands in ``test`` is not taken.
    """

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a preprocessed sample."""

    @property
    def calibration_count(self) -> int:
        """How many samples ``split("calibration")`` has, at most."""

    @property
    def seed(self) -> int:
        """What ``calibration`` is drawn with."""

    @property
    def preprocess(self) -> Preprocess | None:
        """What makes every sample of ``calibration`` and ``test`` of its raw image.

        None when no `Preprocess` can say it; then only preprocessed arrays fit the files made.
        """

    def fingerprint(self) -> str:
        """Return the identity of the content, cheaply: the store's keys hold it."""

    def split(self, name: Split) -> Samples:
        """Return a split; only ``train`` may be random (augmentation).

        Raises:
            DataError: the files are missing or damaged.
        """


@dataclass(frozen=True)
class Mapped:
    """A lazy split: ``make(indices[i])`` is sample i."""

    make: Callable[[int], tuple[Tensor, Any]]
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return self.make(int(self.indices[index]))


def prepared(preprocess: Preprocess, raw: Array) -> Tensor:
    """Return the float32 [C, H, W] that a preprocessing makes of one raw image."""
    import torch

    return torch.from_numpy(apply(preprocess, raw)[0])


def check_name(name: str) -> None:
    """Refuse a split that does not exist.

    Raises:
        DataError: the name is not train, calibration or test.
    """
    if name not in ("train", "calibration", "test"):
        raise DataError(f"there is no split called {name!r}", hint="train, calibration or test")


def loader(
    dataset: Samples,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
    spare_one: bool = False,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return batches of (float32 [N, C, H, W], int64 [N]) in an order that ``seed`` decides.

    ``spare_one`` leaves out a last batch of a single sample: training a BatchNorm fails on it.
    """
    import torch
    from torch.utils.data import DataLoader

    order = torch.Generator().manual_seed(seed)
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=workers,
        generator=order,
        persistent_workers=workers > 0,
        drop_last=spare_one and len(dataset) % batch_size == 1,
    )


def stratified(labels: Ints, count: int, seed: int) -> Ints:
    """Return ``count`` sorted indices with the classes in equal shares as far as they go."""
    import numpy as np

    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)  # the how-manieth of its class a sample is
    for label in np.unique(labels):
        of_class = shuffled[labels[shuffled] == label]
        turn[of_class] = np.arange(len(of_class))
    by_turn = shuffled[np.argsort(turn[shuffled], kind="stable")]
    chosen: Ints = np.sort(by_turn[:count])
    return chosen


def hashes(samples: Iterable[tuple[Tensor, int]]) -> list[str]:
    """Return one sha256 per sample, over the bytes of its preprocessed tensor."""
    return [hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest() for x, _ in samples]


def check_disjoint(calibration: Samples, test: Samples) -> None:
    """Refuse a calibration split that shares samples with the test split.

    Raises:
        DataError: it names how many overlap.
    """
    seen = set(hashes(calibration[i] for i in range(len(calibration))))
    overlap = seen.intersection(hashes(test[i] for i in range(len(test))))
    if overlap:
        raise DataError(
            f"{len(overlap)} of the {len(seen)} different calibration samples are test samples too",
            hint="calibrate on a part of the training data",
        )
