"""Score a candidate in the very runtime that will run it, on data nobody trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchopt2edge.errors import EvaluateError
from torchopt2edge.protocols import Session
from torchopt2edge.quantize.samples import inputs_of, sample_hash, to_numpy
from torchopt2edge.types import Facts, TensorSpec

Array = np.ndarray[Any, Any]
Scorer = Callable[[Session], dict[str, float]]


@dataclass(frozen=True)
class Score:
    """The metric's name, the row's columns and the receipt.

    For a labelled loader the metric is ``top1`` in per cent with its 95 % Wilson interval, and
    ``correct`` holds a 0 or 1 per sample, in order, so that two candidates can be paired.
    """

    metric: str
    metrics: dict[str, float]
    facts: Facts


def score(session: Session, how: Scorer | Iterable[Any], inputs: tuple[TensorSpec, ...]) -> Score:
    """Score with the user's callable, or top-1 over a labelled loader.

    Raises:
        EvaluateError: the callable gives no numbers, or the loader no labelled samples.
    """
    if callable(how):
        return _called(session, how)
    correct = np.concatenate([*_hits(session, how, inputs)] or [np.zeros(0, bool)])
    if not correct.size:
        raise EvaluateError(
            "the evaluation set is empty", mend="pass a loader that yields (inputs, labels)"
        )
    return top1(correct)


def top1(correct: Array) -> Score:
    """Return the share of hits with its 95 % interval (Wilson 1927)."""
    from scipy.stats import binomtest

    hits, count = int(correct.sum()), int(correct.size)
    interval = binomtest(hits, count).proportion_ci(method="wilson")
    metrics = {
        "top1": 100.0 * hits / count,
        "top1_low": 100.0 * float(interval.low),
        "top1_high": 100.0 * float(interval.high),
    }
    bits = "".join("1" if hit else "0" for hit in correct)
    return Score("top1", metrics, {"metric": "top1", "n_eval": count, "correct": bits})


def paired_drop(reference: str, candidate: str) -> dict[str, float]:
    """Return ``drop`` with its 95 % interval, in points, of hits scored on the same samples.

    Both are strings of 0 and 1. The interval is Wald's for paired proportions with half a
    sample added to each cell (Agresti and Min 2005): far narrower than the difference of two
    separate intervals, since most samples are hit or missed by both.
    """
    lost = sum(a == "1" and b == "0" for a, b in zip(reference, candidate, strict=True))
    won = sum(a == "0" and b == "1" for a, b in zip(reference, candidate, strict=True))
    count = len(reference)
    b, c, n = lost + 0.5, won + 0.5, count + 2.0
    half = 1.96 * float(np.sqrt(b + c - (b - c) ** 2 / n)) / n
    middle = (b - c) / n
    return {
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


def _hits(
    session: Session, loader: Iterable[Any], inputs: tuple[TensorSpec, ...]
) -> Iterator[Array]:
    for given, labels in labelled(loader):
        outputs = session(inputs_of(given, inputs))
        scores = outputs[session.output_names[0]]
        if scores.ndim != 2 or labels.shape != scores.shape[:1]:
            raise EvaluateError(
                f"top-1 needs a row of scores per label: {scores.shape} for {labels.shape} labels",
                mend="pass a callable (session) -> {'metric': number} for this task",
            )
        yield scores.argmax(axis=1) == labels


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
