"""Constraints, where the evidence is clear and where it is thin."""

from __future__ import annotations

from dataclasses import replace

import pytest

from torchopt2edge.stats.rows import drop_of
from torchopt2edge.types import Constraints, Measurement
from torchopt2edge.verdict.constraints import breaches, doubts

ONE = Constraints(max_drop=1.0)


def row(name: str, top1: float | None, half: float = 0.0, **metrics: float) -> Measurement:
    known = (
        {} if top1 is None else {"top1": top1, "top1_low": top1 - half, "top1_high": top1 + half}
    )
    return Measurement(
        name,
        name.split("-")[0],
        "fp32",
        metrics={**known, **metrics},
        facts={"metric": "top1", "n_eval": 512},
    )


REFERENCE = row("torch-fp32", 70.0, 3.0)


def test_a_drop_beyond_doubt_is_a_breach() -> None:
    worse = row("ort-int8", 40.0, 4.0)
    (breach,) = breaches(worse, ONE, REFERENCE, [worse, REFERENCE])
    assert breach.sentence == "top1 drops by 30.00 points (70.00 → 40.00), the limit is 1"
    assert breach.excess == pytest.approx(29.0)


def test_a_drop_that_the_interval_cannot_tell_is_said_to_be_one() -> None:
    worse = row("ort-int8", 68.0, 4.0)
    (breach,) = breaches(worse, ONE, REFERENCE, [worse, REFERENCE])
    assert "the interval of 512 samples (-3.00 to 7.00) cannot tell it" in breach.sentence


def test_a_drop_within_the_limit_may_still_be_doubtful() -> None:
    close = row("ort-int8", 69.5, 4.0)
    assert breaches(close, ONE, REFERENCE, [close, REFERENCE]) == []
    (doubt,) = doubts([close], ONE, REFERENCE)
    assert doubt.startswith("ort-int8: top1 drops by 0.50 points, within the limit of 1, but")
    assert "reaches a drop of 5.50" in doubt
    better = row("ort-int8", 70.5, 4.0)
    (doubt,) = doubts([better], ONE, REFERENCE)
    assert "top1 rises by 0.50 points, within the limit of 1, but" in doubt


def test_a_paired_interval_is_preferred() -> None:
    close = row("ort-int8", 69.5, 4.0, drop_low=0.2, drop_high=0.8)
    assert doubts([close], ONE, REFERENCE) == []
    found = drop_of(close, REFERENCE)
    assert found is not None
    assert (found.points, found.low, found.high) == (0.5, 0.2, 0.8)


def test_the_reference_loses_nothing_to_itself() -> None:
    fp32 = row("ort-fp32", 70.0, 3.0)
    assert doubts([fp32], ONE, fp32) == []
    assert breaches(fp32, ONE, fp32, [fp32]) == []


def test_exactly_at_the_limit_is_admissible() -> None:
    limit = row("ort-int8", 70.0 - 1.0)
    assert breaches(limit, ONE, REFERENCE, [limit, REFERENCE]) == []


def test_what_was_not_evaluated_is_not_known_to_hold() -> None:
    unknown = row("ort-int8", None)
    (breach,) = breaches(unknown, ONE, REFERENCE, [unknown, REFERENCE])
    assert breach.sentence == "the drop is unknown: top1 was not evaluated for ort-int8"
    known, blind = row("ort-int8", 69.0), row("torch-fp32", None)
    (breach,) = breaches(known, ONE, blind, [known, blind])
    assert breach.sentence.endswith("not evaluated for torch-fp32")


def test_a_run_without_any_metric_is_warned_about_not_refused() -> None:
    files = [row("ort-int8", None), row("ort-fp32", None)]
    assert breaches(files[0], ONE, files[1], files) == []
    assert doubts(files, ONE, files[1]) == ["max_drop was not checked: no metric was evaluated"]
    assert doubts(files, ONE, None) == ["max_drop was not checked: there is no reference row"]
    assert doubts(files, Constraints(max_drop=None), None) == []


def test_a_reference_that_failed_lets_nothing_through_and_does_not_say_it_was_not_checked() -> None:
    lost, file = replace(row("torch-fp32", None), err="died"), row("ort-int8", 70.0)
    (breach,) = breaches(file, ONE, lost, [lost, file])
    assert "was not evaluated for torch-fp32" in breach.sentence
    assert doubts([], ONE, lost) == []


def test_every_breach_is_told() -> None:
    limits = Constraints(max_drop=1.0, max_latency_ms=5.0, max_size_mb=2.0, max_memory_mb=50.0)
    bad = row("ort-int8", 60.0, latency_ms=7.5, size_mb=3.0, memory_mb=49.0)
    found = breaches(bad, limits, REFERENCE, [bad, REFERENCE])
    assert [one.sentence.split()[0] for one in found] == ["latency", "size", "top1"]
    assert [one.excess for one in found] == pytest.approx([0.5, 0.5, 9.0])
