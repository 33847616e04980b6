"""Scanned handwritten digits that come with scikit-learn: real data without a download.

Source: the test set of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak
1998), 1797 images of 8×8 with 17 grey levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchopt2edge.data.augment import shifted
from torchopt2edge.data.dataset import Mapped, Samples, Split, check_name, stratified
from torchopt2edge.preprocessing.preprocess import Preprocess, apply

if TYPE_CHECKING:
    from torch import Tensor

_MEAN, _STD = 0.305, 0.323


@dataclass(frozen=True)
class Digits:
    """1797 digits, resized to ``size``×``size`` and repeated over ``channels``, 10 classes.

    ``test_count`` of them are for the test and the others for training, both with the classes in
    equal shares, as ``seed`` draws them; ``calibration_count`` are drawn from the training part.
    ``augment`` shifts training images by up to ``size // 8`` pixels.
    """

    size: int = 32
    channels: int = 3
    test_count: int = 540
    calibration_count: int = 200
    augment: bool = True
    seed: int = 0

    @property
    def num_classes(self) -> int:
        """Ten digits."""
        return 10

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, size, size)."""
        return (self.channels, self.size, self.size)

    @property
    def preprocess(self) -> Preprocess:
        """Resize without rounding: 17 grey levels are too few to round to."""
        return Preprocess(
            (_MEAN,) * self.channels,
            (_STD,) * self.channels,
            scale=1 / 16,
            resize=(self.size, self.size),
            rounding=False,
        )

    def fingerprint(self) -> str:
        """The content never changes: it is a part of scikit-learn."""
        return "sklearn.datasets.load_digits:1797x8x8"

    def split(self, name: Split) -> Samples:
        """Return a split: (float32 [channels, size, size], mean 0 and std 1, label)."""
        import numpy as np

        check_name(name)
        images, labels = self._all()
        classes = labels.numpy()
        test = stratified(classes, self.test_count, self.seed)
        train = np.setdiff1d(np.arange(len(classes)), test)
        part = stratified(classes[train], self.calibration_count, self.seed + 1)
        chosen = {"train": train, "test": test, "calibration": train[part]}[name]
        reach = self.size // 8 if self.augment and name == "train" else 0

        def sample(index: int) -> tuple[Tensor, int]:
            return shifted(images[index], reach), int(labels[index])

        return Mapped(sample, chosen.tolist())

    def _all(self) -> tuple[Tensor, Tensor]:
        import numpy as np
        import torch
        from sklearn.datasets import load_digits

        raw = load_digits()
        images = apply(self.preprocess, raw.images.astype(np.uint8)[..., None])
        return torch.from_numpy(images), torch.from_numpy(raw.target).long()
