"""Train a small net to say what a large one says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from torchopt2edge.compression.distillation.spec import Teaching
from torchopt2edge.data.dataset import DataSet
from torchopt2edge.errors import ConfigError
from torchopt2edge.models.artifact import describe, load_factory, load_model, load_plan, save_model
from torchopt2edge.models.cut_plan import Plan
from torchopt2edge.models.pretrained import weights_digest
from torchopt2edge.stages.teacher import loss_of
from torchopt2edge.stages.train import finish
from torchopt2edge.stats.paired import mcnemar_p
from torchopt2edge.store import work_of
from torchopt2edge.training.loss import Loss, TaskLoss
from torchopt2edge.training.recipe import Recipe, seeded
from torchopt2edge.training.score import per_sample
from torchopt2edge.training.validation_split import Joined, Splits, splits_of
from torchopt2edge.types import Artifact, Facts

if TYPE_CHECKING:
    from torchopt2edge.training.fit import Fitted

_LOG = logging.getLogger("torchopt2edge")
Factory = Callable[..., nn.Module]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Distill(Recipe, Teaching):
    """Trains ``student()`` on ``data`` with what the stage ``teacher``, or several, says.

    How is said by the fields of `Teaching`. ``init`` names a stage whose net the student starts
    from; then ``student`` may be left out. ``unlabelled`` is a data set whose training split is
    learned from too, without its labels. ``check_plain`` trains the same student again on the
    labels alone and holds the two against each other on the validation samples: where the labels
    alone were better, the facts hold a warning.
    """

    data: DataSet
    student: Factory | None = None
    teacher: str | Sequence[str] = "teacher"
    init: str | None = None
    unlabelled: DataSet | None = None
    check_plain: bool = False

    @property
    def kind(self) -> str:
        """A model artifact."""
        return "model"

    @property
    def needs(self) -> Mapping[str, str]:
        """The teachers, and the stage to start from when there is one."""
        return {**self._teachers, **({"init": self.init} if self.init else {})}

    def fingerprint(self) -> str:
        """Return the sha256 of the file that the student starts from, "" without one.

        Raises:
            ModelError: it is missing.
        """
        return weights_digest(self.student)

    @property
    def _teachers(self) -> dict[str, str]:
        names = [self.teacher] if isinstance(self.teacher, str) else list(self.teacher)
        roles = ["teacher", *(f"teacher{index}" for index in range(2, len(names) + 1))]
        return dict(zip(roles, names, strict=True))

    def __call__(self, inputs: Mapping[str, Artifact], out: Path) -> Facts:
        """Write the student's model artifact into ``out``.

        Raises:
            ConfigError: neither a student nor a stage to start from, numbers out of range, or a
                teacher that does not fit.
            ModelError: a model cannot be built or saved.
            TrainError: the loss is not a number.
        """
        self.check_teaching()
        if self.check_plain and not self.validation:
            raise ConfigError("check_plain needs samples that judge", hint="validation=500")
        net, factory, plan = self._student(inputs)
        splits = self._splits()
        teachers = {role: inputs[role] for role in self._teachers}
        loss = loss_of(self, teachers, splits, out)
        fitted = self._fit(net, loss, splits, "distill", work_of(out))
        save_model(net, factory, out, plan)
        facts = finish(net, self.data, self.task, fitted)
        return {**facts, **self._against_plain(net, inputs, splits, work_of(out))}

    def _fit(self, net: nn.Module, loss: Loss, splits: Splits, name: str, work: Path) -> Fitted:
        from torchopt2edge.compression.distillation.loss import Distillation
        from torchopt2edge.training.fit import fit

        try:
            return fit(net, loss, splits, self, name, (), work / name)
        finally:
            if isinstance(loss, Distillation):
                loss.close()

    def _student(self, inputs: Mapping[str, Artifact]) -> tuple[nn.Module, Factory, Plan | None]:
        if "init" in inputs:
            folder = inputs["init"].path
            return load_model(folder), load_factory(folder), load_plan(folder)
        if self.student is None:
            raise ConfigError(
                "distillation has no student", hint="give `student` a model or `init` a stage"
            )
        describe(self.student)  # before the work: what cannot be saved is not trained
        with seeded(self.seed):
            return self.student(), self.student, None

    def _splits(self) -> Splits:
        splits = splits_of(self.data, self)
        if self.unlabelled is None:
            return splits
        train = Joined(splits.train, self.unlabelled.split("train"))
        return Splits(train, splits.validation, splits.num_classes)

    def _against_plain(
        self, net: nn.Module, inputs: Mapping[str, Artifact], splits: Splits, work: Path
    ) -> Facts:
        """Train the student on labels alone, and say so when that is better."""
        if not self.check_plain or not self.epochs:
            return {}
        plain, _, _ = self._student(inputs)
        self._fit(plain, TaskLoss(self.task), splits_of(self.data, self), "plain", work)
        assert splits.validation is not None
        name, mine = next(iter(per_sample(net, splits.validation, self.task).items()))
        theirs = per_sample(plain, splits.validation, self.task)[name]
        p = better(mine, theirs)
        facts: Facts = {
            f"{name}_validation": round(float(mine.mean()), 3),
            f"{name}_plain_validation": round(float(theirs.mean()), 3),
            "p_plain": round(p, 4),
        }
        if theirs.mean() > mine.mean():
            said = (
                f"labels alone gave {theirs.mean():.2f} {name} on {len(mine)} validation samples, "
                f"the teacher {mine.mean():.2f} (p = {p:.2g}): leave distillation out, or try "
                "loss=dist or a smaller alpha"
            )
            _LOG.warning("distill: %s", said)
            facts["warning"] = said
        return facts


def better(a: Array, b: Array) -> float:
    """Return how likely scores on the same samples differ as much by chance, two-sided.

    McNemar's exact test on the samples where the two differ: the signs of the differences.
    """
    return mcnemar_p(int((a > b).sum()), int((a < b).sum()))
