"""Scores against scipy, and loaders and callables that cannot be scored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from torchopt2edge.errors import BenchError, DataError, EvaluateError
from torchopt2edge.evaluation.score import _share, hashes, paired, score, score_beside
from torchopt2edge.interfaces import Session
from torchopt2edge.samples.calibration_set import check_disjoint, sample_hash
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.super_resolution import SuperResolution
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


def test_scores_that_are_no_hits_are_paired_by_their_differences() -> None:
    rng = np.random.default_rng(0)
    best = rng.normal(30, 5, 200)
    worse = best - 0.5 + rng.normal(0, 0.1, 200)
    drop = paired({"scores": best.tolist()}, {"scores": worse.tolist()})
    assert drop["drop"] == pytest.approx(0.5, abs=0.03)
    assert drop["drop_low"] < 0.5 < drop["drop_high"]
    assert drop["drop_high"] - drop["drop_low"] < 0.1  # far below the spread of the images
    assert paired({}, {"scores": [1.0]}) == {}
    hits = paired({"correct": "1111"}, {"correct": "1110"})
    assert hits["drop"] == 25.0


class Turned(Scores):
    """Another machine: of the first samples it says the next class, and of the rest nearly ours."""

    def __init__(self, wrong: int) -> None:
        self.wrong = wrong

    def __call__(self, inputs: Any) -> dict[str, np.ndarray]:
        """Count the samples down as they come."""
        found = super().__call__(inputs)
        scores = found["scores"] + np.float32(0.001)
        turned, self.wrong = min(self.wrong, len(scores)), max(0, self.wrong - len(scores))
        scores[:turned] = np.roll(scores[:turned], 1, axis=1)
        return {**found, "scores": scores}


HUNDRED = [(batch(*[0, 1, 2, 2, 1] * 10), np.array([0, 1, 2, 2, 1] * 10))] * 2


@pytest.mark.parametrize(("wrong", "said"), [(0, False), (1, False), (2, True), (60, True)])
def test_another_machines_answers_are_held_against_ours(wrong: int, said: bool) -> None:
    made = score_beside(Turned(wrong), Scores(), HUNDRED, INPUTS, Classification())
    assert made.metrics["top1"] == made.facts["host_agreement"] == pytest.approx(100.0 - wrong)
    assert made.facts["host_metric"] == 100.0
    assert (made.facts["host_n"], made.facts["n_eval"]) == (100, 100)
    assert made.facts["host_max_abs"] == pytest.approx(1.001 if wrong else 0.001, abs=1e-6)
    note = f"the device answers otherwise than this machine on {wrong} of 100 samples"
    assert made.facts.get("notes", []) == ([note] if said else [])


def test_hits_that_are_lost_more_than_by_chance_are_said_below_a_per_cent() -> None:
    """Of 1000 samples 7 answers change, and each change loses a hit: McNemar's p is 0.016."""
    many = HUNDRED * 10
    made = score_beside(Turned(7), Scores(), many, INPUTS, Classification())
    assert made.facts["host_agreement"] == pytest.approx(99.3)
    assert "on 7 of 1000 samples" in made.facts["notes"][0]
    made = score_beside(Turned(5), Scores(), many, INPUTS, Classification())
    assert "notes" not in made.facts  # 0.063


def test_a_callable_and_answers_that_are_no_classes_are_compared_too() -> None:
    def metric(session: Session) -> dict[str, float]:
        session({"x": batch(0, 1, 2)})
        return {"mine": 3.0}

    made = score_beside(Turned(1), Scores(), metric, INPUTS, Classification())
    assert made.facts["host_n"] == 3
    assert made.facts["host_agreement"] == pytest.approx(200 / 3)
    assert "on 1 of 3 samples" in made.facts["notes"][0]
    image = np.random.default_rng(0).random((4, 1, 24, 24)).astype(np.float32)
    inputs = (TensorSpec("x", (-1, 1, 24, 24)),)
    made = score_beside(Turned(0), Scores(), [(image, image)], inputs, SuperResolution())
    assert "host_agreement" not in made.facts
    assert made.facts["host_max_abs"] == pytest.approx(0.001, abs=1e-6)


def test_a_file_that_does_not_run_here_is_scored_all_the_same() -> None:
    asked: list[int] = []

    def refuses(inputs: Any) -> dict[str, np.ndarray]:
        asked.append(1)
        raise BenchError("the process was killed by SIGILL")

    made = score_beside(Turned(0), refuses, HUNDRED, INPUTS, Classification())
    assert made.metrics["top1"] == 100.0
    assert "killed by SIGILL" in made.facts["notes"][0]
    assert "host_n" not in made.facts
    assert len(asked) == 1
