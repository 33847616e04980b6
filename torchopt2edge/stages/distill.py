"""Train a small net to say what a large one says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from torchopt2edge.data.dataset import DataSet
from torchopt2edge.distillation.loss import Distillation
from torchopt2edge.errors import ConfigError
from torchopt2edge.models.artifact import describe, load_factory, load_model, load_plan, save_model
from torchopt2edge.stages.train import finish
from torchopt2edge.store import work_of
from torchopt2edge.training.recipe import Recipe, seeded
from torchopt2edge.training.splits import splits_of
from torchopt2edge.types import Artifact, Facts


@dataclass(frozen=True, kw_only=True)
class Distill(Recipe):
    """Trains ``student()`` on ``data`` with the soft targets of the stage named ``teacher``.

    ``alpha`` is the weight of the soft targets at ``temperature``, the labels get the rest
    (Hinton, Vinyals & Dean 2015). ``init`` names a stage whose net the student starts from; then
    ``student`` may be left out.
    """

    data: DataSet
    student: Callable[..., nn.Module] | None = None
    teacher: str = "teacher"
    init: str | None = None
    temperature: float = 4.0
    alpha: float = 0.7

    @property
    def kind(self) -> str:
        """A model artifact."""
        return "model"

    @property
    def needs(self) -> Mapping[str, str]:
        """The teacher, and the stage to start from when there is one."""
        return {"teacher": self.teacher} | ({"init": self.init} if self.init else {})

    def __call__(self, inputs: Mapping[str, Artifact], out: Path) -> Facts:
        """Write the student's model artifact into ``out``.

        Raises:
            ConfigError: neither a student nor a stage to start from, or numbers out of range.
            ModelError: a model cannot be built or saved.
            TrainError: the loss is not a number.
        """
        from torchopt2edge.training.fit import fit

        check_soft(self.temperature, self.alpha)
        plan = None
        if "init" in inputs:
            net = load_model(inputs["init"].path)
            factory: Callable[..., nn.Module] = load_factory(inputs["init"].path)
            plan = load_plan(inputs["init"].path)
        elif self.student is not None:
            factory = self.student
            describe(factory)  # before the work: what cannot be saved is not trained
            with seeded(self.seed):
                net = factory()
        else:
            raise ConfigError(
                "distillation has no student", mend="give `student` a model or `init` a stage"
            )
        teacher = load_model(inputs["teacher"].path)
        loss = Distillation(teacher, self.task, self.temperature, self.alpha)
        fitted = fit(net, loss, splits_of(self.data, self), self, "distill", (), work_of(out))
        save_model(net, factory, out, plan)
        return finish(net, self.data, self.task, fitted)


def check_soft(temperature: float, alpha: float) -> None:
    """Refuse a temperature or a weight that cannot work.

    Raises:
        ConfigError: it names both.
    """
    if temperature <= 0 or not 0 <= alpha <= 1:
        raise ConfigError(
            f"temperature={temperature}, alpha={alpha} cannot be distilled with",
            mend="a temperature above 0 and an alpha from 0 to 1",
        )
