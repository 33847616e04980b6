"""Train a net, or take one from a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from torchopt2edge.data.dataset import DataSet
from torchopt2edge.errors import ModelError
from torchopt2edge.models import count
from torchopt2edge.models.artifact import describe, load_checkpoint, save_model
from torchopt2edge.models.pretrained import weights_digest
from torchopt2edge.store import work_of
from torchopt2edge.training.loss import TaskLoss
from torchopt2edge.training.recipe import Recipe, seeded
from torchopt2edge.training.score import score_test
from torchopt2edge.training.validation_split import splits_of
from torchopt2edge.types import Artifact, Facts

if TYPE_CHECKING:
    from torchopt2edge.tasks.task import Task
    from torchopt2edge.training.fit import Fitted


@dataclass(frozen=True, kw_only=True)
class Train(Recipe):
    """Trains ``model()`` on ``data``, from ``checkpoint`` when one is given.

    With a checkpoint and ``epochs=0`` it only loads. ``model`` is a function of no arguments
    or a ``functools.partial``. The test split is scored once, at the end, for the report.
    """

    model: Callable[..., nn.Module]
    data: DataSet
    checkpoint: str | None = field(default=None, metadata={"identity": False})

    @property
    def kind(self) -> str:
        """A model artifact."""
        return "model"

    @property
    def needs(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    def fingerprint(self) -> str:
        """Return the sha256 of what it starts from: what that holds counts, not where it lies.

        Raises:
            ModelError: the file is missing.
        """
        if self.checkpoint is None:
            return weights_digest(self.model)
        path = Path(self.checkpoint)
        if not path.is_file():
            raise ModelError("a checkpoint is missing", artifact=path, hint="check the path")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def __call__(self, inputs: Mapping[str, Artifact], out: Path) -> Facts:
        """Write the model artifact into ``out``.

        Raises:
            ModelError: the model or its checkpoint cannot be used.
            TrainError: the loss is not a number.
        """
        from torchopt2edge.training.fit import fit

        describe(self.model)  # before the work: what cannot be saved is not trained
        with seeded(self.seed):
            net = self.model()
        if self.checkpoint is not None:
            load_checkpoint(net, Path(self.checkpoint))
        fitted = None
        if self.epochs:
            splits = splits_of(self.data, self)
            fitted = fit(net, TaskLoss(self.task), splits, self, "train", (), work_of(out))
        save_model(net, self.model, out)
        return finish(net, self.data, self.task, fitted)


def finish(net: nn.Module, data: DataSet, task: Task, fitted: Fitted | None) -> Facts:
    """Return the facts that every model artifact has."""
    facts: Facts = {
        "params": count.params(net),
        "macs": count.macs(net, data.input_shape),
        "input_shape": list(data.input_shape),
        **score_test(net, data, task),
        **(fitted.facts if fitted else {}),
    }
    loss = fitted.loss if fitted else None
    return facts if loss is None else {**facts, "train_loss": round(loss, 5)}
