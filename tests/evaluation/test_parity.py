"""Parity numbers against hand computations, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from torchopt2edge.errors import VerifyError
from torchopt2edge.evaluation.parity import Parity, below, check_finite, parity, verify
from torchopt2edge.types import SCHEMES, Scheme

LOOSE = Scheme("loose", "int8", "int8", -300.0, 0.0)


def one(values: list[float]) -> dict[str, np.ndarray]:
    """Return one output of one row."""
    return {"y": np.array([values], np.float32)}


def test_the_ratio_by_hand() -> None:
    # Σr² = 9 + 16 = 25; Σ(r-o)² = 0.25 + 0 → 10·log10(100) = 20 dB.
    found = parity(one([3, 4]), one([3.5, 4]))
    assert found.sqnr_db == pytest.approx(20.0)
    assert found.max_abs == 0.5
    assert found.agreement == 100.0


def test_equal_to_the_bit_is_the_ceiling() -> None:
    assert parity(one([3, 4]), one([3, 4])) == Parity(200.0, 0.0, 100.0)


def test_noise_without_signal_is_the_floor() -> None:
    assert parity(one([0, 0]), one([1, 0])).sqnr_db == -200.0


def test_noise_as_large_as_the_signal_is_zero_decibels() -> None:
    assert parity(one([3, 4]), one([0, 0])).sqnr_db == pytest.approx(0.0)


def test_a_difference_is_taken_wider_than_the_outputs_dtype() -> None:
    want, got = np.array([[250, 0]], np.uint8), np.array([[5, 0]], np.uint8)
    assert parity({"y": want}, {"y": got}).max_abs == 245.0


def test_the_worst_output_counts() -> None:
    want = {"a": np.array([[1.0, 0.0]]), "b": np.array([[0.0, 1.0], [2.0, 1.0]])}
    got = {"a": np.array([[1.1, 0.0]]), "b": np.array([[0.0, 1.0], [1.0, 2.0]])}
    found = parity(want, got)
    assert found.sqnr_db == pytest.approx(10 * np.log10(6 / 2))
    assert found.max_abs == 1.0
    assert found.agreement == 50.0


@pytest.mark.parametrize(
    "shape", [(4, 1), (4,), (4, 3, 2), (4, 3, 2, 2), ()], ids=lambda shape: f"{len(shape)}d"
)
def test_only_rows_of_scores_can_agree(shape: tuple[int, ...]) -> None:
    value = np.ones(shape, np.float32)
    found = parity({"y": value}, {"y": value})
    assert found.agreement is None
    assert set(found.metrics) == {"sqnr_db", "max_abs"}


def test_labels_are_not_scores() -> None:
    value = np.ones((4, 3), np.int64)
    assert parity({"y": value}, {"y": value}).agreement is None


def test_the_columns_of_a_row() -> None:
    found = parity(one([3, 4]), one([4, 3])).metrics
    assert found == {"sqnr_db": pytest.approx(10 * np.log10(25 / 2)), "max_abs": 1, "agreement": 0}


@pytest.mark.parametrize(
    ("got", "what"),
    [
        ({}, "missing"),
        ({"z": np.zeros((1, 2))}, "missing"),
        ({"y": np.zeros((1, 3))}, r"shape \(1, 3\)"),
        ({"y": np.zeros((2, 1))}, r"shape \(2, 1\)"),
        ({"y": np.array([[np.nan, 1]])}, "NaN"),
        ({"y": np.array([[np.inf, 1]])}, "infinity"),
    ],
    ids=["none", "other-name", "wider", "transposed", "nan", "inf"],
)
def test_outputs_that_cannot_be_compared(got: dict[str, np.ndarray], what: str) -> None:
    with pytest.raises(VerifyError, match=what):
        parity(one([3, 4]), got)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reference_that_is_no_number_proves_nothing(value: float) -> None:
    with pytest.raises(VerifyError, match="the model itself"):
        check_finite(one([value, 1]))
    with pytest.raises(VerifyError, match="the model itself"):
        parity(one([value, 1]), one([0, 1]))


@pytest.mark.parametrize("name", SCHEMES)
def test_the_floors_of_a_scheme(name: str) -> None:
    scheme = SCHEMES[name]
    share = 100 * scheme.min_agreement
    assert below(Parity(scheme.min_sqnr_db, 1.0, share), scheme) is None
    assert below(Parity(scheme.min_sqnr_db, 1.0, None), scheme) is None
    lossy = below(Parity(scheme.min_sqnr_db - 0.1, 0.25, share), scheme)
    assert lossy is not None
    assert name in lossy
    assert "0.25" in lossy
    other = below(Parity(scheme.min_sqnr_db, 1.0, share - 0.1), scheme)
    assert other is not None
    assert "predictions differ" in other


def test_float_keeps_more_than_integers() -> None:
    found = Parity(30.0, 0.1, 98.0)
    assert below(found, SCHEMES["int8"]) is None
    assert below(found, SCHEMES["fp32"]) is not None


@dataclass
class Doubling:
    """A session that doubles, and remembers the batches it was given."""

    extra: float = 0.0
    batches: list[int] = field(default_factory=list)
    input_names = ("x",)
    output_names = ("y",)

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Double the input."""
        self.batches.append(len(inputs["x"]))
        return {"y": 2 * inputs["x"] + self.extra}


def test_a_session_is_run_in_batches_and_its_samples_stay_in_order() -> None:
    x = np.arange(21.0, dtype=np.float32).reshape(7, 3)
    x[::2] = x[::2, ::-1].copy()  # not one answer for all
    session = Doubling()
    found = verify(session, {"x": x}, {"y": 2 * x}, SCHEMES["fp32"], batch=3)
    assert found == Parity(200.0, 0.0, 100.0)
    assert session.batches == [3, 3, 1]


def test_a_broken_session_is_refused_with_its_number() -> None:
    x = np.ones((4, 3), np.float32)
    with pytest.raises(VerifyError, match=r"12\.0 dB SQNR where fp32 must keep 60 dB"):
        verify(Doubling(extra=0.5), {"x": x}, {"y": 2 * x}, SCHEMES["fp32"])
    assert verify(Doubling(extra=0.5), {"x": x}, {"y": 2 * x}, LOOSE).max_abs == 0.5


def test_a_sample_too_few_is_refused() -> None:
    x = np.ones((4, 3), np.float32)
    with pytest.raises(VerifyError, match="shape"):
        verify(Doubling(), {"x": x}, {"y": 2 * x[:3]}, LOOSE)


def test_a_reference_that_answers_everything_alike_has_no_agreement() -> None:
    """An untrained net: its one answer flips for all samples at once, and that says nothing."""
    want = np.tile(np.array([[1.0, 0.999, 0.0]], np.float32), (4, 1))
    got = np.tile(np.array([[0.999, 1.0, 0.0]], np.float32), (4, 1))
    found = parity({"y": want}, {"y": got})
    assert found.agreement is None
    assert found.sqnr_db > 50
