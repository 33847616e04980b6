"""Differences of two candidates on the same samples."""

from __future__ import annotations

import numpy as np
import pytest

from torchopt2edge.stats.paired import mcnemar_p, paired


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


@pytest.mark.parametrize(("lost", "won", "p"), [(0, 0, 1.0), (9, 1, 22 / 1024), (1, 9, 22 / 1024)])
def test_mcnemar_is_the_exact_sign_test(lost: int, won: int, p: float) -> None:
    assert mcnemar_p(lost, won) == pytest.approx(p)
