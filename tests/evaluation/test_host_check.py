"""Another machine's answers against this machine's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.evaluation.test_score import INPUTS, Scores, batch
from torchopt2edge.errors import BenchError
from torchopt2edge.evaluation.host_check import score_beside
from torchopt2edge.interfaces import Session
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.super_resolution import SuperResolution
from torchopt2edge.types import TensorSpec


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
