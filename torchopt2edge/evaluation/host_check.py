"""Score a candidate on a device, and compare its outputs with this machine's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from torchopt2edge.errors import EdgeError
from torchopt2edge.evaluation.score import (
    Array,
    Run,
    Score,
    Scorer,
    joined,
    outputs_and_targets,
    score_by,
)
from torchopt2edge.interfaces import Session
from torchopt2edge.stats.paired import paired
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.task import Task
from torchopt2edge.types import Facts, TensorSpec

_APART = 0.01  # the share of samples with another answer from which on a note says so
_CHANCE = 0.05  # how often equal files may be told apart by their hits


def score_beside(
    session: Session,
    host: Run,
    how: Scorer | Iterable[Any],
    inputs: tuple[TensorSpec, ...],
    task: Task,
) -> Score:
    """Score on a device, and say how its answers differ from those of ``host``, this machine.

    The facts hold ``host_n`` samples, the per cent of them with the same answer
    (``host_agreement``, where the task's answers are classes or labels), the largest |Δ| of the
    outputs (``host_max_abs``), the metric here (``host_metric``), and a note where the two differ
    by more than rounding explains.

    Raises:
        EvaluateError: as `score`.
    """
    pair = Beside(session, host, task)
    if callable(how):
        made = score_by(pair, how)
        return replace(made, facts={**made.facts, **pair.facts(1.0)})
    there, here = [], []
    for outputs, targets in outputs_and_targets(session, how, inputs, task, pair.hold):
        there.append(task.metric(outputs, targets))
        if pair.why is None:
            here.append(task.metric(pair.here, targets))
    made = joined(there)
    if pair.why is not None:
        return replace(made, facts={**made.facts, **pair.facts(1.0)})
    ours = joined(here)
    chance = _chance(paired(ours.facts, made.facts))
    facts = {"host_metric": ours.metrics[ours.metric], **pair.facts(chance)}
    return replace(made, facts={**made.facts, **facts})


class Beside:
    """A session that runs on this machine too, and counts the samples on which the two part.

    ``here`` is what this machine answered last; ``why`` it answers no more, None while it does:
    a file that was made for the device need not run here.
    """

    def __init__(self, session: Session, host: Run, task: Task) -> None:
        self.input_names, self.output_names = session.input_names, session.output_names
        self.here: Array = np.empty(0)
        self.why: str | None = None
        self._session, self._host, self._task = session, host, task
        self._count = self._apart = 0
        self._max_abs = 0.0
        self._answers = True

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run on both, give what the device answers."""
        found = self._session(inputs)
        self.hold(inputs, found)
        return found

    def hold(self, inputs: Mapping[str, Array], found: Mapping[str, Array]) -> None:
        """Run what the device answered here too, and hold the two answers side by side."""
        if self.why is None:
            try:
                here = self._host(inputs)
            except EdgeError as error:
                self.why = str(error)
            else:
                self._compare(found, here)

    def facts(self, chance: float) -> Facts:
        """Return the receipt; ``chance`` is how often equal files would differ as much in hits."""
        if self.why is not None:
            return {"notes": [f"not compared with this machine, which cannot run it: {self.why}"]}
        found: Facts = {"host_n": self._count, "host_max_abs": self._max_abs}
        if self._answers and self._count:
            found["host_agreement"] = 100.0 * (1 - self._apart / self._count)
        differs = self._answers and self._apart > _APART * self._count
        if differs or chance < _CHANCE:
            who = "the device answers otherwise than this machine"
            found["notes"] = [
                f"{who} on {self._apart} of {self._count} samples"
                if self._answers
                else f"{who} by more than chance on {self._count} samples"
            ]
        return found

    def _compare(self, there: Mapping[str, Array], here: Mapping[str, Array]) -> None:
        for name, value in there.items():
            gap = np.abs(value.astype(np.float64) - here[name].astype(np.float64))
            self._max_abs = max(self._max_abs, float(gap.max(initial=0.0)))
        first = self.output_names[0]
        self.here = here[first]
        self._count += len(there[first])
        ours, theirs = self._said(here[first]), self._said(there[first])
        if ours is None or theirs is None:
            self._answers = False
        else:
            self._apart += int((ours != theirs).any(axis=1).sum())

    def _said(self, outputs: Array) -> Array | None:
        """Return a row of classes or labels per sample, None where the answer is no such thing."""
        if isinstance(self._task, Classification) and outputs.ndim != 2:
            return None
        said = self._task.predict(outputs)
        whole = said.dtype.kind in "iub" and said.ndim and len(said) == len(outputs)
        return said.reshape(len(said), -1) if whole else None


def _chance(drop: Mapping[str, float]) -> float:
    """Return how often equal files would differ as much as two sets of scores do.

    McNemar's for hits; of other scores only whether the interval of their difference holds 0.
    """
    if "mcnemar_p" in drop:
        return drop["mcnemar_p"]
    known = "drop" in drop and drop["drop_low"] < drop["drop_high"]
    return 0.0 if known and not drop["drop_low"] <= 0.0 <= drop["drop_high"] else 1.0
