"""What a training learns from and what judges it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from torchopt2edge.data.dataset import DataSet, Samples
from torchopt2edge.errors import ConfigError
from torchopt2edge.training.recipe import Recipe

UNKNOWN = -1
"""What a target holds where there is none."""


@dataclass(frozen=True)
class Splits:
    """``train``, and samples held out of it; ``num_classes`` where labels are classes."""

    train: Samples
    validation: Samples | None = None
    num_classes: int | None = None


@dataclass(frozen=True)
class Part:
    """Some samples of others."""

    whole: Samples
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.whole[self.indices[index]]


@dataclass(frozen=True)
class Joined:
    """Labelled samples, then others whose targets are left out: `UNKNOWN` throughout."""

    labelled: Samples
    others: Samples

    def __len__(self) -> int:
        return len(self.labelled) + len(self.others)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if index < len(self.labelled):
            return self.labelled[index]
        target = self.labelled[0][1]
        unknown = torch.full_like(target, UNKNOWN) if torch.is_tensor(target) else UNKNOWN
        return self.others[index - len(self.labelled)][0], unknown


def splits_of(data: DataSet, recipe: Recipe) -> Splits:
    """Return the training split, less ``recipe.validation`` samples of it that judge.

    Those are never of the test split, and they are not augmented where the data set has a field
    ``augment`` to turn off.

    Raises:
        ConfigError: more are held out than there are.
    """
    train = data.split("train")
    classes = getattr(data, "num_classes", None)
    if not recipe.validation:
        return Splits(train, None, classes)
    if recipe.validation >= len(train) - 1:
        raise ConfigError(
            f"{recipe.validation} of {len(train)} training samples cannot be held out",
            hint=f"validation={len(train) // 10}",
        )
    generator = torch.Generator().manual_seed(recipe.seed)
    order = torch.randperm(len(train), generator=generator).tolist()
    held, kept = order[: recipe.validation], order[recipe.validation :]
    plain = data
    if dataclasses.is_dataclass(data) and hasattr(data, "augment"):
        plain = dataclasses.replace(data, augment=False)
    return Splits(
        Part(train, tuple(sorted(kept))), Part(plain.split("train"), tuple(sorted(held))), classes
    )
