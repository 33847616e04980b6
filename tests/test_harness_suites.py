"""The suites that hold the harness to its promises: their nets, their arithmetic, their goals."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks import coverage, equals, frame, nets, overhead, page, planted, steps, truth, turns
from torchopt2edge.bench.child_session import Round, open_child
from torchopt2edge.devices.local import Local
from torchopt2edge.types import Measurement

SUITES = ("coverage", "equals", "overhead", "page", "planted", "steps", "truth", "turns")


@pytest.mark.parametrize("suite", SUITES)
def test_help_says_what_a_suite_does(suite: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{suite}", "--help"],
        cwd=frame.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"make bench SUITE={suite}" in done.stdout
    assert "--quick" in done.stdout
    assert "--out" in done.stdout


def answer(tower: nets.Tower, backend: str, folder: Path) -> np.ndarray[Any, Any]:
    """What a tower gives for the sample."""
    candidate = tower.save("tower", backend, folder)
    with open_child(candidate, Local(), folder / "log") as session:
        return session(nets.sample())["mean"]


def test_a_tower_is_the_same_net_in_both_runtimes(tmp_path: Path) -> None:
    tower = nets.Tower(16, 5)
    ort, litert = (answer(tower, backend, tmp_path) for backend in ("ort", "litert"))
    np.testing.assert_allclose(ort, litert, rtol=1e-4, atol=1e-5)
    assert np.ptp(ort) > 0.01


def test_a_planted_delay_changes_no_answer(tmp_path: Path) -> None:
    tower = nets.Tower(16, 2)
    later = answer(replace(tower, extra=4096), "ort", tmp_path)
    np.testing.assert_array_equal(answer(tower, "ort", tmp_path), later)


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler: apt-get install gcc")
@pytest.mark.parametrize("backend", truth.BACKENDS)
def test_the_bare_loop_runs_and_leaves_nothing_behind(backend: str, tmp_path: Path) -> None:
    candidate = nets.Tower(16, 2).save("tower", backend, tmp_path)
    with truth.bare(truth.compiled(tmp_path), candidate, Local()) as side:
        assert len(side(7, 0.0)) == 7
        long = side(1, 0.05)
    assert 0.03e9 < sum(long) < 0.5e9
    assert psutil.Process().children() == []


def test_a_runner_is_held_against_the_bare_loop_in_both_directions() -> None:
    bare = [[1_000_000] * 3] * 6
    rounds = {"bare": bare, "native": [[985_000] * 3] * 6, "python": [[1_015_000] * 3] * 6}
    goals = truth.goals(truth.Found("ort", 1.0, rounds))
    assert [goal.found for goal in goals] == [pytest.approx(1.5), pytest.approx(1.5)]
    assert [goal.holds for goal in goals] == [False, True]
    short = truth.goals(truth.Found("ort", 0.2, rounds))
    assert [goal.limit for goal in short] == [5.0, 5.0]
    assert all(goal.holds for goal in short)


def test_an_interval_across_the_bare_loop_begins_at_nothing() -> None:
    native = [[at * 1000] for at in (990, 995, 1000, 1004, 1008, 1012)]
    rounds = {"bare": [[1_000_000]] * 6, "native": native, "python": native}
    goal = truth.goals(truth.Found("ort", 10.0, rounds))[0]
    assert goal.low == 0.0
    assert goal.high == pytest.approx(1.2, abs=0.3)


def one_round(ms: float, seconds: float = 0.5) -> Round:
    """A round of equal inferences that fill so many seconds."""
    count = round(seconds * 1e3 / ms)
    return Round([round(ms * 1e6)] * count, round(seconds * 1e9), 0, 0, True, True, 1)


def trial(speeds: Sequence[float], step_s: float) -> steps.Trial:
    """A trial whose rounds last half a second each."""
    rounds = [one_round(ms) for ms in speeds]
    return steps.Trial("load", step_s, rounds, [0.5 * (at + 1) for at in range(len(speeds))])


def test_a_step_is_reported_within_ten_seconds() -> None:
    made = trial([1.0] * 40 + [1.43] * 20, 20.0)
    assert made.delay_s is not None
    assert 5.0 < made.delay_s <= 9.0
    assert made.kept == pytest.approx(0.7, abs=0.01)
    assert all(goal.holds for goal in steps.goals([made], None))


def test_a_missed_step_and_a_false_alarm_do_not_pass() -> None:
    missed = trial([1.0] * 60, 20.0)
    early = trial([1.0] * 20 + [1.43] * 40, 20.0)
    assert (missed.delay_s, missed.false_alarm) == (None, False)
    assert (early.delay_s, early.false_alarm) == (None, True)
    goals = steps.goals([missed, early], replace(early, step_s=600.0))
    assert [goal.holds for goal in goals] == [False, False, False, False]


def test_a_neighbour_takes_about_its_share_and_ends() -> None:
    core = min(Local().facts()["device_affinity"] or psutil.Process().cpu_affinity())
    with steps.neighbour(core, (0.3, 0.3)):
        (child,) = psutil.Process().children()
        time.sleep(0.5)
        before = child.cpu_times().user + child.cpu_times().system
        time.sleep(1.5)
        taken = child.cpu_times().user + child.cpu_times().system - before
    assert 0.1 < taken / 1.5 < 0.5
    assert psutil.Process().children() == []


def compared(winner: str | None, low: float = 0.99, high: float = 1.01) -> equals.Compared:
    """A comparison made by hand."""
    return equals.Compared(winner, ((low + high) / 2, low, high))


def test_shares_have_exact_intervals() -> None:
    percent, low, high = equals.share(0, 100)
    assert (percent, low) == (0.0, 0.0)
    assert high == pytest.approx(3.62, abs=0.01)  # 1 - 0.025 ** (1 / 100)


def test_false_winners_are_counted_and_invalid_runs_do_not_hide_them() -> None:
    found = [compared(None)] * 94 + [compared("one", 1.02, 1.04)] * 6
    assert [goal.holds for goal in equals.goals(found)] == [False, True]
    throttled = replace(compared(None), flags=("throttled",))
    assert throttled.outcome == "invalid"
    assert [goal.holds for goal in equals.goals([throttled] * 100)] == [True, False]


def test_what_came_of_the_comparisons_is_counted() -> None:
    found = [compared("one", 1.02, 1.04), compared(None), replace(compared(None), err="it died")]
    counts = {row["what"]: row["count"] for row in equals.rows(found)}
    assert counts == {"winner": 1, "tie": 1, "failed": 1, "interval without 1": 1}


def test_a_delay_is_read_off_the_line() -> None:
    found = planted.crossing([10.0, 20.0, 30.0], [0.015, 0.025, 0.035], 0.03)
    assert found == pytest.approx(25.0)


def test_naming_the_later_file_is_not_finding_the_delay() -> None:
    found = [compared(planted.PLAIN, 1.02, 1.04)] * 38 + [compared(planted.LATER)] * 2
    goals = planted.goals(found, compared(None, 1.025, 1.035), 12.0)
    assert [goal.holds for goal in goals] == [True, True, True]
    worse = planted.goals(found[2:] + found[-1:], compared(None, 1.04, 1.05), 70.0)
    assert [goal.holds for goal in worse] == [False, False, False]


def test_turns_are_narrower_under_a_drift() -> None:
    rng = np.random.default_rng(0)
    noise = [float(one) for one in 1e6 * rng.normal(1.0, 0.001, 200)]
    found = turns.simulated(noise, 40, 20)
    goal = turns.goal(found, "a drift")
    assert goal.holds
    lines = {row["order"]: row for row in turns.rows(found, "a drift")}
    assert lines[turns.WAYS[0]]["hold 1, %"] > 80.0
    assert lines[turns.WAYS[1]]["hold 1, %"] < 20.0


def test_unpaired_medians_have_the_wider_interval() -> None:
    below = [1.0, 1.01, 1.02, 1.03, 1.04, 1.05]
    above = [1.1 * one for one in below]
    middle, low, high = turns.unpaired(above, below)
    assert middle == pytest.approx(1.1)
    assert low < 1.1 < high
    assert high / low > 1.02


def test_the_worst_coverage_in_the_promised_weather_counts() -> None:
    ends = {"from – to": (90.0, 96.0)}
    rows = [
        {"interval": "a", "weather": "heavy", "rounds": 5, "held %": 92.0, **ends},
        {"interval": "a", "weather": "heavy", "rounds": 8, "held %": 95.0, **ends},
        {"interval": "a", "weather": "busy", "rounds": 5, "held %": 50.0, **ends},
    ]
    (goal,) = coverage.goals(rows)
    assert (goal.found, goal.holds) == (92.0, False)


def test_simulated_intervals_hold_their_truth_mostly() -> None:
    simulate = lambda rng, rounds: coverage.ratio_of(0.0, rng, rounds)  # noqa: E731
    row = coverage.tried(coverage.Statistic("r", "heavy", simulate, coverage.RATIO), 8, 40)
    assert row["held %"] >= 80.0
    wrong = coverage.tried(coverage.Statistic("r", "heavy", simulate, 2.0), 8, 5)
    assert wrong["held %"] == 0.0


def test_the_seconds_of_a_call_are_accounted_for() -> None:
    clock = overhead.Clock((100.0, 10.0))
    clock.marks = [
        (101.0, 10.1, "opening a"),
        (104.0, 10.2, "round 1: a"),
        (105.0, 10.21, "round 2: a"),
        (114.0, 10.25, "timed"),
    ]
    row = Measurement("a", "ort", "fp32", latency_ns=[[4 * 10**9], [6 * 10**9]])
    row = replace(row, facts={"warmup_s": 1.0})
    taken = overhead.accounted(clock, (115.0, 11.0), [row])
    assert (taken.starts, taken.invoked) == (3.0, 10.0)
    assert taken.time_ratio == pytest.approx(15 / 13)
    assert taken.cpu_percent == pytest.approx(0.5)
    assert taken.whole_percent == pytest.approx(100 / 15)
    assert [goal.holds for goal in overhead.goals(taken, taken)] == [True, False, True]


def test_the_made_up_run_has_all_that_a_page_shows() -> None:
    from torchopt2edge.report.html.run import render
    from torchopt2edge.report.run_report import RunReport

    rows, verdict = page.made(2000)
    assert [row.candidate for row in rows] == list(page.NAMES)
    assert all(sum(map(len, row.latency_ns)) == 2000 for row in rows)
    assert verdict.winner == page.NAMES[0]
    assert render(RunReport.of(rows, verdict, page.context())).count('role="img"') >= 9


def test_a_page_that_complains_does_not_pass() -> None:
    goals = page.goals(3.5, {"desktop": [0.5, 0.6, 2.4]}, 1)
    assert [goal.verdict for goal in goals] == ["missed", "holds, narrowly", "missed"]
