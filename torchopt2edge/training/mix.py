"""Mixed images: what a batch becomes under mixup and cutmix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from torchopt2edge.errors import ConfigError
from torchopt2edge.training.batch import Batch
from torchopt2edge.training.recipe import Recipe

Mix = Callable[[Batch], Batch]


def mixing(recipe: Recipe, num_classes: int | None) -> Mix | None:
    """Return what mixes a batch of labelled images as the recipe says, None when it does not.

    The targets become float [N, ``num_classes``]; the batch no longer names its samples, for
    their pixels are no longer theirs. torchvision does the mixing (Zhang et al. 2018, mixup;
    Yun et al. 2019, CutMix).

    Raises:
        ConfigError: there are no classes to mix.
    """
    if not recipe.mixup and not recipe.cutmix:
        return None
    if num_classes is None:
        raise ConfigError(
            "images can be mixed only where labels are classes", hint="mixup=0 cutmix=0"
        )
    from torchvision.transforms import v2

    known: list[Callable[..., Any]] = []
    if recipe.mixup:
        known.append(v2.MixUp(alpha=recipe.mixup, num_classes=num_classes))
    if recipe.cutmix:
        known.append(v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes))

    def mix(batch: Batch) -> Batch:
        chosen = known[int(torch.randint(len(known), ()))]
        images, targets = chosen(batch.inputs, batch.targets)
        return Batch(images, targets)

    return mix
