"""The verdict on rows made by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from torchopt2edge.errors import ConfigError
from torchopt2edge.stats.paired import paired_drop
from torchopt2edge.types import Constraints, Measurement, Verdict
from torchopt2edge.verdict.decide import INVALIDATING, decide

FREE = Constraints(max_drop=None)


def row(name: str, ms: float, rounds: int = 12, spread: float = 0.004, **rest: Any) -> Measurement:
    """One row named ``backend-scheme``; all rows share each round's weather (±5 %)."""
    backend, _, scheme = name.rpartition("-")
    weather = 1.0 + 0.05 * np.sin(np.arange(rounds))
    own = np.random.default_rng(len(name) + int(ms * 1000)).normal(0.0, spread, rounds)
    own -= np.median(own)
    medians = ms * 1e6 * weather * (1.0 + own)
    samples = [[int(middle) - 9, int(middle), int(middle) + 9] for middle in medians]
    metrics = {"latency_ms": float(np.median(medians)) / 1e6, **rest.pop("metrics", {})}
    facts = {"metric": "top1", "flags": [], "warnings": {}, "run": "r", **rest.pop("facts", {})}
    return Measurement(
        name, backend, scheme, "local", "quick", metrics, samples, facts, rest.pop("err", None)
    )


def test_the_fastest_wins_with_its_ratios() -> None:
    rows = [row("ort-int8", 5.0), row("litert-int8", 2.5), row("ort-fp32", 10.0)]
    found = decide(rows, FREE, None)
    assert found.winner == "litert-int8"
    assert found.tie == ()
    assert found.ratios["litert-int8"] == (1.0, 1.0, 1.0)
    ratio, low, high = found.ratios["ort-int8"]
    assert low < ratio < high
    assert ratio == pytest.approx(2.0, rel=0.01)
    said = r"litert-int8 is (2\.0|1\.9)\d× faster than ort-int8 \(95 % 1\.9\d–2\.0\d\)"
    assert re.fullmatch(said, found.reasons[0])
    assert found.rejected == {}
    assert found.pareto == ("litert-int8",)


def test_equals_tie_and_the_smaller_is_sensible() -> None:
    rows = [
        row("ort-fp32", 5.003, metrics={"size_mb": 8.0}),
        row("litert-int8", 5.0, metrics={"size_mb": 2.0}),
        row("ort-int8", 9.0, metrics={"size_mb": 1.0}),
    ]
    found = decide(rows, FREE, None)
    assert found.winner is None
    assert set(found.tie) == {"litert-int8", "ort-fp32"}
    assert found.ratios[found.tie[0]] == (1.0, 1.0, 1.0)
    assert re.match(r"ort-fp32 and litert-int8 are equally fast: .*, within 1 %", found.reasons[0])
    assert not any("longer protocol" in one for one in found.reasons)
    assert found.reasons[1].startswith("litert-int8 is the smallest of the tie (2 MB)")


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((2.0, 2.0, 2.0), "the files of the tie weigh the same (2 MB): any of them will do"),
        ((2.0, 2.0, 3.0), "a-fp32, b-fp32 are the smallest of the tie (2 MB): the sensible picks"),
        ((2.0, 1.5, 3.0), "b-fp32 is the smallest of the tie (1.5 MB): the sensible pick"),
    ],
)
def test_no_file_is_the_smallest_among_its_equals(sizes: tuple[float, ...], said: str) -> None:
    named = zip("abc", (5.0, 5.003, 5.006), sizes, strict=True)
    rows = [row(f"{name}-fp32", ms, metrics={"size_mb": size}) for name, ms, size in named]
    found = decide(rows, FREE, None)
    assert len(found.tie) == 3
    assert said in found.reasons


def test_a_gap_below_the_margin_is_a_tie_however_sure() -> None:
    def exact(name: str, ns: int) -> Measurement:
        one = row(name, 1.0)
        return Measurement(
            **{**one.to_json(), "latency_ns": [[ns]] * 12, "metrics": {"latency_ms": ns / 1e6}}
        )

    assert decide([exact("a-fp32", 10_000), exact("b-fp32", 10_090)], FREE, None).winner is None
    assert decide([exact("a-fp32", 10_000), exact("b-fp32", 10_110)], FREE, None).winner == "a-fp32"


def test_one_noisy_rival_is_enough_for_a_tie() -> None:
    rows = [row("a-fp32", 5.0), row("b-fp32", 5.2, spread=0.2), row("c-fp32", 9.0)]
    found = decide(rows, FREE, None)
    assert found.winner is None
    assert set(found.tie) == {"a-fp32", "b-fp32"}
    assert "cannot be told apart" in found.reasons[0]
    assert "a longer protocol may tell them apart" in found.reasons


def timed(name: str, *medians: float, **rest: Any) -> Measurement:
    """A row of these round medians in nanoseconds."""
    one = row(name, 1.0, **rest)
    latency = {"latency_ms": float(np.median(medians)) / 1e6}
    samples = [[int(ns)] * 3 for ns in medians]
    return replace(one, latency_ns=samples, metrics={**one.metrics, **latency})


def test_the_rounds_say_who_is_fastest_and_not_the_medians() -> None:
    """On a machine of two speeds one file met the slow one more often, and lost no round."""
    weather = np.array([1.0] * 9 + [1.4] * 11) * 1e6
    fast = weather
    slow = np.where(np.arange(20) < 11, 1.0, 1.4) * 1e6 * 1.03
    slow[9:11] = 1.45e6 * 1.03
    slow[11:14] = 1.03e6  # luck in three rounds
    rows = [timed("a-fp32", *slow), timed("b-fp32", *fast)]
    assert rows[0].metrics["latency_ms"] < rows[1].metrics["latency_ms"]
    assert decide(rows, FREE, None).winner == "b-fp32"


def test_rounds_that_a_coarse_clock_made_equal_prove_nothing() -> None:
    """Every inference of 0.745 and 0.755 ms shows as 0.7 and 0.8 on a clock of 0.1 ms steps."""
    coarse = {"timer_resolution_ns": 1e5}
    both = [timed(f"{n}-fp32", *[ms * 1e6] * 20) for n, ms in (("a", 0.7), ("b", 0.8))]
    assert decide(both, FREE, None).winner == "a-fp32"
    found = decide([replace(one, facts={**one.facts, **coarse}) for one in both], FREE, None)
    assert found.tie == ("a-fp32", "b-fp32")
    assert found.ratios["b-fp32"][1] < 0.755 / 0.745 < found.ratios["b-fp32"][2]
    far = timed("b-fp32", *[1.2e6] * 20, facts=coarse)
    assert decide([both[0], far], FREE, None).winner == "a-fp32"


def test_a_smaller_file_that_answers_worse_is_not_called_sensible() -> None:
    def rival(name: str, size: float, top1: float) -> Measurement:
        known = {"top1": top1, "top1_low": top1 - 1.0, "top1_high": top1 + 1.0}
        return row(name, 5.0, metrics={"size_mb": size, **known})

    def said(top1: float) -> str:
        rows = [rival("a-fp32", 4.0, 95.0), rival("b-int8", 1.0, top1)]
        return " ".join(decide(rows, FREE, None).reasons)

    assert "b-int8 is the smallest of the tie (1 MB): the sensible pick" in said(94.5)
    assert "(1 MB), though a-fp32 has a top1 of 95 and b-int8 one of 20" in said(20.0)
    assert "sensible" not in said(20.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_was_not_measured(value: float) -> None:
    known = {"size_mb": 1.0, "top1": 90.0}
    good = row("a-fp32", 5.0, metrics=known)
    for metric, limits, why in (
        ("latency_ms", FREE, "no latency was measured"),
        ("top1", Constraints(), "the drop is unknown"),
    ):
        bad = row("b-fp32", 1.0, metrics={**known, metric: value})
        found = decide([bad, good], limits, "a-fp32")
        assert found.winner == "a-fp32"
        assert why in found.rejected["b-fp32"]
    equals = [row(f"{n}-fp32", 5.0, metrics={"size_mb": value}) for n in "ab"]
    assert not any("nan" in one or "inf" in one for one in decide(equals, FREE, None).reasons)
    timeless = replace(row("b-fp32", 1.0), latency_ns=[[0, 0, 1]] * 9)
    empty = replace(row("c-fp32", 1.0), latency_ns=[[1]] * 9 + [[]])
    found = decide([timeless, empty, good], FREE, None)
    assert found.rejected.keys() == {"b-fp32", "c-fp32"}


def test_an_invalid_row_gives_no_advice_on_time() -> None:
    ill = {"flags": ["emulated"], "warnings": {"emulated": "measure elsewhere"}, "run": "r"}
    rows = [row("ort-fp32", 5.0, facts=ill), row("ort-int8", 9.0, facts=ill)]
    (said,) = decide(rows, FREE, None).reasons
    assert said.startswith("no winner is named")


def test_failures_and_the_baseline_are_out() -> None:
    rows = [
        row("torch-fp32", 1.0),
        row("ort-fp32", 5.0),
        row("litert-int8", 9.0, err="the process was killed by SIGSEGV"),
        Measurement("ort-int8", "ort", "int8"),
    ]
    found = decide(rows, FREE, None)
    assert found.winner == "ort-fp32"
    assert found.rejected == {
        "torch-fp32": "baseline, not a file for the device",
        "litert-int8": "the process was killed by SIGSEGV",
        "ort-int8": "no latency was measured",
    }
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith("ort-fp32 is the only admissible file (5")
    assert found.ratios["torch-fp32"][0] == pytest.approx(0.2, rel=0.02)


LIMITS: list[tuple[Constraints, str]] = [
    (Constraints(None, max_latency_ms=1.5), "latency 2"),
    (Constraints(None, max_size_mb=1.0), "size 3 MB is above the limit of 1 MB"),
    (Constraints(None, max_memory_mb=40.0), "peak memory was not measured"),
]


@pytest.mark.parametrize(("limits", "why"), LIMITS)
def test_a_broken_limit_is_out_with_its_numbers(limits: Constraints, why: str) -> None:
    good = row("ort-fp32", 1.0, metrics={"size_mb": 0.5, "memory_mb": 30.0})
    found = decide([row("ort-int8", 2.0, metrics={"size_mb": 3.0}), good], limits, None)
    assert found.winner == "ort-fp32"
    assert found.rejected["ort-int8"].startswith(why)


def test_a_fast_file_that_lost_accuracy_does_not_win() -> None:
    rows = [
        row("torch-fp32", 20.0, metrics={"top1": 71.0}),
        row("ort-fp32", 10.0, metrics={"top1": 71.0}),
        row("ort-int8", 3.0, metrics={"top1": 68.5}),
    ]
    found = decide(rows, Constraints(max_drop=1.0), "torch-fp32")
    assert found.winner == "ort-fp32"
    assert found.rejected["ort-int8"] == (
        "top1 drops by 2.50 points (71.00 → 68.50), the limit is 1"
    )
    assert decide(rows, Constraints(max_drop=3.0), "torch-fp32").winner == "ort-int8"


def test_nothing_admissible_names_the_closest() -> None:
    rows = [
        row("torch-fp32", 20.0, metrics={"top1": 71.0}),
        row("ort-int8", 3.0, metrics={"top1": 60.0}),
        row("litert-int8", 4.0, metrics={"top1": 69.5}),
    ]
    found = decide(rows, Constraints(max_drop=1.0), "torch-fp32")
    assert found.winner is None
    assert found.tie == found.pareto == ()
    assert found.reasons[0].startswith("nothing is admissible; the closest is litert-int8: top1")
    only = decide(rows[:1], FREE, None)
    assert only.reasons == ["nothing is admissible: no file could be measured"]
    assert decide([], FREE, None).winner is None


@pytest.mark.parametrize("flag", sorted(INVALIDATING))
def test_an_invalid_run_names_no_winner(flag: str) -> None:
    ill = row("ort-fp32", 9.0, facts={"flags": [flag], "warnings": {flag: "let it cool"}})
    found = decide([row("ort-int8", 2.0), ill], FREE, None)
    assert found.winner is None
    assert found.tie == ()
    assert found.reasons[0] == f"no winner is named: ort-fp32 is {flag}: let it cool"
    assert found.ratios["ort-fp32"][0] > 4.0
    cold = Measurement(**{**ill.to_json(), "err": "it died"})
    assert decide([row("ort-int8", 2.0), cold], FREE, None).winner == "ort-int8"


def test_files_of_different_inputs_are_warned_of() -> None:
    def takes(name: str, *shape: int) -> Measurement:
        return row(name, 1.0 + len(name), facts={"inputs": [["float32", list(shape)]]})

    alike = [takes("a-ort", 1, 3, 8, 8), takes("bb-ort", -1, 3, 8, 8), takes("ccc-ort", 1, 8, 8, 3)]
    assert decide(alike, FREE, None).warnings == []
    (said,) = decide([*alike, takes("dddd-ort", 1, 5)], FREE, None).warnings
    assert "do not take the same inputs (numbers in one sample of a-ort: 192; dddd-ort: 5)" in said


def test_what_ails_many_rows_is_said_once() -> None:
    ill = {"flags": ["contended", "throttled"], "warnings": {"throttled": "let it cool"}}
    rows = [row(f"m{at}-fp32", 1.0 + at, facts=ill) for at in range(6)]
    found = decide(rows, FREE, None)
    assert found.reasons[0] == "no winner is named: all 6 rows are throttled: let it cool"
    assert sum("throttled" in one for one in found.reasons) == 1
    well = row("m9-fp32", 9.0)
    said = decide([*rows, well], FREE, None)
    assert said.reasons[0].startswith(
        "no winner is named: m0-fp32, m1-fp32, m2-fp32 and 3 more are throttled"
    )
    assert said.warnings[0].startswith("contended (m0-fp32, m1-fp32, m2-fp32 and 3 more)")
    short = [row(f"m{at}-fp32", 1.0 + at, rounds=4) for at in range(2)]
    assert "m0-fp32, m1-fp32 have 4 rounds" in decide(short, FREE, None).reasons[0]


def test_a_warning_is_passed_on_and_decides_nothing() -> None:
    facts = {"flags": ["contended"], "warnings": {"contended": "stop other work"}, "arch": "x86_64"}
    found = decide([row("a-fp32", 1.0, facts=facts), row("b-fp32", 2.0, facts=facts)], FREE, None)
    assert found.winner == "a-fp32"
    assert found.warnings[0] == "contended (a-fp32, b-fp32): stop other work"
    assert "x86" in found.warnings[1]
    arm = {**facts, "arch": "aarch64", "flags": []}
    assert decide([row("a-fp32", 1.0, facts=arm)], FREE, None).warnings == []


def test_rows_that_were_not_run_in_turns_are_not_compared() -> None:
    found = decide([row("a-fp32", 1.0), row("b-fp32", 9.0, facts={"run": "other"})], FREE, None)
    assert found.winner is None
    assert "in turns" in found.reasons[0]
    assert found.ratios.keys() == {"a-fp32"}


def test_four_rounds_name_nobody() -> None:
    found = decide([row("a-fp32", 1.0, rounds=4), row("b-fp32", 9.0, rounds=4)], FREE, None)
    assert found.winner is None
    assert "4 rounds" in found.reasons[0]
    assert found.ratios.keys() == {"a-fp32"}


def test_integers_that_do_not_pay_are_named() -> None:
    rows = [
        row("ort-int8", 6.0),
        row("ort-fp32", 3.0),
        row("litert-fp32", 2.0),
        row("litert-int8", 2.0),
    ]
    found = decide(rows, FREE, None)
    said = [reason for reason in found.reasons if "integers do not pay" in reason]
    assert len(said) == 1
    assert re.match(r"ort-int8 is (2\.0|1\.9)\d× slower than ort-fp32 \(95 % ", said[0])
    other = row("ort-int8", 6.0, facts={"group": "pruned"})
    assert not [r for r in decide([other, *rows[1:]], FREE, None).reasons if "integers" in r]


def test_the_pareto_set_keeps_every_trade() -> None:
    def entry(name: str, ms: float, top1: float, size: float) -> Measurement:
        return row(name, ms, metrics={"top1": top1, "size_mb": size})

    rows = [
        entry("fast-fp32", 1.0, 60.0, 9.0),
        entry("good-fp32", 9.0, 80.0, 9.0),
        entry("small-fp32", 5.0, 60.0, 1.0),
        entry("bad-fp32", 9.5, 59.0, 9.5),
    ]
    assert decide(rows, FREE, None).pareto == ("fast-fp32", "small-fp32", "good-fp32")


def test_rows_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="share an id"):
        decide([row("a-fp32", 1.0), row("a-fp32", 2.0)], FREE, None)
    phone = Measurement(**{**row("b-fp32", 1.0).to_json(), "device": "pixel"})
    with pytest.raises(ConfigError, match="several devices"):
        decide([row("a-fp32", 1.0), phone], FREE, None)


ROWS: list[Callable[[float], Measurement]] = [
    lambda ms: row("ort-fp32", ms, metrics={"top1": 70.0, "size_mb": 4.0}),
    lambda ms: row("ort-int8", ms, metrics={"top1": 69.0, "size_mb": 1.0}),
    lambda ms: row("litert-fp32", ms, metrics={"top1": 70.0, "size_mb": 4.0}),
    lambda ms: row("litert-int8", ms, err="it crashed"),
    lambda ms: row("torch-fp32", ms, metrics={"top1": 70.0}),
]


@settings(max_examples=25, deadline=None)
@given(
    times=st.lists(st.floats(0.5, 50.0), min_size=5, max_size=5),
    order=st.permutations(range(5)),
    drop=st.sampled_from([None, 0.5, 2.0]),
)
def test_what_holds_of_every_verdict(
    times: list[float], order: list[int], drop: float | None
) -> None:
    rows = [make(ms) for make, ms in zip(ROWS, times, strict=True)]
    found = decide(rows, Constraints(max_drop=drop), "torch-fp32")
    again = decide([rows[at] for at in order], Constraints(max_drop=drop), "torch-fp32")
    assert (again.winner, set(again.tie)) == (found.winner, set(found.tie))
    named = {found.winner} - {None} | set(found.tie)
    assert named
    assert not named & found.rejected.keys()
    assert (found.winner is None) == (len(found.tie) >= 2)
    assert "torch-fp32" in found.rejected
    assert (found.winner or found.tie[0]) in found.pareto
    assert Verdict.from_json(json.loads(json.dumps(found.to_json()))) == found


def blocks(name: str, first: float, last: float, **facts: Any) -> Measurement:
    """A row that ran on its own: at one speed for half of the time, then at another."""
    early, late = row(name, first, 10), row(name, last, 10)
    sustained = {
        "first_minute_ms": first, "last_minute_ms": last, "kept": 100 * first / last,
        "onset_s": 34.0 if last > first else None,
    }  # fmt: skip
    known = {**early.facts, "order": "blocks", "sustained": sustained, **facts}
    # As long as ten minutes are: every round holds the samples of thirty seconds.
    rounds = [[ns for ns in one for _ in range(10_000)] for one in early.latency_ns]
    return replace(early, latency_ns=[*rounds, *late.latency_ns], facts=known)


def test_the_sustained_winner_is_the_one_that_is_fast_when_warm() -> None:
    rows = [blocks("ort-int8", 4.0, 8.0), blocks("litert-int8", 5.0, 5.0)]
    found = decide(rows, FREE, None)
    assert found.winner == "litert-int8"
    assert found.ratios["ort-int8"][0] == pytest.approx(1.6, rel=0.02)
    said = " ".join(found.reasons)
    assert "the fastest of the first minute (ort-int8) is not the fastest of the last" in said
    assert "ort-int8 keeps 50 % of its first minute's speed, from second 34 on" in said


def test_the_winner_when_warm_is_in_the_pareto_set_and_held_to_the_limit_when_warm() -> None:
    rows = [blocks("ort-int8", 4.0, 8.0), blocks("litert-int8", 5.0, 5.0)]
    found = decide(rows, Constraints(None, max_latency_ms=6.0), None)
    assert found.winner == "litert-int8"
    assert found.pareto == ("litert-int8",)
    assert found.rejected["ort-int8"].startswith("latency when warm 8.")


@pytest.mark.parametrize(
    ("first", "last", "facts", "said"),
    [
        ((4.0, 4.02), (8.02, 8.0), {}, False),
        ((4.0, 4.2), (8.4, 8.0), {"anchor_spread": 0.06}, False),
        ((4.0, 4.2), (8.4, 8.0), {}, True),
        ((4.0, 4.001), (8.4, 8.0), {}, False),
    ],
)
def test_a_change_of_order_within_what_is_equal_is_none(
    first: tuple[float, float], last: tuple[float, float], facts: dict[str, Any], said: bool
) -> None:
    rows = [
        blocks(f"{name}-int8", *speeds, **facts)
        for name, *speeds in zip("ab", first, last, strict=True)
    ]
    reasons = decide(rows, FREE, None).reasons
    assert any("is not the fastest of the last" in one for one in reasons) is said


def test_a_change_of_order_is_said_of_files_that_may_be_shipped() -> None:
    rows = [
        blocks("torch-fp32", 4.0, 9.0),
        blocks("ort-int8", 5.0, 5.0),
        blocks("litert-int8", 6.0, 6.0),
    ]
    found = decide(rows, FREE, None)
    assert found.winner == "ort-int8"
    assert not any("is not the fastest" in one for one in found.reasons)


def test_the_advice_of_heat_does_not_contradict_the_winner() -> None:
    """Stalls count in the last minute, and the medians decide."""
    quick, stalls = blocks("a-int8", 4.0, 4.0), {"first_minute_ms": 4.0, "last_minute_ms": 9.0}
    known = {**quick.facts["sustained"], **stalls}
    rows = [
        replace(quick, facts={**quick.facts, "sustained": known}),
        blocks("b-int8", 5.0, 5.0),
    ]
    found = decide(rows, FREE, None)
    assert found.winner == "a-int8"
    (said,) = [one for one in found.reasons if "is not the fastest of the last" in one]
    assert "ship" not in said
    assert "medians of the second half" in said


def test_a_short_run_is_not_told_in_minutes() -> None:
    one = blocks("ort-int8", 4.0, 8.0)
    short = replace(one, latency_ns=[each[:3] for each in one.latency_ns])
    assert "of its first minute's speed" in " ".join(decide([one], FREE, None).reasons)
    assert "of its first half's speed" in " ".join(decide([short], FREE, None).reasons)


def test_too_few_warm_rounds_name_nobody_and_no_tie() -> None:
    rows = [blocks("ort-int8", 8.0, 8.0), blocks("litert-int8", 5.0, 5.0)]
    short = [replace(one, latency_ns=one.latency_ns[:8]) for one in rows]
    found = decide(short, FREE, None)
    assert (found.winner, found.tie) == (None, ())
    said = "litert-int8, ort-int8 have 4 warm rounds, too few for an interval: measure 10 or more"
    assert said in found.reasons[0]
    enough = [replace(one, latency_ns=one.latency_ns[:10]) for one in rows]
    assert decide(enough, FREE, None).winner == "litert-int8"


def test_a_difference_within_the_machines_drift_is_a_tie() -> None:
    slow, fast = blocks("ort-int8", 5.2, 5.2), blocks("litert-int8", 5.0, 5.0)
    assert decide([slow, fast], FREE, None).winner == "litert-int8"
    drifted = [replace(one, facts={**one.facts, "anchor_spread": 0.06}) for one in (slow, fast)]
    assert decide(drifted, FREE, None).tie == ("litert-int8", "ort-int8")


def test_a_small_loss_on_few_samples_is_not_distinguishable() -> None:
    hits, lossy = "1" * 450 + "0" * 50, "0" * 8 + "1" * 446 + "0" * 46
    drop = paired_drop(hits, lossy)
    assert drop["drop"] == pytest.approx(0.8)
    assert drop["mcnemar_p"] == binomtest(8, 12).pvalue
    count = {"n_eval": 500}
    best = row("torch-fp32", 9.0, metrics={"top1": 90.0}, facts=count)
    own = row("ort-int8", 5.0, metrics={"top1": 89.2, **drop}, facts=count)
    clear = replace(own, metrics={**own.metrics, "mcnemar_p": 0.001})
    said = "loses 0.80 points of top1 on 500 samples, which is not distinguishable from none"
    assert said in " ".join(decide([best, own], FREE, "torch-fp32").reasons)
    assert said not in " ".join(decide([best, clear], FREE, "torch-fp32").reasons)
    assert paired_drop(hits, hits)["mcnemar_p"] == 1.0


def test_every_file_has_a_best_setting() -> None:
    rows = [
        row(f"ort-int8@{threads}t", ms, facts={"setting": {"threads": threads}, "base": "ort-int8"})
        for threads, ms in ((1, 9.0), (2, 5.0), (4, 6.0))
    ]
    rows = [replace(one, backend="ort", scheme="int8") for one in rows]
    said = " ".join(decide(rows, FREE, None).reasons)
    assert "best setting of ort: ort-int8 is fastest with 2t (5.01 ms)" in said
    assert "apart" not in said
    found = decide([*rows, replace(rows[1], candidate="ort-int8@3t")], FREE, None)
    assert "is fastest with 2t (5.01 ms); 3t cannot be told apart from it" in " ".join(
        found.reasons
    )


def test_the_best_setting_is_of_a_file_that_may_be_shipped() -> None:
    def tried(scheme: str, threads: int, ms: float, top1: float) -> Measurement:
        base = f"ort-{scheme}"
        facts = {"setting": {"threads": threads}, "base": base}
        one = row(f"{base}@{threads}t", ms, metrics={"top1": top1}, facts=facts)
        return replace(one, backend="ort", scheme=scheme)

    rows = [
        row("torch-fp32", 20.0, metrics={"top1": 90.0}),
        *(tried("int8", at, 4.0 / at, 50.0) for at in (1, 2)),
        *(tried("fp32", at, 9.0 / at, 90.0) for at in (1, 2)),
    ]
    found = decide(rows, Constraints(), "torch-fp32")
    assert found.winner == "ort-fp32@2t"
    (said,) = [one for one in found.reasons if one.startswith("best setting")]
    assert "ort-fp32 is fastest with 2t" in said


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"isa": "arm64", "arch": "x86_64"}, "use U8S8"),
        ({"unfused_qdq": 24, "float_ops": {"Conv": 24}}, r"24 dequantizations .* \(24 Conv"),
        ({"partitions": 3}, "in 3 pieces"),
        ({"isa": "x86", "cpu_flags": ["avx2"]}, "no VNNI"),
        ({"isa": "x86"}, "bench.profile=true"),
        ({}, "bench.profile=true"),
    ],
)
def test_why_integers_are_slow_is_said_with_what_to_change(facts: dict[str, Any], why: str) -> None:
    rows = [row("ort-fp32", 5.0), row("ort-int8", 9.0, facts=facts)]
    assert re.search(why, " ".join(decide(rows, FREE, None).reasons))


VNNI = {"arch": "x86_64", "cpu_flags": ["avx2", "avx512_vnni"]}
NO_VNNI = {"arch": "x86_64", "cpu_flags": ["avx2"]}
PHONE = {"arch": "aarch64", "cpu_flags": ["asimd", "asimddp"]}
SIGNED = {"saturating_layers": 3, "exact_on": ["x86-vnni", "arm64-dotprod", "arm64"]}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({**SIGNED, "isa": "x86-vnni", **NO_VNNI}, ["3 layers can saturate on this", "made for"]),
        ({**SIGNED, "isa": "x86-vnni", **VNNI}, ["hold on x86 with VNNI, arm64 with dot"]),
        ({**SIGNED, "isa": "arm64", **VNNI}, ["hold on x86 with VNNI", "made for arm64"]),
        ({**SIGNED, "isa": "arm64", **PHONE}, ["hold on x86 with VNNI"]),
        ({"saturating_layers": 0, "isa": "portable", **NO_VNNI}, []),
        ({"saturating_layers": 0, "isa": "x86", **NO_VNNI}, []),
        ({**SIGNED}, []),
    ],
)
def test_a_file_whose_outputs_depend_on_the_processor(
    facts: dict[str, Any], words: list[str]
) -> None:
    warnings = decide([row("ort-int8", 5.0, facts=facts)], FREE, None).warnings
    about = [warning for warning in warnings if "ort-int8: " in warning]
    assert len(about) == len(words)
    for warning, word in zip(about, words, strict=True):
        assert word in warning
        assert ("isa=portable" in warning) is ("made for" not in warning)


def test_energy_is_an_aim_where_all_have_it() -> None:
    rows = [
        row("ort-fp32", 5.0, metrics={"energy_mj": 10.0}),
        row("litert-fp32", 8.0, metrics={"energy_mj": 4.0}),
    ]
    assert set(decide(rows, FREE, None).pareto) == {"ort-fp32", "litert-fp32"}
