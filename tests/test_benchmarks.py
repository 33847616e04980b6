"""The benchmark suites: their goals, their records, and that each of them starts."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cifar, compare, convert, digits, frame, imports, nets, resume, zoo
from benchmarks.watch import Watch
from torchopt2edge.types import Measurement

SUITES = (
    *(
        "calibrate",
        "cifar",
        "collapse",
        "compare",
        "convert",
        "coverage",
        "digits",
        "distill",
        "encoding",
        "imports",
        "isa",
        "once",
        "photos",
        "pruning",
        "qat",
        "remote",
    ),
    *("equals", "overhead", "page", "planted", "steps", "truth", "turns"),
    *("resume", "sparsity", "techniques", "training", "transformer", "zoo"),
)
MACHINE = {"cpu": "Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "cores": 2}


def record(**changes: Any) -> frame.Record:
    """A record made by hand."""
    fields: dict[str, Any] = {
        "suite": "hand",
        "when": "2026-11-22 12:00:00 +0000",
        "seconds": 1.5,
        "settings": {"repeats": 3},
        "machine": MACHINE,
        "versions": {"python": "3.11.7"},
        "results": [{"model": "net", "s": 1.0}],
        "goals": [frame.Goal("fast", 2.0, 1.0, "s", low=0.5, high=1.5)],
        "raw": {"seconds": [0.5, 1.0, 1.5]},
    }
    return frame.Record(**{**fields, **changes})


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
    assert "--out" in done.stdout


def test_every_module_that_runs_is_a_known_suite() -> None:
    files = Path(frame.__file__).parent.glob("*.py")
    tools = {"without_vnni"}  # runs a command; measures nothing itself
    assert {f.stem for f in files if "__main__" in f.read_text()} == set(SUITES) | tools


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        (frame.Goal("", 2.0, 2.0), "holds"),
        (frame.Goal("", 2.0, 2.1), "missed"),
        (frame.Goal("", 2.0, 2.0, at_least=True), "holds"),
        (frame.Goal("", 2.0, 1.9, at_least=True), "missed"),
        (frame.Goal("", 2.0, 1.0, low=0.5, high=1.5), "holds"),
        (frame.Goal("", 2.0, 1.9, low=1.8, high=2.1), "holds, narrowly"),
        (frame.Goal("", 2.0, 2.1, low=1.9, high=2.2), "missed, narrowly"),
        (frame.Goal("", 2.0, None), "not measured"),
        (frame.Goal("", 2.0, math.nan), "missed"),
    ],
)
def test_a_goal_says_how_it_went(goal: frame.Goal, verdict: str) -> None:
    assert goal.verdict == verdict
    assert goal.holds is verdict.startswith("holds")


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = record()
    assert frame.load(frame.save(made, tmp_path / "deep" / "hand.json")) == made


@pytest.mark.parametrize(("found", "passed"), [(1.0, True), (3.0, False), (None, False)])
def test_a_record_passes_when_every_goal_holds(found: float | None, passed: bool) -> None:
    made = record(goals=[frame.Goal("one", 1.0, 1.0), frame.Goal("two", 2.0, found)])
    assert made.to_json()["passed"] is passed


def test_a_record_names_no_folder_and_is_strict_json(tmp_path: Path) -> None:
    raw = {"err": "no file (/home/me/store/ab/model.onnx): try", "ratio": math.inf, "n": (1, 2)}
    text = frame.save(record(raw=raw), tmp_path / "hand.json").read_text()
    kept = json.loads(text)["raw"]
    assert kept == {"err": "no file (…/model.onnx): try", "ratio": None, "n": [1, 2]}
    assert "/home" not in text
    assert "Infinity" not in text


@pytest.mark.parametrize("text", ["top-1 / fp32", "a/b", "3.1 dB/s", "https://example.org/a/b"])
def test_what_is_no_path_stays(text: str) -> None:
    assert frame.scrub(text) == text


def test_a_large_record_keeps_a_median_per_round(tmp_path: Path) -> None:
    rounds = [[1000 + n for n in range(20_001)], [3000] * 20_000]
    file = frame.save(record(raw={"rows": [{"latency_ns": rounds}]}), tmp_path / "hand.json")
    assert file.stat().st_size < frame.RAW_LIMIT
    (row,) = frame.load(file).raw["rows"]
    assert row == {"round_median_ns": [11_000, 3000], "round_samples": [20_001, 20_000]}


def test_the_machines_folder_has_a_plain_name() -> None:
    assert frame.slug(MACHINE) == "intel-xeon-e5-2680-v4-2-cores"


def test_steps_are_read_from_a_runs_log() -> None:
    log = (
        "2026-11-22 13:36:48,071 INFO student-litert-base: 5.8 s\n"
        "2026-11-22 13:36:48,071 INFO student-litert-fp32 …\n"
        "2026-11-22 13:37:29,016 INFO measure 10 candidates in turns: 16.3 s\n"
    )
    assert frame.steps(log) == {"student-litert-base": 5.8, "measure 10 candidates in turns": 16.3}


def test_a_second_run_is_held_against_its_time_without_measuring() -> None:
    first = resume.Taken(100.0, {"teacher": 40.0, "measure 10 candidates in turns": 20.0})
    second = resume.Taken(30.0, {"teacher": 0.0, "measure 10 candidates in turns": 20.0})
    (goal,) = resume.goals(first, second, "smoke")
    assert (goal.found, goal.holds) == (10.0, True)
    demo = resume.goals(first, second, "quick")[1]
    assert (demo.found, demo.limit) == (100.0, 300.0)


def test_a_fast_compare_that_lost_its_files_does_not_pass() -> None:
    whole = compare.goals(80.0, {"main": 900.0, "converter": 1400.0}, 4)
    assert [goal.holds for goal in whole] == [True, True, True]
    assert whole[2].found == 1400.0
    assert not all(goal.holds for goal in compare.goals(50.0, {"main": 900.0}, 2))


def test_conversions_are_held_against_the_command() -> None:
    found = {
        "model": "mobilenet_v2",
        "seconds": [6.0, 7.0, 9.0],
        "command_seconds": 49.0,
        "parity_db": 104.0,
    }
    goals = {goal.what: goal for goal in convert.goals(found)}
    ratio = goals["mobilenet_v2: faster than the onnx2tf command"]
    assert ratio.found == 7.0
    assert (ratio.low, ratio.high) == (pytest.approx(49 / 9), pytest.approx(49 / 6))
    assert goals["mobilenet_v2: seconds"].found == 7.0
    assert all(goal.holds for goal in goals.values())
    assert not all(goal.holds for goal in convert.goals({**found, "parity_db": 40.0}))
    assert len(convert.goals({**found, "model": "squeezenet1_1"})) == 1


def test_importing_is_the_paired_difference() -> None:
    bare = [0.05, 0.06, 0.07, 0.05, 0.06]
    goal = imports.goal(bare, [second + 0.02 for second in bare])
    assert goal.found == pytest.approx(0.02)
    assert goal.holds
    assert not imports.goal(bare, [second + 0.4 for second in bare]).holds


def test_cifar_scores_are_held_against_the_published_ones() -> None:
    top1 = {"torch-fp32": 91.73, "ort-fp32": 91.78, "litert-fp32": 91.67, "ort-int8": 91.2}
    verdicts = {goal.what: goal.verdict for goal in cifar.goals("resnet20", top1, 98.9)}
    assert verdicts == {
        "torch-fp32: points off the published 91.73": "holds",
        "ort-fp32: points off the published 91.73": "holds",
        "litert-fp32: points off the published 91.73": "missed",
        "ort-int8: top-1": "holds",
        "ort-int8: lost against PyTorch": "missed",
        "litert-int8: top-1": "not measured",
        "litert-int8: lost against PyTorch": "not measured",
        "int8, ORT = LiteRT": "missed",
    }


def row(name: str, correct: str = "", **facts: Any) -> Measurement:
    """A measured row of the digits demo, made by hand."""
    group, backend, scheme = name.split("-")
    size = 0.3 if scheme == "int8" else 1.0
    hits = 100.0 * correct.count("1") / max(1, len(correct))
    rounds = [[500, 500] if scheme == "int8" else [1000, 1000] for _ in range(6)]
    known = {"group": group, "macs": 100 if group == "student" else 50, "correct": correct}
    return Measurement(
        name,
        backend,
        scheme,
        metrics={"top1": hits, "size_mb": size},
        latency_ns=rounds,
        facts={**known, **facts},
    )


def demo() -> dict[str, Measurement]:
    """The rows of a demo where int8 loses one image of two hundred, pruning two."""
    hits = {
        "student-fp32": "1" * 200,
        "student-int8": "1" * 199 + "0",
        "pruned-fp32": "1" * 198 + "00",
        "pruned-int8": "1" * 197 + "000",
    }
    found = [row("student-torch-fp32", hits["student-fp32"])]
    for key, correct in hits.items():
        group, scheme = key.split("-")
        found += [row(f"{group}-{runtime}-{scheme}", correct) for runtime in ("ort", "litert")]
    return {one.candidate: one for one in found}


def test_the_demos_promises_are_computed_from_its_rows() -> None:
    goals = digits.goals("run", list(demo().values()))
    assert [goal.found for goal in goals] == [0.5, 0.3, 0.5, 1.0]
    assert all(goal.holds for goal in goals)
    fast = {pair["model"]: pair["int8 faster"] for pair in digits.pairs(list(demo().values()))}
    assert fast == dict.fromkeys(fast, 2.0)


def test_one_bad_file_of_the_demo_is_enough() -> None:
    rows = demo() | {"pruned-ort-int8": row("pruned-ort-int8", "1" * 150 + "0" * 50)}
    found = {goal.what: goal.holds for goal in digits.goals("run", list(rows.values()))}
    assert found["run: int8 below fp32, worst file"] is False
    rows = demo()
    del rows["student-litert-int8"]
    verdicts = [goal.verdict for goal in digits.goals("run", list(rows.values()))]
    assert verdicts[:2] == ["not measured", "not measured"]


def test_the_zoo_wants_every_candidate_or_its_reason() -> None:
    rows = [Measurement(name, *name.split("-"), err="no kernel") for name in zoo.CANDIDATES]
    assert [goal.holds for goal in zoo.goals("net", rows)] == [True]
    assert [goal.holds for goal in zoo.goals("net", rows[:3])] == [False]
    line = zoo.table({"model": "net", "rows": rows, "steps": {"litert-base": 5.0}})
    assert (line["ort-int8 ms"], line["ort int8 ×"], line["wait s"]) == ("err", None, 5.0)


def test_a_row_is_kept_without_its_folders() -> None:
    kept = frame.slim(row("student-ort-int8", "1", file="/home/me/x.onnx", threads=1))
    assert kept["facts"]["threads"] == 1
    assert "file" not in kept["facts"]
    assert kept["latency_ns"]


def test_the_tables_show_goals_and_leave_empty_columns_out() -> None:
    from io import StringIO

    from rich.console import Console

    text = StringIO()
    rows = [{"model": "net [/a/b]", "s": 1.23456, "err": None}]
    frame.show(Console(file=text, width=120), record(results=rows))
    shown = text.getvalue()
    assert "net [/a/b]" in shown
    assert "1.235" in shown
    assert "err" not in shown
    assert "0.5 – 1.5" in shown


def test_the_watch_sees_what_a_grandchild_took() -> None:
    # A shell between us and it; it lives on after the memory was given back, until we let it go.
    greedy = "x = bytearray(150_000_000); del x; print('.', flush=True); input()"
    command = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, greedy]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        with Watch(child.pid) as watch:
            child.stdout.readline()
            deadline = time.monotonic() + 8
            while time.monotonic() < deadline and max(watch.peaks_mb.values(), default=0) < 150:
                time.sleep(0.05)
        child.communicate(b"\n")
        assert 150 < max(watch.peaks_mb.values()) < 400


def test_synthetic_images_are_normalised_and_repeat() -> None:
    made = nets.images(2)
    assert made.shape == (2, 3, nets.SIZE, nets.SIZE)
    assert made.equal(nets.images(2))
    assert not made.equal(nets.images(2, skip=7))
    assert -2.2 < float(made.min()) < float(made.max()) < 2.7


def test_a_warmed_net_tells_images_apart() -> None:
    import torch

    with torch.no_grad():
        scores = nets.warmed("mobilenet_v3_small", count=16)(nets.images(8))
    assert float(scores.abs().max()) > 1e-3
    assert len(scores.argmax(1).unique()) > 1
