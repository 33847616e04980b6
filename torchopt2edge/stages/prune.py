"""Take out the channels that matter least, and train what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from torchopt2edge.data.dataset import DataSet, Samples, loader
from torchopt2edge.distillation.loss import Distillation
from torchopt2edge.errors import ConfigError, ModelError, PruneError
from torchopt2edge.models import count
from torchopt2edge.models.artifact import load_factory, load_model, load_plan, save_model
from torchopt2edge.models.plan import Plan
from torchopt2edge.pruning import groups as grouping
from torchopt2edge.pruning.budget import Budget, choose
from torchopt2edge.pruning.sound import unsound
from torchopt2edge.stages.distill import check_soft
from torchopt2edge.stages.train import finish
from torchopt2edge.store import work_of
from torchopt2edge.training.loss import Loss, TaskLoss
from torchopt2edge.training.recipe import Recipe
from torchopt2edge.training.splits import splits_of
from torchopt2edge.types import Artifact, Facts


@dataclass(frozen=True, kw_only=True)
class Prune(Recipe):
    """Cuts the net of the stage named ``source`` to the share ``macs`` of its operations.

    Channels that depend on each other go together (Fang et al. 2023, "DepGraph"); the outputs
    of the classifier stay. What is left of a cut layer is a multiple of ``round_to`` channels
    and at least 1 - ``max_cut`` of them. Groups that cannot be cut soundly stay whole and are
    named in the facts. Then the BatchNorm statistics are measured again and the net is trained
    for ``epochs``, with the soft targets of the stage named ``teacher`` when there is one.
    """

    data: DataSet
    source: str = "student"
    macs: float = 0.5
    round_to: int = 8
    max_cut: float = 0.75
    importance: Literal["group_l1", "group_l2", "bn_scale"] = "group_l2"
    teacher: str | None = None
    temperature: float = 4.0
    alpha: float = 0.7

    @property
    def kind(self) -> str:
        """A model artifact."""
        return "model"

    @property
    def needs(self) -> Mapping[str, str]:
        """The net to cut, and the teacher when there is one."""
        return {"source": self.source} | ({"teacher": self.teacher} if self.teacher else {})

    def __call__(self, inputs: Mapping[str, Artifact], out: Path) -> Facts:
        """Write the pruned net's model artifact into ``out``.

        Raises:
            PruneError: the budget cannot be met, or the net cannot be cut.
            TrainError: the loss is not a number.
        """
        from torchopt2edge.training.fit import fit

        self._check()
        folder, shape = inputs["source"].path, self.data.input_shape
        net, made = load_model(folder), load_plan(folder)
        before, widths = count.macs(net, shape), _widths(net)
        plan, kept = plan_cuts(net, shape, self.importance, self._budget())
        plan.apply(net)
        train = self.data.split("train")
        refresh_statistics(net, train, self.batch_size, self.seed)
        splits = splits_of(self.data, self)
        fitted = fit(net, self._loss(inputs), splits, self, "prune", (), work_of(out))
        whole = plan if made is None else Plan(made.shape, (*made.cuts, *plan.cuts))
        save_model(net, load_factory(folder), out, whole)
        facts = finish(net, self.data, self.task, fitted)
        after = _widths(net)
        channels = {name: [widths[name], after[name]] for name in widths}
        return {
            **facts,
            "macs_share": round(facts["macs"] / before, 4),
            "channels": {name: pair for name, pair in channels.items() if pair[0] != pair[1]},
            "kept": kept,
        }

    def _budget(self) -> Budget:
        return Budget(self.macs, self.round_to, self.max_cut)

    def _check(self) -> None:
        self.check()
        check_soft(self.temperature, self.alpha)
        if not 0 < self.macs <= 1 or self.round_to < 1 or not 0 <= self.max_cut < 1:
            raise ConfigError(
                f"macs={self.macs}, round_to={self.round_to}, max_cut={self.max_cut} cannot be met",
                mend="a share of MACs in 0 … 1, round_to of at least 1, max_cut below 1",
            )

    def _loss(self, inputs: Mapping[str, Artifact]) -> Loss:
        if "teacher" not in inputs:
            return TaskLoss(self.task)
        teacher = load_model(inputs["teacher"].path)
        return Distillation(teacher, self.task, self.temperature, self.alpha)


def plan_cuts(
    net: nn.Module, shape: tuple[int, ...], importance: str, budget: Budget
) -> tuple[Plan, list[str]]:
    """Return the cuts that bring ``net`` within ``budget``, and the layers that had to stay.

    Every group is tried on a copy first, with half of its channels; so is the whole plan.

    Raises:
        PruneError: the budget cannot be met, or the net cannot be traced.
    """
    layers = count.layers(net, shape)
    try:
        groups = grouping.find(net, shape, importance)
    except ModelError as error:
        raise PruneError(
            f"the net cannot be pruned: {error.what}", mend="leave this stage out"
        ) from error
    trials = [group.cut(group.channels // group.unit // 2 * group.unit) for group in groups]
    trials = [trial for trial in trials if trial.indices]
    kept: set[str] = {cut.layer for cut in unsound(net, shape, trials)}
    while True:
        free = [group for group in groups if group.layer not in kept]
        counts = choose(layers, free, budget)
        chosen = [g.cut(n) for g, n in zip(free, counts, strict=True) if n]
        culprits = unsound(net, shape, chosen)
        if not culprits:
            return Plan(tuple(shape), tuple(chosen)), sorted(kept)
        kept |= {cut.layer for cut in culprits}


def refresh_statistics(
    net: nn.Module, samples: Samples, batch_size: int, seed: int, batches: int = 16
) -> None:
    """Measure the BatchNorm statistics again, as plain averages over a few training batches.

    After a cut the old ones describe another net (Li et al. 2020, "EagleEye").
    """
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    net.train()
    with torch.no_grad():
        for index, (images, _) in enumerate(loader(samples, batch_size, True, seed)):
            if index == batches or len(images) < 2:
                break
            net(images)
    net.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _widths(net: nn.Module) -> dict[str, int]:
    return {
        name: module.out_features if isinstance(module, nn.Linear) else module.out_channels
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    }
