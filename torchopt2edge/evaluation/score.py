"""Score a candidate in the very runtime that will run it, on data nobody trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from torchopt2edge.errors import EvaluateError
from torchopt2edge.interfaces import Session
from torchopt2edge.samples.calibration_set import inputs_of, sample_hash, to_numpy
from torchopt2edge.stats.paired import student_interval
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.task import Task
from torchopt2edge.types import Facts, TensorSpec

T = TypeVar("T")
Array = np.ndarray[Any, Any]
Scorer = Callable[[Session], dict[str, float]]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True)
class Score:
    """The metric's name, the row's columns and the receipt.

    For a labelled loader the metric is the task's, ``top1`` in per cent by default. ``correct``
    holds a 0 or 1 per sample in order, or ``scores`` a number, so that candidates can be paired.
    """

    metric: str
    metrics: dict[str, float]
    facts: Facts


def score(
    session: Session,
    how: Scorer | Iterable[Any],
    inputs: tuple[TensorSpec, ...],
    task: Task | None = None,
) -> Score:
    """Score with the user's callable, or the task's metric (top-1) over a labelled loader.

    Raises:
        EvaluateError: the callable gives no numbers, or the loader no labelled samples.
    """
    if callable(how):
        return score_by(session, how)
    task = task or Classification()
    answers = outputs_and_targets(session, how, inputs, task)
    return joined([task.metric(outputs, targets) for outputs, targets in answers])


def joined(found: Sequence[Mapping[str, Array]]) -> Score:
    """Join the scores of the batches into one."""
    if not found or not len(next(iter(found[0].values()))):
        raise EvaluateError(
            "the evaluation set is empty", hint="pass a loader that yields (inputs, labels)"
        )
    scores = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    (name, values), *others = scores.items()
    rest = {other: float(each.mean()) for other, each in others}
    hits = np.isin(values, (0.0, 100.0)).all()
    made = _share(name, values > 0) if hits else _mean(name, values.astype(np.float64))
    return Score(name, {**made.metrics, **rest}, made.facts)


def _share(name: str, correct: Array) -> Score:
    """Return the share of hits in per cent with its 95 % interval (Wilson 1927)."""
    from scipy.stats import binomtest

    hits, count = int(correct.sum()), int(correct.size)
    interval = binomtest(hits, count).proportion_ci(method="wilson")
    metrics = {
        name: 100.0 * hits / count,
        f"{name}_low": 100.0 * float(interval.low),
        f"{name}_high": 100.0 * float(interval.high),
    }
    bits = "".join("1" if hit else "0" for hit in correct)
    return Score(name, metrics, {"metric": name, "n_eval": count, "correct": bits})


def _mean(name: str, values: Array) -> Score:
    """Return the mean score with its 95 % interval (Student's t)."""
    middle, low, high = student_interval(values)
    metrics = {name: middle, f"{name}_low": low, f"{name}_high": high}
    kept = [round(float(value), 5) for value in values]
    return Score(name, metrics, {"metric": name, "n_eval": len(values), "scores": kept})


def labelled(loader: Iterable[Any]) -> Iterator[tuple[Any, Array]]:
    """Walk (inputs, labels) pairs of a loader.

    Raises:
        EvaluateError: an item is not such a pair.
    """
    for item in loader:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise EvaluateError(
                "the evaluation loader yields no (inputs, labels) pairs",
                hint="pass such a loader, or a callable (session) -> {'metric': number}",
            )
        yield item[0], np.atleast_1d(to_numpy(item[1]))


def hashes(loader: Iterable[Any], inputs: tuple[TensorSpec, ...]) -> Iterator[str]:
    """Hash every sample of a loader, to hold them against the calibration manifest."""
    for given, _ in labelled(loader):
        arrays = inputs_of(given, inputs)
        for parts in zip(*arrays.values(), strict=True):
            yield sample_hash(parts)


@runtime_checkable
class Gathering(Protocol):
    """A session far from here, which is quicker when it is handed batch after batch."""

    def each(
        self, items: Iterable[tuple[Mapping[str, Array], T]]
    ) -> Iterator[tuple[dict[str, Array], Mapping[str, Array], T]]:
        """Walk batches, and what goes along with each, with their answers."""


def _each(
    session: Session, items: Iterable[tuple[Mapping[str, Array], T]]
) -> Iterator[tuple[dict[str, Array], Mapping[str, Array], T]]:
    if isinstance(session, Gathering):
        yield from session.each(items)
    else:
        yield from ((session(given), given, along) for given, along in items)


def outputs_and_targets(
    session: Session,
    loader: Iterable[Any],
    inputs: tuple[TensorSpec, ...],
    task: Task,
    seen: Callable[[Mapping[str, Array], Mapping[str, Array]], None] | None = None,
) -> Iterator[tuple[Array, Array]]:
    """Walk what a session answers, and what was wanted; ``seen`` gets each batch and answer."""
    items = ((inputs_of(given, inputs), targets) for given, targets in labelled(loader))
    plain = isinstance(task, Classification)
    for found, given, targets in _each(session, items):
        outputs = found[session.output_names[0]]
        if seen is not None:
            seen(given, found)
        if plain and (outputs.ndim != 2 or targets.shape != outputs.shape[:1]):
            raise EvaluateError(
                f"top-1 needs a row of scores per label: {outputs.shape} for {targets.shape} "
                "labels",
                hint="name the task (task=multilabel …), or pass (session) -> {'metric': number}",
            )
        yield outputs, targets


def score_by(session: Session, how: Scorer) -> Score:
    """Score with the user's own callable.

    Raises:
        EvaluateError: it gives no numbers, or one that is not finite.
    """
    found = how(session)
    if not isinstance(found, dict) or not found:
        raise EvaluateError(
            f"the evaluation returned {type(found).__name__}, not a dict of numbers",
            hint="return for instance {'top1': 91.7}; the first entry is the metric compared",
        )
    try:
        metrics = {str(name): float(value) for name, value in found.items()}
    except (TypeError, ValueError) as error:
        raise EvaluateError(
            f"the evaluation returned {found!r}, which holds more than numbers",
            hint="return for instance {'top1': 91.7}; the first entry is the metric compared",
        ) from error
    bad = [name for name, value in metrics.items() if not np.isfinite(value)]
    if bad:
        raise EvaluateError(f"the evaluation returned {bad[0]} that is not finite")
    name = next(iter(metrics))
    return Score(name, metrics, {"metric": name})
