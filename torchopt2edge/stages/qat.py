"""Train a net that is quantized while it learns, so that int8 files lose less."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from torchopt2edge.compression.distillation.spec import Teaching
from torchopt2edge.compression.sparsity.control import MaskControl
from torchopt2edge.data.dataset import DataSet, loader
from torchopt2edge.models import count
from torchopt2edge.models.artifact import load_model
from torchopt2edge.stages.export import EXPORTER
from torchopt2edge.stages.qat_session import QatSession, qat
from torchopt2edge.stages.teacher import loss_of
from torchopt2edge.store import work_of
from torchopt2edge.training.control import Control
from torchopt2edge.training.recipe import Recipe
from torchopt2edge.training.score import score_test
from torchopt2edge.training.validation_split import splits_of
from torchopt2edge.types import Artifact, Facts

_PARITY = 16  # calibration samples that the export is checked on


@dataclass(frozen=True, kw_only=True)
class Qat(Recipe, Teaching):
    """Trains the net of the stage ``source`` on with fake quantization, then exports it.

    Ranges start from the calibration split. The statistics of batch normalization are frozen
    before epoch ``freeze_bn_epoch`` and the ranges of activations before ``freeze_observer_epoch``
    (the first is 0), None for the last quarter of ``epochs`` (Krishnamoorthi 2018, section 3.2):
    a net with frozen statistics diverges at a rate that is fine for one that adapts them, so
    freeze late, under a rate that the cosine has lowered. With a ``teacher``, which
    may be the source, what it says is learned too, as `Teaching` says. ``weight_bits`` under 8
    gives int8 files of weights with fewer values. With ``epochs=0`` the ranges are those of the
    calibration split and the weights are rounded: nothing is trained.

    The folder holds ``model.onnx`` (float32, weights on the trained grid), ``ranges.json``
    (origin ``learned:qat``), ``signature.json`` and ``model.pt2``; ``top1_test`` is the
    fake-quantized net's.
    """

    data: DataSet
    source: str = "student"
    teacher: str | None = None
    lr: float = 0.01
    epochs: int = 4
    warmup: float = 0.25
    weight_decay: float = 1e-4
    freeze_bn_epoch: int | None = None
    freeze_observer_epoch: int | None = None
    weight_bits: int = 8

    tools = EXPORTER

    @property
    def kind(self) -> str:
        """An export with learned ranges."""
        return "qat"

    @property
    def needs(self) -> Mapping[str, str]:
        """The net to train, and the teacher when there is one."""
        return {"source": self.source} | ({"teacher": self.teacher} if self.teacher else {})

    def __call__(self, inputs: Mapping[str, Artifact], out: Path) -> Facts:
        """Write the export and its ranges into ``out``.

        Raises:
            ConfigError: numbers out of range.
            ExportError: the net cannot be traced or exported.
            TrainError: the loss is not a number.
        """
        from torchopt2edge.training.fit import fit

        self.check()
        net = load_model(inputs["source"].path)
        splits = splits_of(self.data, self)
        sparse = float(inputs["source"].facts.get("zeros", 0.0)) > 0
        taught = {"teacher": inputs["teacher"]} if "teacher" in inputs else {}
        seen = self.data.split("calibration")
        images = torch.stack([seen[i][0] for i in range(min(_PARITY, len(seen)))])
        with qat(net, (images,), weight_bits=self.weight_bits) as session:
            session.calibrate(batch for batch, _ in loader(seen, self.batch_size))
            controls: list[Control] = [self._freezer(session)]
            if sparse:
                controls.append(MaskControl())  # the zeros of the source stay zero
            fitted = fit(
                session.model,
                loss_of(self, taught, splits, out),
                splits,
                self,
                "qat",
                controls,
                work_of(out),
            )
            facts = session.finish(out).facts
            facts |= {
                "macs": count.macs(net, self.data.input_shape),
                "input_shape": list(self.data.input_shape),
                "weight_bits": self.weight_bits,
                **score_test(session.model, self.data, self.task),
                **fitted.facts,
            }
        mean = fitted.loss
        return facts if mean is None else {**facts, "train_loss": round(mean, 5)}

    def _freezer(self, session: QatSession) -> Freezer:
        """Return what freezes at the start of an epoch."""
        norm, ranges = self.freeze_bn_epoch, self.freeze_observer_epoch
        last = max(1, math.ceil(self.epochs * 3 / 4))
        norm = last if norm is None else norm
        ranges = last if ranges is None else ranges
        return Freezer(session, norm, ranges)


class Freezer(Control):
    """Freezes statistics before epoch ``norm`` and ranges before epoch ``ranges``."""

    def __init__(self, session: QatSession, norm: int, ranges: int) -> None:
        self.session = session
        self.norm = norm
        self.ranges = ranges

    def before_epoch(self, epoch: int) -> None:
        """Freeze what is due."""
        if epoch >= self.norm:
            self.session.freeze_batch_norm()
        if epoch >= self.ranges:
            self.session.freeze_observers()
