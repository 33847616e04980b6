"""What the stages that train do with a teacher: one way into its loss for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from torchopt2edge.compression.distillation.cache import Cache
from torchopt2edge.compression.distillation.loss import Distillation
from torchopt2edge.models.artifact import load_model
from torchopt2edge.store import key_of
from torchopt2edge.training.augmented_views import Views, collate, to_batch
from torchopt2edge.training.loss import Loss, TaskLoss
from torchopt2edge.training.validation_split import Splits, splits_of
from torchopt2edge.types import Artifact

KEPT_VIEWS = 64  # views of a sample that a cache holds when each epoch is another one


def loss_of(stage: Any, teachers: Mapping[str, Artifact], splits: Splits, out: Path) -> Loss:
    """Return the loss of a stage (`Recipe` and `Teaching`, with ``data``): the task's own, or
    with it that of the ``teachers``, by role.

    A cache lies beside the artifacts of the store, under a key of the teachers, the data, and
    the seed and number of views; the student is not in it, so every student can use it.
    """
    if not teachers:
        return TaskLoss(stage.task)
    stage.check_teaching()
    nets: list[nn.Module] = [load_model(artifact.path) for artifact in teachers.values()]
    cache = _cache(stage, teachers, splits, out) if stage.cache else None
    return Distillation(stage, nets, stage.task.loss, cache)


def _cache(stage: Any, teachers: Mapping[str, Artifact], splits: Splits, out: Path) -> Cache:
    views = stage.views or min(stage.epochs, KEPT_VIEWS)
    seed = stage.seed if stage.view_seed is None else stage.view_seed
    held = [stage.validation, stage.seed] if stage.validation else []
    what = [stage.data, getattr(stage, "unlabelled", None), seed, held]
    digests = {str(index): one.digest for index, one in enumerate(teachers.values())}
    key = key_of([what, Views, collate, to_batch, splits_of, Cache], digests)
    folder = out.parent.parent / "teachers" / f"{key[:24]}-{views}"
    return Cache(folder, views, len(splits.train))
