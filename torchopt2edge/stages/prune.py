"""Take out the channels that matter least, and train what is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn

from torchopt2edge.compression.distillation.spec import Teaching
from torchopt2edge.compression.pruning import statistics
from torchopt2edge.compression.pruning.budget_target import target_of
from torchopt2edge.compression.pruning.control import PruneControl
from torchopt2edge.compression.pruning.explain import Explanation, explain
from torchopt2edge.compression.pruning.spec import Prune as Spec
from torchopt2edge.compression.schedules import timed
from torchopt2edge.data.dataset import DataSet, Samples, loader
from torchopt2edge.interfaces import Meter
from torchopt2edge.models.artifact import load_factory, load_model, load_plan, save_model
from torchopt2edge.models.cut_plan import Plan
from torchopt2edge.stages.teacher import loss_of
from torchopt2edge.stages.train import finish
from torchopt2edge.store import key_of, work_of
from torchopt2edge.training.augmented_views import Order
from torchopt2edge.training.recipe import Recipe
from torchopt2edge.training.validation_split import splits_of
from torchopt2edge.types import Artifact, Facts


@dataclass(frozen=True, kw_only=True)
class Prune(Recipe, Spec, Teaching):
    """Cuts the net of the stage named ``source`` to its budget; the fields are those of `Spec`.

    Then the BatchNorm statistics are measured again and the net is trained for ``epochs``,
    with what the stage named ``teacher`` says when there is one (`Teaching`). A schedule other
    than one-shot cuts while it trains; its steps may be given as shares of the training
    (``end=0.5``). ``meter`` measures, for a budget in milliseconds.
    """

    data: DataSet
    source: str = "student"
    teacher: str | None = None
    meter: Meter | None = field(default=None, metadata={"identity": False})

    @property
    def kind(self) -> str:
        """A model artifact."""
        return "model"

    @property
    def needs(self) -> Mapping[str, str]:
        """The net to cut, and the teacher when there is one."""
        return {"source": self.source} | ({"teacher": self.teacher} if self.teacher else {})

    def fingerprint(self) -> str:
        """Return what measures, where a budget in milliseconds hangs on it."""
        target = target_of(self._spec())
        timed_by = self.meter if target and target.kind == "latency_ms" else None
        return "" if timed_by is None else key_of(timed_by, {})

    def __call__(self, inputs: Mapping[str, Artifact], out: Path) -> Facts:
        """Write the pruned net's model artifact into ``out``.

        Raises:
            PruneError: the budget cannot be met, or the net cannot be cut.
            TrainError: the loss is not a number.
        """
        from torchopt2edge.training.fit import fit

        self.check()
        folder = inputs["source"].path
        net, made = load_model(folder), load_plan(folder)
        splits = splits_of(self.data, self)
        control = self._control(splits.train)
        if self.importance == "taylor" and control.spec.schedule.due(0):
            _gradients(net, self, splits.train)
        if not self.epochs:
            control.attach(net, None)
        loss = loss_of(self, self._taught(inputs), splits, out)
        fitted = fit(net, loss, splits, self, "prune", (control,), work_of(out))
        plan = control.plan if made is None else Plan(made.shape, (*made.cuts, *control.plan.cuts))
        save_model(net, load_factory(folder), out, plan)
        return {**finish(net, self.data, self.task, fitted), **control.facts()}

    def _taught(self, inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
        return {"teacher": inputs["teacher"]} if "teacher" in inputs else {}

    def explain(self, inputs: Mapping[str, Artifact]) -> Explanation:
        """Return what would be cut of the net of the stage ``source``, and cut nothing.

        Raises:
            PruneError: the budget cannot be met, or the net cannot be cut.
        """
        net = load_model(inputs["source"].path)
        return explain(net, self.data.input_shape, self._spec(), self.meter)

    def _spec(self) -> Spec:
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(Spec)}
        return Spec(**fields)

    def _control(self, train: Samples) -> PruneControl:
        steps = Order(len(train), self.batch_size, self.seed, None).whole * self.epochs
        spec = dataclasses.replace(self._spec(), schedule=timed(self.schedule, steps))
        again = partial(
            statistics.from_samples, samples=train, batch_size=self.batch_size, seed=self.seed
        )
        shape = self.data.input_shape
        return PruneControl(spec, shape, refresh=again, meter=self.meter, seed=self.seed)


def _gradients(net: nn.Module, stage: Prune, train: Samples, batches: int = 8) -> None:
    """Leave the task's gradients over a few batches in the net: what ``taylor`` looks at."""
    loss = stage.task.loss
    net.zero_grad()
    drawn = loader(train, stage.batch_size, True, stage.seed)
    for _, (images, targets) in zip(range(batches), drawn, strict=False):
        torch.autograd.backward(loss(net(images), targets))
