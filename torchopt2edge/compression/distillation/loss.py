"""The loss of a student that learns from a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchopt2edge.compression.distillation.cache import Cache
from torchopt2edge.compression.distillation.hooks import Features
from torchopt2edge.compression.distillation.spec import Teaching
from torchopt2edge.compression.distillation.terms import FeatureTerm, OutputTerm, Term, terms_of
from torchopt2edge.errors import ConfigError
from torchopt2edge.models.eval_mode import modes_kept
from torchopt2edge.training.batch import Batch
from torchopt2edge.training.loss import Loss
from torchopt2edge.training.unwrap import unwrapped
from torchopt2edge.training.validation_split import UNKNOWN

Hard = Callable[[Any, Any], Tensor]


class Distillation(Loss):
    """The terms of `Teaching`, mixed with what the data says (``hard``: outputs, targets → scalar).

    The teachers, frozen and in eval mode, see the very batch the student sees, augmentation
    included (Beyer et al. 2022 call it a consistent teacher); of several the outputs are
    averaged, and features are the first one's. Only adapters of hints are trained. With a ``cache``
    the teachers run once for every view of a sample, as long as no term asks for features.
    """

    def __init__(
        self,
        teaching: Teaching,
        teachers: Sequence[nn.Module],
        hard: Hard,
        cache: Cache | None = None,
    ) -> None:
        super().__init__()
        teaching.check_teaching()
        if not teachers:
            raise ConfigError("there is no teacher", hint="name one, or leave distillation out")
        self.alpha = teaching.alpha
        self.terms = terms_of(teaching.loss, teaching.temperature)
        self.teachers = nn.ModuleList(t.eval().requires_grad_(False) for t in teachers)
        self.adapters = nn.ModuleDict()
        self.hard, self.cache = hard, cache
        self.mine, self.theirs = Features(), Features()

    @property
    def features(self) -> list[FeatureTerm]:
        """The terms that look inside."""
        return [term for term in self.terms if isinstance(term, FeatureTerm)]

    def train(self, mode: bool = True) -> Distillation:
        """Leave the teachers in eval mode: they do not learn, nor do their statistics move."""
        super().train(mode)
        self.teachers.eval()
        return self

    def prepare(self, net: nn.Module, batch: Batch) -> None:
        """Hold both nets against each other, and make the adapters that hints need.

        Raises:
            ConfigError: outputs or inputs do not fit, or a module is not there.
        """
        if batch.inputs.ndim == 4:
            self.teachers.to(memory_format=torch.channels_last)  # as the student's batches are
        inside = self.features
        self.theirs.watch(self.teachers[0], [term.teacher for term in inside], "teacher")
        self.mine.watch(net, [term.student for term in inside], "student")
        with torch.no_grad(), modes_kept(net):
            outputs = net.eval()(batch.inputs)
            wanted = self._said(batch)
        if any(isinstance(term, OutputTerm) for term in self.terms):
            _fits(outputs, wanted)
        for index, term in enumerate(inside):
            if term.adapts:
                mine, theirs = self.mine.seen[term.student], self.theirs.seen[term.teacher]
                adapter = _adapter(mine, theirs)
                if adapter is not None and str(index) not in self.adapters:
                    self.adapters[str(index)] = adapter.to(mine.device)
        self.mine.close()  # what wraps the net for training comes later

    def forward(self, net: nn.Module, batch: Batch) -> Tensor:
        """Run the nets on the batch and return a scalar."""
        inside = self.features
        self.mine.watch(unwrapped(net), [term.student for term in inside], "student")
        return self.of_outputs(net(batch.inputs), batch)

    def of_outputs(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the loss of what the student has said already, of features seen with it."""
        soft = self.soft(outputs, batch)
        mask = _labelled(batch.targets)
        if mask is False:
            return self.alpha * soft
        if mask is not True:
            outputs, targets = outputs[mask], batch.targets[mask]
        else:
            targets = batch.targets
        return self.alpha * soft + (1 - self.alpha) * self.hard(outputs, targets)

    def close(self) -> None:
        """Take all hooks off both nets, and write what the cache still holds."""
        self.mine.close()
        self.theirs.close()
        if self.cache is not None:
            self.cache.flush()

    def soft(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the sum of the terms for what the student has said, without the task's own."""
        wanted = self._known(batch)
        self.steps += self.training
        total: Tensor | None = None
        inside = 0
        for term in self.terms:
            if isinstance(term, FeatureTerm):
                value, inside = self._feature(term, inside), inside + 1
            else:
                assert isinstance(term, OutputTerm)
                assert wanted is not None
                value = term(outputs, wanted.to(outputs.dtype), batch.targets)
            value = term.weight_at(self.steps) * value
            total = value if total is None else total + value
        assert total is not None
        return total

    def _feature(self, term: FeatureTerm, index: int) -> Tensor:
        mine, theirs = self.mine.seen[term.student], self.theirs.seen[term.teacher]
        if term.adapts:
            if str(index) in self.adapters:
                mine = self.adapters[str(index)](mine)
            elif mine.shape[1] != theirs.shape[1]:
                raise ConfigError(
                    f"{term.student!r} has {mine.shape[1]} channels now, not those it began with",
                    hint="a hint on a layer that is not cut while it trains, or a cut before it",
                )
        return term(mine, theirs)

    def _known(self, batch: Batch) -> Tensor | None:
        """Return what the teachers say, from the cache where it is known there."""
        if self.cache is None or self.features or batch.index is None or batch.view is None:
            return self._said(batch)
        return self.cache.outputs(batch, self._said)

    def _said(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            try:
                outputs = [teacher(batch.inputs) for teacher in self.teachers]
            except RuntimeError as error:
                shape = tuple(batch.inputs.shape[1:])
                raise ConfigError(
                    f"the teacher cannot see the student's inputs of {shape}: {error}",
                    hint="a teacher of the same input size and channels",
                ) from error
            return outputs[0] if len(outputs) == 1 else torch.stack(outputs).mean(0)


def _labelled(targets: Any) -> Any:
    """Return True when all samples have a target, False when none has, else which do."""
    if targets is None:
        return False
    if not isinstance(targets, Tensor):
        return True
    known = (targets != UNKNOWN).reshape(len(targets), -1).any(1)
    return True if bool(known.all()) else (known if bool(known.any()) else False)


def _fits(outputs: Any, wanted: Any) -> None:
    if not isinstance(outputs, Tensor) or not isinstance(wanted, Tensor):
        raise ConfigError(
            "outputs are copied of nets with one output each",
            hint="a term of features, such as Hint",
        )
    if outputs.shape[1:] != wanted.shape[1:]:
        raise ConfigError(
            f"the student says {tuple(outputs.shape[1:])}, the teacher {tuple(wanted.shape[1:])}",
            hint="give both the same num_classes, or use a term of features, such as Hint",
        )


def _adapter(mine: Tensor, theirs: Tensor) -> nn.Module | None:
    """Return what takes the student's width to the teacher's, None where they are the same."""
    if mine.shape[1] == theirs.shape[1]:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if mine.ndim == 4:
            return nn.Conv2d(mine.shape[1], theirs.shape[1], 1, bias=False)
        return nn.Linear(mine.shape[1], theirs.shape[1], bias=False)


__all__ = ["Distillation", "Hard", "Term"]
