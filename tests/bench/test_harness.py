"""Whole measurements with the real runtime: in turns, and with every kind of failure."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from torchopt2edge.bench import harness
from torchopt2edge.bench.harness import Lane, measure
from torchopt2edge.bench.profile import profiles
from torchopt2edge.bench.thread_settings import Bench
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.devices import Local
from torchopt2edge.errors import ConfigError, DeviceError
from torchopt2edge.interfaces import Session
from torchopt2edge.stats import rounds as round_stats
from torchopt2edge.types import Candidate, Constraints, Measurement
from torchopt2edge.verdict.decide import decide

MakeNet = Callable[..., Candidate]
Sample = dict[str, np.ndarray]


def orders(said: list[str]) -> list[list[str]]:
    """Return the candidates' order in each round, from what progress was told."""
    rounds: dict[str, list[str]] = {}
    for label in said:
        if label.startswith("round "):
            number, _, name = label.partition(": ")
            rounds.setdefault(number, []).append(name)
    return list(rounds.values())


def test_candidates_take_turns_and_every_row_is_whole(
    net: MakeNet, tflite: Candidate, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    said: list[tuple[int, int, str]] = []
    entered = [net("a"), net("b", width=8), tflite]
    rows = measure(
        entered, lambda _: sample, Local(), brief, tmp_path, lambda *told: said.append(told), None
    )
    assert [row.candidate for row in rows] == ["a", "b", "add"]
    turns = orders([label for _, _, label in said])
    assert len(turns) == brief.rounds
    assert all(Counter(turn) == Counter(["a", "b", "add"]) for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1
    assert [done for done, _, _ in said] == sorted(done for done, _, _ in said)
    assert said[-1][0] == said[-1][1]
    for row, candidate in zip(rows, entered, strict=True):
        whole(row, candidate, brief)
    assert len({row.facts["run"] for row in rows}) == 1


def whole(row: Measurement, candidate: Candidate, protocol: TimingPlan) -> None:
    assert row.err is None
    assert (row.device, row.protocol) == ("local", "brief")
    assert len(row.latency_ns) == protocol.rounds
    found = row.metrics
    assert found["samples"] == sum(map(len, row.latency_ns)) >= protocol.min_samples
    assert found["latency_low_ms"] <= found["latency_ms"] <= found["latency_high_ms"]
    medians = [np.median(one) for one in row.latency_ns]
    assert found["latency_ms"] == pytest.approx(np.median(medians) / 1e6)
    assert found["size_mb"] == candidate.file.stat().st_size / 1e6
    assert 1.0 < found["memory_mb"] < 2000.0
    assert min(found["import_ms"], found["load_ms"], found["first_ms"]) > 0.0
    facts = row.facts
    assert facts["digest"] == facts["file_sha256"] == candidate.digest
    assert facts["group"] == candidate.group
    receipt = {"runtime", "runtime_version", "threads", "affinity", "governor", "cpu_flags"}
    weather = {"load_before", "load_after", "temperature", "steal", "warmup_s", "warmup_flat"}
    assert receipt | weather <= facts.keys()
    assert list(facts["warnings"]) == facts["flags"]
    assert Measurement.from_json(json.loads(json.dumps(row.to_json()))) == row


def test_the_seed_decides_the_order(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    def run(seed: int) -> list[list[str]]:
        said: list[str] = []
        entered = [replace(net("net"), id=name) for name in "abc"]
        plan = replace(brief, seed=seed, min_seconds=0.0, warmup_max_s=0.0)
        measure(
            entered, lambda _: sample, Local(), plan, tmp_path, lambda d, t, what: said.append(what)
        )
        return orders(said)

    assert run(1) == run(1) != run(2)


def test_failures_are_rows_and_the_others_go_on(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    garbage = net("garbage")
    garbage.file.write_bytes(b"\x08\x0a" + bytes(range(256)))
    missing = net("missing")
    missing.file.unlink()
    entered = [
        net("nan", "nan"),
        garbage,
        net("good"),
        missing,
        net("random", "random"),
        net("wrong"),
    ]

    def check(candidate: Candidate, session: Session) -> str | None:
        (output,) = session(sample).values()
        assert output.shape[0] == 1
        return "it is 12 dB off the reference" if candidate.id == "wrong" else None

    rows = measure(entered, lambda _: sample, Local(), brief, tmp_path, check=check)
    errors = {row.candidate: row.err or "" for row in rows}
    assert list(errors) == [candidate.id for candidate in entered]
    assert "NaN" in errors["nan"]
    assert "cannot open" in errors["garbage"]
    assert errors["good"] == ""
    assert "cannot be read" in errors["missing"]
    assert "other outputs" in errors["random"]
    assert "12 dB" in errors["wrong"]
    failed = [row for row in rows if row.err]
    assert all(row.metrics == {} and row.latency_ns == [] for row in failed)
    assert all(row.facts["params"] == 7 for row in rows)


@pytest.mark.parametrize(
    ("sent", "said"), [(signal.SIGKILL, "killed by SIGKILL"), (signal.SIGSTOP, "did not answer")]
)
def test_one_that_dies_or_hangs_on_the_way_is_a_row(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path, sent: int, said: str
) -> None:
    def strike(done: int, total: int, what: str) -> None:
        if what.startswith("round 3") and not struck:
            oldest = min(psutil.Process().children(), key=lambda one: one.create_time())
            struck.append(oldest.pid)
            os.kill(oldest.pid, sent)

    struck: list[int] = []
    plan = replace(brief, timeout_s=4.0)
    first, second = measure([net("a"), net("b")], lambda _: sample, Local(), plan, tmp_path, strike)
    assert struck
    assert said in (first.err or "")
    assert first.facts["runtime"] == "onnxruntime"
    assert "zero_ns" not in first.facts
    assert second.err is None
    assert len(second.latency_ns) == plan.rounds


def test_a_file_that_goes_away_on_the_way_is_a_row(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    entered = [net("gone"), net("stays")]

    def remove(done: int, total: int, what: str) -> None:
        if what.startswith("round 3"):
            entered[0].file.unlink(missing_ok=True)

    gone, stays = measure(entered, lambda _: sample, Local(), brief, tmp_path, remove)
    assert "cannot be read any more" in (gone.err or "")
    assert gone.latency_ns == []
    assert stays.err is None


def test_an_interrupt_leaves_nobody_behind(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if what.startswith("round 2"):
            assert len(psutil.Process().children()) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure([net("a"), net("b")], lambda _: sample, Local(), brief, tmp_path, interrupt)
    assert psutil.Process().children(recursive=True) == []


def test_a_large_gap_has_a_winner(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    """Twenty times the work is slower in any weather; validity is another test's business."""
    rows = measure(
        [net("large", width=32, depth=6), net("small")], lambda _: sample, Local(), brief, tmp_path
    )
    _, low, _ = round_stats.paired_ratio(rows[0].latency_ns, rows[1].latency_ns)
    assert low > 1.01
    calm = [replace(row, facts={**row.facts, "flags": []}) for row in rows]
    assert decide(calm, Constraints(), None).winner == "small"


def test_peak_memory_is_read_before_the_check(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    def heavy(candidate: Candidate, session: Session) -> None:
        session({"image": np.repeat(sample["image"], 40_000, axis=0)})  # 120 MB of input alone

    plain, checked = (
        measure([net("a")], lambda _: sample, Local(), brief, tmp_path, check=check)[0].metrics[
            "memory_mb"
        ]
        for check in (None, heavy)
    )
    assert checked == pytest.approx(plain, rel=0.2)


def test_priming_opens_one_file_per_runtime(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    plan = replace(brief, prime=True, min_seconds=0.0)
    measure([net("a"), net("b")], lambda _: sample, Local(), plan, tmp_path)
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        "a.log",
        "b.log",
        "prime-a.log",
    ]


def test_what_cannot_be_run_at_all_is_refused(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="share an id"):
        measure([net("a"), net("a")], lambda _: sample, Local(), brief, tmp_path)
    with pytest.raises(ConfigError, match="rounds"):
        measure([net("a")], lambda _: sample, Local(), replace(brief, rounds=2), tmp_path)
    with pytest.raises(DeviceError, match="threads"):
        measure([net("a")], lambda _: sample, Local(threads=0), brief, tmp_path)
    assert measure([], lambda _: sample, Local(), brief, tmp_path) == []


class Cooling:
    """A thermometer that falls one degree a reading."""

    def __init__(self, start: float) -> None:
        self.now = start

    def sense(self) -> dict[str, Any]:
        self.now -= 1.0
        return {"temperature_c": self.now}


@pytest.mark.parametrize(
    ("hot", "limit_s", "left"), [(50.0, 60.0, 42.0), (41.0, 60.0, 40.0), (90.0, 0.01, None)]
)
def test_the_gate_opens_when_cool_or_out_of_patience(
    net: MakeNet, monkeypatch: pytest.MonkeyPatch, hot: float, limit_s: float, left: float | None
) -> None:
    monkeypatch.setattr(harness.time, "sleep", lambda seconds: None)
    thermometer: Any = Cooling(hot)
    lane = Lane(net("a"), ExitStack(), thermometer)
    harness._cool_down([lane], 40.0, TimingPlan("p", 1, 0.0, 5, 0.0, limit_s))
    assert thermometer.now == left or (left is None and thermometer.now < hot)
    before = thermometer.now
    assert harness._cool_down([lane], None, TimingPlan("p", 1, 0.0, 5, 0.0, 60.0)) < 60.0
    assert thermometer.now == before


def test_without_turns_each_runs_alone_between_two_looks_at_the_first(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    said: list[str] = []
    plan = replace(brief, turns=False)
    entered = [net("a"), net("b", width=8)]
    rows = measure(
        entered, lambda _: sample, Local(), plan, tmp_path, lambda *told: said.append(told[2])
    )
    windows = [label.partition(":")[0] for label in said if "window" in label]
    assert windows == ["a"] * brief.rounds + ["b"] * brief.rounds
    first, second = rows
    assert max(first.facts["began_s"]) < min(second.facts["began_s"])
    for row in rows:
        assert row.facts["order"] == "blocks"
        assert row.facts["anchor_spread"] >= 0.0
        assert row.facts["sustained"].keys() == {
            "first_minute_ms", "last_minute_ms", "kept", "onset_s"
        }  # fmt: skip


def test_an_interrupt_keeps_what_was_measured_and_leaves_nobody(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("round 3"):
            raise KeyboardInterrupt

    entered = [net("a"), net("b", width=8)]
    with pytest.raises(harness.Interrupted) as caught:
        measure(entered, lambda _: sample, Local(), brief, tmp_path, stop)
    rows = caught.value.rows
    assert [row.candidate for row in rows] == ["a", "b"]
    assert [len(row.latency_ns) for row in rows] == [2, 2]
    assert all("too-few-samples" in row.facts["flags"] for row in rows)
    assert all(np.isfinite(list(row.metrics.values())).all() for row in rows)
    assert all(row.facts["interrupted"] for row in rows)
    assert decide(rows, Constraints(max_drop=None), None).winner is None


def test_a_setting_of_its_own_reaches_the_process(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    cores = sorted(os.sched_getaffinity(0))
    tried = Bench(threads=(1, 2), affinity=((cores[-1],), tuple(cores)))
    entered = tried.variants([net("a")])
    known = [(1, [cores[-1]]), (1, cores), (2, [cores[-1]]), (2, cores)]
    known = [(threads, on) for threads, on in known if threads <= len(on)]
    assert [one.id for one in entered] == [
        f"a@{threads}t-c{'.'.join(map(str, on))}" for threads, on in known
    ]
    rows = measure(entered, lambda _: sample, Local(), brief, tmp_path)
    assert [row.err for row in rows] == [None] * len(known)
    assert [(row.facts["threads"], row.facts["affinity"]) for row in rows] == known


@pytest.mark.parametrize("tried", [{"threads": ()}, {"threads": (0,)}, {"affinity": ((),)}])
def test_an_empty_setting_is_refused(net: MakeNet, tried: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="setting"):
        Bench(**tried).variants([net("a")])


def test_the_profile_names_the_costliest(net: MakeNet, sample: Sample, tmp_path: Path) -> None:
    broken = replace(net("gone"), file=tmp_path / "gone.onnx")
    entered = [net("deep", width=16, depth=12), broken]
    broken.file.unlink(missing_ok=True)
    found = profiles(entered, lambda _: sample, Local(), tmp_path)
    ops = found["deep"]["profile"]
    assert len(ops) == 10
    assert [op["ms"] for op in ops] == sorted((op["ms"] for op in ops), reverse=True)
    assert "Conv" in ops[0]["type"]
    assert 0.0 < sum(op["share"] for op in ops) <= 100.1
    assert "gone" in found["gone"]["profile_err"]
