"""Score a candidate in the very runtime that will run it, on data nobody trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from torchopt2edge.errors import EdgeError, EvaluateError
from torchopt2edge.interfaces import Session
from torchopt2edge.samples.calibration_set import inputs_of, sample_hash, to_numpy
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.task import Task
from torchopt2edge.types import Facts, TensorSpec

T = TypeVar("T")
Array = np.ndarray[Any, Any]
Scorer = Callable[[Session], dict[str, float]]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

_APART = 0.01  # the share of samples with another answer from which on a note says so
_CHANCE = 0.05  # how often equal files may be told apart by their hits


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
        return _called(session, how)
    task = task or Classification()
    answers = _answers(session, how, inputs, task)
    return _gathered([task.metric(outputs, targets) for outputs, targets in answers])


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
        made = _called(pair, how)
        return replace(made, facts={**made.facts, **pair.facts(1.0)})
    there, here = [], []
    for outputs, targets in _answers(session, how, inputs, task, pair.hold):
        there.append(task.metric(outputs, targets))
        if pair.why is None:
            here.append(task.metric(pair.here, targets))
    made = _gathered(there)
    if pair.why is not None:
        return replace(made, facts={**made.facts, **pair.facts(1.0)})
    ours = _gathered(here)
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


def _gathered(found: Sequence[Mapping[str, Array]]) -> Score:
    """Join the scores of the batches into one."""
    if not found or not len(next(iter(found[0].values()))):
        raise EvaluateError(
            "the evaluation set is empty", mend="pass a loader that yields (inputs, labels)"
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
    middle, low, high = _interval(values)
    metrics = {name: middle, f"{name}_low": low, f"{name}_high": high}
    kept = [round(float(value), 5) for value in values]
    return Score(name, metrics, {"metric": name, "n_eval": len(values), "scores": kept})


def _interval(values: Array) -> tuple[float, float, float]:
    from scipy.stats import sem, t

    middle = float(values.mean())
    if len(values) < 2:
        return middle, middle, middle
    half = float(sem(values)) * float(t.ppf(0.975, len(values) - 1))
    return middle, middle - half, middle + half


def paired(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, float]:
    """Return ``drop`` with its 95 % interval of two rows' facts; {} when they hold no scores.

    In points of hits (`paired_drop`), or in the metric's own unit: the mean difference of the
    samples' scores, with Student's interval of those differences.
    """
    if "correct" in reference and "correct" in candidate:
        return paired_drop(reference["correct"], candidate["correct"])
    if "scores" not in reference or "scores" not in candidate:
        return {}
    gap = np.asarray(reference["scores"]) - np.asarray(candidate["scores"])
    middle, low, high = _interval(gap)
    return {"drop": middle, "drop_low": low, "drop_high": high}


def paired_drop(reference: str, candidate: str) -> dict[str, float]:
    """Return ``drop`` with its 95 % interval, in points, of hits scored on the same samples.

    Both are strings of 0 and 1. The interval is Wald's for paired proportions with half a
    sample added to each cell (Agresti and Min 2005): far narrower than the difference of two
    separate intervals, since most samples are hit or missed by both. ``mcnemar_p`` is the exact
    test's: how often equal files would differ by as much (McNemar 1947).
    """
    from scipy.stats import binomtest

    lost = sum(a == "1" and b == "0" for a, b in zip(reference, candidate, strict=True))
    won = sum(a == "0" and b == "1" for a, b in zip(reference, candidate, strict=True))
    count = len(reference)
    b, c, n = lost + 0.5, won + 0.5, count + 2.0
    half = 1.96 * float(np.sqrt(b + c - (b - c) ** 2 / n)) / n
    middle = (b - c) / n
    return {
        "mcnemar_p": float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0,
        "drop": 100.0 * (lost - won) / count,
        "drop_low": 100.0 * (middle - half),
        "drop_high": 100.0 * (middle + half),
    }


def labelled(loader: Iterable[Any]) -> Iterator[tuple[Any, Array]]:
    """Walk (inputs, labels) pairs of a loader.

    Raises:
        EvaluateError: an item is not such a pair.
    """
    for item in loader:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise EvaluateError(
                "the evaluation loader yields no (inputs, labels) pairs",
                mend="pass such a loader, or a callable (session) -> {'metric': number}",
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


def _answers(
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
                mend="name the task (task=multilabel …), or pass (session) -> {'metric': number}",
            )
        yield outputs, targets


def _called(session: Session, how: Scorer) -> Score:
    found = how(session)
    if not isinstance(found, dict) or not found:
        raise EvaluateError(
            f"the evaluation returned {type(found).__name__}, not a dict of numbers",
            mend="return for instance {'top1': 91.7}; the first entry is the metric compared",
        )
    try:
        metrics = {str(name): float(value) for name, value in found.items()}
    except (TypeError, ValueError) as error:
        raise EvaluateError(
            f"the evaluation returned {found!r}, which holds more than numbers",
            mend="return for instance {'top1': 91.7}; the first entry is the metric compared",
        ) from error
    bad = [name for name, value in metrics.items() if not np.isfinite(value)]
    if bad:
        raise EvaluateError(f"the evaluation returned {bad[0]} that is not finite")
    name = next(iter(metrics))
    return Score(name, metrics, {"metric": name})
