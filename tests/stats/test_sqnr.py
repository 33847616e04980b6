"""The signal-to-quantization-noise ratio: its two averages and their limits."""

from __future__ import annotations

import numpy as np
import pytest

from torchopt2edge.stats.sqnr import mean_sqnr_db, sqnr_db, sqnr_per_sample_db

ONES = np.ones(100)


@pytest.mark.parametrize(
    ("reference", "output", "decibels"),
    [
        (ONES, ONES * 1.1, 20.0),
        (ONES, ONES, 200.0),
        (ONES * 0, ONES * 0, 200.0),
        (ONES * 0, ONES, -200.0),
        (ONES, ONES * np.nan, -200.0),
        (ONES, ONES * np.inf, -200.0),
        (ONES * np.nan, ONES * np.nan, -200.0),  # nothing to compare is no parity
        (ONES, ONES * (1 + 1e-15), 200.0),
        (ONES[:0], ONES[:0], 200.0),
    ],
)
def test_one_ratio_over_all_values(reference: np.ndarray, output: np.ndarray, decibels: float):
    assert sqnr_db(reference, output) == pytest.approx(decibels)


def test_positions_without_a_finite_reference_do_not_count() -> None:
    reference, output = np.array([[3.0, np.nan], [4.0, np.inf]]), np.array([[3.0, 1.0], [9.0, 2.0]])
    assert sqnr_db(reference, output) == pytest.approx(0.0)


def test_integers_are_compared_as_numbers() -> None:
    assert sqnr_db(np.array([200], np.uint8), np.array([220], np.uint8)) == pytest.approx(20.0)


def test_each_sample_counts_alike() -> None:
    reference = np.array([[1.0, 0.0], [1000.0, 0.0]], np.float32)
    output = np.array([[1.1, 0.0], [2000.0, 0.0]], np.float32)
    ratios = sqnr_per_sample_db(reference, output)
    assert ratios == pytest.approx([20.0, 0.0], abs=1e-5)
    assert mean_sqnr_db(ratios) == pytest.approx(10.0, abs=1e-5)
    assert sqnr_db(reference, output) == pytest.approx(0.0, abs=1e-5)


def test_no_sample_decides_the_mean() -> None:
    reference = np.array([[1.0], [1.0], [1.0], [0.0]])
    output = np.array([[1.0], [1e9], [np.nan], [0.0]])
    ratios = sqnr_per_sample_db(reference, output)
    assert ratios == pytest.approx([100.0, -20.0, -20.0, np.nan], nan_ok=True)
    assert mean_sqnr_db(ratios) == pytest.approx(20.0)


def test_without_signal_and_noise_the_mean_is_the_upper_limit() -> None:
    assert mean_sqnr_db(sqnr_per_sample_db(np.zeros((3, 2)), np.zeros((3, 2)))) == 100.0
