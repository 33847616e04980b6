"""Several labels for every scanned digit, for nets that answer more than one question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchopt2edge.data.dataset import Mapped, Samples, Split
from torchopt2edge.data.digits import Digits
from torchopt2edge.errors import DataError
from torchopt2edge.preprocessing.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

TRAITS: dict[str, frozenset[int]] = {
    "even": frozenset({0, 2, 4, 6, 8}),
    "large": frozenset({5, 6, 7, 8, 9}),
    "loop": frozenset({0, 6, 8, 9}),
    "prime": frozenset({2, 3, 5, 7}),
}


@dataclass(frozen=True)
class DigitTraits:
    """scikit-learn's digits as `Digits` gives them, with 0 or 1 for each of ``traits``.

    The traits are ``even``, ``large`` (5 or more), ``loop`` (a closed line) and ``prime``; one
    alone makes the binary case.
    """

    traits: tuple[str, ...] = tuple(TRAITS)
    size: int = 32
    test_count: int = 540
    calibration_count: int = 200
    augment: bool = True
    seed: int = 0

    @property
    def _digits(self) -> Digits:
        known = {"size", "test_count", "calibration_count", "augment", "seed"}
        return Digits(**{name: getattr(self, name) for name in known})

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(3, size, size)."""
        return self._digits.input_shape

    @property
    def preprocess(self) -> Preprocess:
        """As for the digits."""
        return self._digits.preprocess

    def fingerprint(self) -> str:
        """The content never changes: it is a part of scikit-learn."""
        return self._digits.fingerprint()

    def split(self, name: Split) -> Samples:
        """Return a split: (float32 [3, size, size], float32 [traits]).

        Raises:
            DataError: no such trait.
        """
        import torch

        unknown = [trait for trait in self.traits if trait not in TRAITS]
        if unknown or not self.traits:
            raise DataError(
                f"digits have no trait {unknown}", hint=f"data.traits=[{','.join(TRAITS)}]"
            )
        samples = self._digits.split(name)

        def sample(index: int) -> tuple[Tensor, Any]:
            image, digit = samples[index]
            return image, torch.tensor([float(digit in TRAITS[trait]) for trait in self.traits])

        return Mapped(sample, range(len(samples)))
