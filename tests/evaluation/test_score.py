"""Scores against scipy, and loaders and callables that cannot be scored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from torchopt2edge.errors import DataError, EvaluateError
from torchopt2edge.evaluation.score import _share, hashes, score
from torchopt2edge.interfaces import Session
from torchopt2edge.samples.calibration_set import check_disjoint, sample_hash
from torchopt2edge.types import Manifest, TensorSpec

INPUTS = (TensorSpec("x", (-1, 3)),)
PAIR = (TensorSpec("a", (-1, 3)), TensorSpec("b", (-1, 2)))


class Scores:
    """A session whose scores are its first input."""

    input_names = ("x",)
    output_names = ("scores", "other")

    def __call__(self, inputs: Any) -> dict[str, np.ndarray]:
        """Give the scores, and an output that nobody asked for."""
        first = next(iter(inputs.values()))
        return {"other": -first, "scores": first}


def batch(*labels: int) -> np.ndarray:
    """Return rows whose largest entry is at those places."""
    return np.eye(3, dtype=np.float32)[list(labels)]


def test_top1_of_a_loader_and_its_interval() -> None:
    loader = [(batch(0, 1, 2), np.array([0, 1, 1])), (batch(2), np.array([2]))]
    found = score(Scores(), loader, INPUTS)
    assert found.metric == "top1"
    assert found.metrics["top1"] == 75.0
    interval = stats.binomtest(3, 4).proportion_ci(0.95, method="wilson")
    assert found.metrics["top1_low"] == pytest.approx(100 * interval.low)
    assert found.metrics["top1_high"] == pytest.approx(100 * interval.high)
    assert found.facts == {"metric": "top1", "n_eval": 4, "correct": "1101"}


def test_the_interval_by_wilsons_formula() -> None:
    hits, count, z = 91, 100, stats.norm.ppf(0.975)
    found = _share("top1", np.arange(count) < hits).metrics
    share = hits / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    assert found["top1_low"] == pytest.approx(100 * (middle - half))
    assert found["top1_high"] == pytest.approx(100 * (middle + half))


@pytest.mark.parametrize("hits", [0, 5])
def test_all_or_none_still_has_an_interval(hits: int) -> None:
    found = _share("top1", np.arange(5) < hits).metrics
    assert 0 <= found["top1_low"] <= found["top1"] <= found["top1_high"] <= 100
    assert found["top1_high"] - found["top1_low"] > 30


def test_a_torch_loader() -> None:
    data = torch.utils.data.TensorDataset(torch.from_numpy(batch(0, 1, 2, 0)), torch.arange(4) % 3)
    loader = torch.utils.data.DataLoader(data, batch_size=3)
    assert score(Scores(), loader, INPUTS).metrics["top1"] == 100.0


def test_single_samples_are_batches_of_one() -> None:
    loader = [(batch(1)[0], 1), (batch(2)[0], 0)]
    assert score(Scores(), loader, INPUTS).facts["correct"] == "10"


def test_a_generator_is_walked_once() -> None:
    def walk() -> Iterator[Any]:
        yield batch(1), np.array([1])

    assert score(Scores(), walk(), INPUTS).facts["n_eval"] == 1


def test_several_inputs_and_a_label() -> None:
    other = np.zeros((2, 2), np.float32)
    loader = [((batch(0, 1), other), np.array([0, 2])), ({"b": other, "a": batch(2, 2)}, [2, 2])]
    assert score(Scores(), loader, PAIR).facts["correct"] == "1011"


def test_a_callable_is_asked_with_the_session() -> None:
    def how(session: Session) -> dict[str, float]:
        value = session({"x": batch(2)})["scores"].argmax()
        return {"mse": np.float32(value), "other": 1}

    found = score(Scores(), how, INPUTS)
    assert found.metric == "mse"
    assert found.metrics == {"mse": 2.0, "other": 1.0}
    assert all(type(value) is float for value in found.metrics.values())
    assert found.facts == {"metric": "mse"}


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({}, "not a dict of numbers"),
        (None, "not a dict of numbers"),
        (0.9, "returned float"),
        ({"top1": "high"}, "more than numbers"),
        ({"top1": None}, "more than numbers"),
        ({"top1": np.zeros(3)}, "more than numbers"),
        ({"top1": 1.0, "loss": float("nan")}, "loss that is not finite"),
    ],
    ids=repr,
)
def test_a_callable_that_gives_no_numbers(given: Any, what: str) -> None:
    with pytest.raises(EvaluateError, match=what):
        score(Scores(), lambda session: given, INPUTS)


def test_a_users_own_bug_is_not_hidden() -> None:
    def how(session: Session) -> dict[str, float]:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        score(Scores(), how, INPUTS)


def test_an_empty_loader() -> None:
    with pytest.raises(EvaluateError, match="empty"):
        score(Scores(), [], INPUTS)


@pytest.mark.parametrize(
    "item", [batch(1), (batch(1),), (batch(1), [1], [1]), "ab", {"x": batch(1)}], ids=type
)
def test_items_that_are_no_pairs(item: Any) -> None:
    with pytest.raises(EvaluateError, match=r"no \(inputs, labels\) pairs"):
        score(Scores(), [item], INPUTS)


def test_a_label_too_few() -> None:
    with pytest.raises(EvaluateError, match="row of scores per label"):
        score(Scores(), [(batch(0, 1), np.array([0]))], INPUTS)


def test_one_hot_labels_are_no_labels() -> None:
    with pytest.raises(EvaluateError, match="row of scores per label"):
        score(Scores(), [(batch(0, 1, 2), batch(0, 1, 2))], INPUTS)


def test_outputs_that_are_no_scores() -> None:
    deep = (TensorSpec("x", (-1, 3, 4)),)
    with pytest.raises(EvaluateError, match=r"\(2, 3, 4\)"):
        score(Scores(), [(np.zeros((2, 3, 4), np.float32), np.array([0, 1]))], deep)


def test_samples_of_the_wrong_shape() -> None:
    with pytest.raises(DataError, match="has shape"):
        score(Scores(), [(np.zeros((2, 4), np.float32), np.array([0, 1]))], INPUTS)


def test_hashes_do_not_depend_on_batching_or_dtype() -> None:
    rows = batch(0, 1, 2)
    label = np.zeros(3)
    whole = list(hashes([(rows, label)], INPUTS))
    single = list(hashes([(row, 0) for row in rows.astype(np.float64)], INPUTS))
    assert whole == single == [sample_hash([row]) for row in rows]
    assert len(set(whole)) == 3


def test_a_hash_is_of_all_inputs() -> None:
    a, b = batch(0, 0), np.array([[1, 2], [3, 4]], np.float32)
    assert len(set(hashes([((a, b), [0, 0])], PAIR))) == 2


def test_a_leak_is_found() -> None:
    scored = [(batch(0, 1), np.array([0, 1]))]
    kept = Manifest("calibration", (sample_hash([batch(1)[0]]), sample_hash([batch(2)[0]])))
    with pytest.raises(DataError, match="1 of 2 calibration samples"):
        check_disjoint(kept, hashes(scored, INPUTS))
    check_disjoint(Manifest("calibration", (sample_hash([batch(2)[0]]),)), hashes(scored, INPUTS))
