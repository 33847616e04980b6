"""Zero the weights that matter least, one by one, and train what is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torchopt2edge.compression.distillation.spec import Teaching
from torchopt2edge.compression.schedules import timed
from torchopt2edge.compression.sparsity.control import MaskControl
from torchopt2edge.compression.sparsity.mask import zeros
from torchopt2edge.compression.sparsity.spec import Sparsify as Spec
from torchopt2edge.data.dataset import DataSet
from torchopt2edge.models.artifact import load_factory, load_model, load_plan, save_model
from torchopt2edge.stages.teacher import loss_of
from torchopt2edge.stages.train import finish
from torchopt2edge.store import work_of
from torchopt2edge.training.augmented_views import Order
from torchopt2edge.training.recipe import Recipe
from torchopt2edge.training.validation_split import splits_of
from torchopt2edge.types import Artifact, Facts


@dataclass(frozen=True, kw_only=True)
class Sparsify(Recipe, Spec, Teaching):
    """Makes the net of the stage ``source`` sparse while training it on; fields as in `Spec`.

    The schedule's steps may be given as shares of the training (``end=0.5``). With a ``teacher``,
    which may be the source, what it says is learned too, as `Teaching` says. ``epochs=0`` masks
    once. Sparse files are smaller only once compressed, and ONNX Runtime is no faster for them.
    """

    data: DataSet
    source: str = "student"
    teacher: str | None = None

    @property
    def kind(self) -> str:
        """A model artifact."""
        return "model"

    @property
    def needs(self) -> Mapping[str, str]:
        """The net to make sparse, and the teacher when there is one."""
        return {"source": self.source} | ({"teacher": self.teacher} if self.teacher else {})

    def __call__(self, inputs: Mapping[str, Artifact], out: Path) -> Facts:
        """Write the sparse net's model artifact into ``out``; the facts say how many zeros.

        Raises:
            ConfigError: numbers or names that cannot work.
            TrainError: the loss is not a number.
        """
        from torchopt2edge.training.fit import fit

        self.check()
        folder = inputs["source"].path
        net, splits = load_model(folder), splits_of(self.data, self)
        control = MaskControl(self._spec(len(splits.train)))
        if not self.epochs:
            control.attach(net, None)
        taught = {"teacher": inputs["teacher"]} if "teacher" in inputs else {}
        loss = loss_of(self, taught, splits, out)
        fitted = fit(net, loss, splits, self, "sparsify", (control,), work_of(out))
        save_model(net, load_factory(folder), out, load_plan(folder))
        counted = zeros(net)
        return {
            **finish(net, self.data, self.task, fitted),
            "zeros": round(counted.pop("all"), 4),
            "zeros_by_layer": {name: round(share, 4) for name, share in counted.items()},
        }

    def _spec(self, samples: int) -> Spec:
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(Spec)}
        steps = Order(samples, self.batch_size, self.seed, None).whole * self.epochs
        schedule = timed(self.schedule, steps) if self.epochs else _at_once()
        return Spec(**{**fields, "schedule": schedule})


def _at_once() -> object:
    from torchopt2edge.compression.schedules import OneShot

    return OneShot()
