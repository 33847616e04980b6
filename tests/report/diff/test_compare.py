"""Two runs compared: what is called slower, what breaks a limit, and what is inconclusive."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from tests.report.visit import Opener
from torchopt2edge.errors import ConfigError
from torchopt2edge.report import read
from torchopt2edge.report import write as write_run
from torchopt2edge.report.diff.compare import Run, RunDiff, compare
from torchopt2edge.report.diff.figures import diff_figures
from torchopt2edge.report.diff.latency import MachineShift, RowPair
from torchopt2edge.report.diff.limits import parse_share
from torchopt2edge.report.diff.text import headline
from torchopt2edge.report.diff.write import render_console, render_markdown, write
from torchopt2edge.report.html.diff import render_html
from torchopt2edge.stats.paired import paired_drop
from torchopt2edge.types import Measurement, Verdict

FILES = {"torch-fp32": 3.9, "ort-fp32": 1.4, "ort-int8": 0.74, "litert-int8": 0.55}
HITS = "1" * 950 + "0" * 50


def row(name: str, ms: float, noise: Any, seed: int, **facts: Any) -> Measurement:
    """One row in turns with the others: its own speed, the round's noise, its own noise."""
    backend, _, scheme = name.partition("-")
    own = ms * np.random.default_rng(seed).normal(1.0, 0.005, len(noise))
    rounds = [[int(1e6 * pace)] * 5 for pace in own * noise]
    metrics = {"latency_ms": float(np.median(rounds)) / 1e6 if rounds else 0.0}
    metrics |= {"size_mb": 1.0, "memory_mb": 50.0}
    metrics |= {"top1": 95.0, "top1_low": 93.5, "top1_high": 96.2}
    receipt: dict[str, Any] = {
        **{"metric": "top1", "n_eval": len(HITS), "correct": HITS, "cpu": "c", "runner": "python"},
        **{"file_sha256": f"sha-{name}", "order": "turns", "run": str(seed // 100), "flags": []},
    }
    return Measurement(
        name, backend, scheme, "local", "quick", metrics, rounds, {**receipt, **facts}
    )


def run_of(
    seed: int,
    machine: float = 1.0,
    slower: Mapping[str, float] | None = None,
    rounds: int = 20,
    **facts: Any,
) -> Run:
    """One run of `FILES` on a machine of some speed, ±5 % of noise; what is ``slower`` changed.

    A changed file has other bytes.
    """
    noise = machine * np.random.default_rng(seed).normal(1.0, 0.05, rounds)
    changed = slower or {}
    rows = [
        row(
            name,
            ms * changed.get(name, 1.0),
            noise,
            100 * seed + at,
            **({"file_sha256": f"sha-{name}-{seed}"} if name in changed else {}),
            **facts,
        )
        for at, (name, ms) in enumerate(FILES.items())
    ]
    return rows, Verdict("litert-int8"), {"title": f"run {seed}"}


def with_row(run: Run, name: str, **changes: Any) -> Run:
    """Return the run with fields of one row replaced; metrics and facts are added to."""
    rows = []
    for one in run[0]:
        fields = dict(changes)
        for part in ("metrics", "facts"):
            if part in fields:
                fields[part] = {**getattr(one, part), **fields[part]}
        rows.append(replace(one, **fields) if one.candidate == name else one)
    return rows, run[1], run[2]


def outcomes(diff: RunDiff, metric: str = "latency_ms") -> dict[str, str]:
    return {c.candidate: c.outcome for c in diff.changes if c.metric == metric}


def findings(diff: RunDiff) -> list[tuple[str, str, str]]:
    """Return (code, candidate, metric) of every finding."""
    return [(finding.code, finding.candidate, finding.metric) for finding in diff.findings]


def pairs(before: Run, after: Run) -> dict[str, RowPair]:
    old = {row.candidate: row for row in before[0]}
    return {row.candidate: RowPair(old[row.candidate], row) for row in after[0]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("5%", 0.05), ("5 %", 0.05), (" 2.5% ", 0.025), ("0.05", 0.05), ("150%", 1.5)),
        *(("0", 0.0), (".5", 0.5), ("0%", 0.0), (0.05, 0.05), (1e-5, 1e-5), (0, 0.0)),
    ],
)
def test_a_share_is_read(text: str | float, value: float) -> None:
    assert parse_share(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["5", 5, 1.0, "1", "-5%", "0,05", "", "%", "five", "nan", "inf", math.nan, True, "5%%"]
)
def test_what_is_no_share_is_refused(text: str | float) -> None:
    with pytest.raises(ConfigError, match="no share") as caught:
        parse_share(text)
    assert "5%" in (caught.value.hint or "")


@given(st.floats(0.0, 0.99, allow_subnormal=False))
def test_every_share_reads_back(value: float) -> None:
    assert parse_share(value) == value


def test_a_slower_machine_is_divided_out() -> None:
    diff = compare(run_of(1), run_of(2, machine=1.4), 0.05)
    assert diff.control == "torch-fp32"
    assert outcomes(diff) == dict.fromkeys(FILES, "same")
    assert (diff.broken, diff.strict) == ((), ())
    shift = MachineShift.of(list(pairs(run_of(1), run_of(2, machine=1.4)).values()))
    assert shift.control_ratio == pytest.approx(1.4, rel=0.05)
    assert f"{shift.control_ratio:.2f}×" in diff.method


def test_a_slower_file_breaks_the_limit_on_a_faster_machine() -> None:
    diff = compare(run_of(1), run_of(2, machine=0.7, slower={"ort-int8": 1.12}), 0.05)
    change = diff.change("ort-int8", "latency_ms")
    assert change is not None
    assert change.effect is not None
    assert change.effect[1] < 1.12 < change.effect[2]
    assert change.after is not None
    assert change.before is not None
    assert change.after < change.before
    assert outcomes(diff)["ort-int8"] == "slower"
    assert findings(diff) == [("beyond", "ort-int8", "latency_ms")]
    assert compare(run_of(1), run_of(2, slower={"ort-int8": 1.12}), 0.2).broken == ()
    assert compare(run_of(1), run_of(2, slower={"ort-int8": 1.12}), None).broken == ()


def test_a_faster_file_is_faster() -> None:
    diff = compare(run_of(1), run_of(2, slower={"litert-int8": 0.8}), 0.05)
    assert outcomes(diff)["litert-int8"] == "faster"
    assert diff.broken == ()


def test_without_a_control_the_machine_is_part_of_the_ratio() -> None:
    every = dict.fromkeys(FILES, 1.0)
    diff = compare(run_of(1), run_of(2, machine=1.4, slower=every), 0.05)
    assert diff.control == ""
    assert set(outcomes(diff).values()) == {"slower"}
    assert len(diff.warnings) == 1


def test_noise_alone_breaks_nothing() -> None:
    """Wide rounds and no control: beyond the limit, but not proven."""
    every = dict.fromkeys(FILES, 1.0)
    noisy = run_of(1, rounds=5), run_of(4, machine=1.06, slower=every, rounds=5)
    diff = compare(*noisy, 0.03)
    assert diff.broken == ()
    assert {code for code, _, _ in findings(diff)} == {"maybe-beyond"}


def test_what_other_unchanged_files_moved_widens_the_interval() -> None:
    calm = compare(run_of(1), run_of(2, slower={"ort-int8": 1.04}), 0.05)
    after = run_of(2, slower={"ort-int8": 1.04})
    for name in ("ort-fp32", "litert-int8"):
        old = next(one for one in after[0] if one.candidate == name)
        moved = [[int(1.06 * ns) for ns in each] for each in old.latency_ns]
        after = with_row(after, name, latency_ns=moved)
    shaken = compare(run_of(1), after, 0.05)
    assert outcomes(calm)["ort-int8"] == "slower"
    assert outcomes(shaken)["ort-int8"] == "inconclusive"
    assert calm.warnings == ()
    assert [warning.split()[0] for warning in shaken.warnings] == ["ort-fp32", "litert-int8"]


def test_the_same_runs_give_the_same_answer() -> None:
    assert compare(run_of(1), run_of(2), 0.05) == compare(run_of(1), run_of(2), 0.05)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"device": "phone"}, "device"),
        ({"facts": {"runner": "native"}}, "runner"),
        ({"facts": {"cpu": "other"}}, "cpu"),
        ({"facts": {"flags": ["throttled"]}}, "throttled"),
        ({"latency_ns": [[100]] * 4}, "few-rounds"),
        ({"latency_ns": [[100]] * 9 + [[0]]}, "no-times"),
    ],
)
def test_what_cannot_be_compared_is_not(change: dict[str, Any], code: str) -> None:
    before, after = run_of(1), with_row(run_of(2), "ort-int8", **change)
    diff = compare(before, after, 0.05)
    assert outcomes(diff)["ort-int8"] == "inconclusive"
    assert outcomes(diff)["ort-fp32"] == "same"
    obstacle = pairs(before, after)["ort-int8"].obstacle
    assert obstacle is not None
    assert obstacle.code == code
    assert findings(diff) == [("not-compared", "ort-int8", "latency_ms")]
    assert obstacle.text in diff.strict[0]


def test_settings_that_differ_are_warnings() -> None:
    after = run_of(2, threads=2, runtime_version="2")
    after = with_row(after, "ort-int8", protocol="standard")
    diff = compare(run_of(1, threads=1, runtime_version="1"), after, 0.05)
    assert "threads differs: 1 before, 2 after" in diff.warnings
    assert "runtime version differs: 1 before, 2 after" in diff.warnings
    assert "protocol differs: quick before, standard after (ort-int8)" in diff.warnings
    assert diff.control == "", "a file under another runtime is no control"


def test_files_timed_one_after_the_other_have_no_control() -> None:
    diff = compare(run_of(1, order="blocks"), run_of(2, order="blocks", anchor_spread=0.5), 0.05)
    assert diff.control == ""
    change = diff.change("ort-int8", "latency_ms")
    assert change is not None
    assert change.effect is not None
    assert change.effect[2] > 1.3, "what the machine drifted is part of the interval"


def test_failures_and_files_that_come_and_go() -> None:
    before = with_row(run_of(1), "ort-fp32", err="crash")
    after = with_row(run_of(2), "ort-int8", err="it hangs")
    rest = [one for one in after[0] if one.candidate != "litert-int8"]
    new = replace(after[0][0], candidate="litert-fp16")
    diff = compare(before, ([*rest, new], after[1], after[2]), 0.05)
    assert outcomes(diff, "") == {
        "ort-fp32": "fixed",
        "ort-int8": "failed",
        "litert-fp16": "new",
        "litert-int8": "gone",
    }
    assert findings(diff) == [("fails", "ort-int8", ""), ("gone", "litert-int8", "")]
    assert "it hangs" in diff.broken[0]


def test_a_new_file_that_fails_says_so_and_a_broken_one_that_is_gone_is_no_loss() -> None:
    broken = with_row(run_of(1), "ort-int8", err="it hangs")
    without = [one for one in run_of(2)[0] if one.candidate != "ort-int8"]
    gone = compare(broken, (without, *run_of(2)[1:]), 0.05)
    assert outcomes(gone, "")["ort-int8"] == "gone"
    assert gone.strict == ()
    came = compare((without, *run_of(1)[1:]), with_row(run_of(2), "ort-int8", err="it hangs"), 0.05)
    (new,) = [change for change in came.changes if change.outcome == "new"]
    assert new.note == "fails: it hangs"


def test_what_a_coarse_clock_cannot_tell_breaks_nothing() -> None:
    def run(seed: int, ms: float, **facts: Any) -> Run:
        return with_row(run_of(seed), "ort-int8", latency_ns=[[int(ms * 1e6)]] * 20, facts=facts)

    coarse = {"timer_resolution_ns": 1e5, "file_sha256": "other"}
    assert compare(run(1, 0.7), run(2, 0.8, file_sha256="other"), 0.05).broken
    diff = compare(run(1, 0.7, **coarse), run(2, 0.8, **coarse), 0.05)
    change = diff.change("ort-int8", "latency_ms")
    assert change is not None
    assert change.effect is not None
    assert change.effect[2] / change.effect[1] > 1.2


def test_what_failed_before_too_breaks_nothing() -> None:
    runs = [with_row(run_of(seed), "ort-int8", err="it hangs") for seed in (1, 2)]
    diff = compare(runs[0], runs[1], 0.05)
    assert outcomes(diff, "")["ort-int8"] == "failed"
    assert diff.broken == diff.strict == ()


def test_a_loss_of_the_metric_is_paired_and_tested() -> None:
    worse = "0" * 80 + HITS[80:]
    hurt = with_row(run_of(2), "ort-int8", metrics={"top1": 87.0}, facts={"correct": worse})
    diff = compare(run_of(1), hurt, 0.05)
    change = diff.change("ort-int8", "top1")
    assert change is not None
    assert change.outcome == "worse"
    told = paired_drop(HITS, worse)
    assert change.effect == (-8.0, -told["drop_high"], -told["drop_low"])
    assert change.p == told["mcnemar_p"]
    assert findings(diff) == [("beyond", "ort-int8", "top1")]
    assert "8.00 points" in diff.broken[0]
    assert compare(run_of(1), hurt, 0.1).broken == ()
    assert outcomes(diff, "top1")["ort-fp32"] == "same"


def test_a_loss_on_too_few_samples_cannot_be_told() -> None:
    few = {"n_eval": 20, "correct": "1" * 20}
    lost = {"n_eval": 20, "correct": "00" + "1" * 18}
    before = with_row(run_of(1), "ort-int8", metrics={"top1": 100.0}, facts=few)
    after = with_row(run_of(2), "ort-int8", metrics={"top1": 90.0}, facts=lost)
    diff = compare(before, after, 0.05)
    assert outcomes(diff, "top1")["ort-int8"] == "inconclusive"
    assert findings(diff) == [("maybe-beyond", "ort-int8", "top1")]
    assert "5.00 points" in diff.strict[0]


@pytest.mark.parametrize(
    ("value", "half", "word", "breaks"),
    [
        (85.0, 1.0, "worse", True),
        (85.0, 12.0, "inconclusive", False),
        (99.0, 1.0, "better", False),
        (95.0, 1.0, "same", False),
    ],
)
def test_without_samples_the_intervals_decide(
    value: float, half: float, word: str, breaks: bool
) -> None:
    top = {"top1": value, "top1_low": value - half, "top1_high": value + half}
    after = with_row(run_of(2), "ort-int8", metrics=top, facts={"n_eval": 999})
    diff = compare(run_of(1), after, 0.05)
    assert outcomes(diff, "top1")["ort-int8"] == word
    assert bool(diff.broken) is breaks


def test_a_metric_without_an_interval_proves_nothing() -> None:
    own = {"metric": "psnr_db", "correct": None}
    runs = [
        with_row(
            run_of(seed), "ort-int8", metrics={"psnr_db": value}, facts={**own, "n_eval": seed}
        )
        for seed, value in ((1, 30.0), (2, 20.0))
    ]
    diff = compare(runs[0], runs[1], 0.05)
    assert outcomes(diff, "psnr_db") == {"ort-int8": "inconclusive"}
    assert findings(diff) == [("maybe-beyond", "ort-int8", "psnr_db")]
    assert "1.50" in diff.strict[0], "5 % of the value before"


def test_what_is_no_longer_evaluated_or_timed_is_said() -> None:
    after = with_row(run_of(2), "ort-int8", facts={"metric": "f1"})
    rows = [one for one in after[0] if one.candidate != "ort-fp32"]
    bare = next(one for one in after[0] if one.candidate == "ort-fp32")
    rows.append(replace(bare, metrics={"size_mb": 1.0}, latency_ns=[]))
    diff = compare(run_of(1), (rows, after[1], after[2]), 0.05)
    assert sorted(findings(diff)) == [
        ("not-compared", "ort-fp32", "latency_ms"),
        ("not-compared", "ort-fp32", "top1"),
        ("not-compared", "ort-int8", "top1"),
    ]
    notes = {(c.candidate, c.metric): c.note for c in diff.changes if c.effect is None}
    assert len(set(notes.values())) == 3


def test_a_metric_that_was_no_number_before_is_not_compared() -> None:
    before = with_row(run_of(1), "ort-int8", metrics={"top1": math.nan})
    diff = compare(before, run_of(2), 0.05)
    assert diff.change("ort-int8", "top1") is None
    lost = compare(run_of(1), with_row(run_of(2), "ort-int8", metrics={"top1": math.nan}), 0.05)
    assert findings(lost) == [("not-compared", "ort-int8", "top1")]


def test_a_larger_file_breaks_the_limit_and_memory_does_not() -> None:
    grown = {"size_mb": 1.2, "memory_mb": 80.0}
    diff = compare(run_of(1), with_row(run_of(2), "ort-int8", metrics=grown), 0.05)
    assert (
        outcomes(diff, "size_mb")["ort-int8"] == outcomes(diff, "memory_mb")["ort-int8"] == "larger"
    )
    assert findings(diff) == [("beyond", "ort-int8", "size_mb")]
    assert "(1.00 → 1.20 MB)" in diff.broken[0]
    small = compare(run_of(1), with_row(run_of(2), "ort-int8", metrics={"size_mb": 0.5}), 0.05)
    assert outcomes(small, "size_mb")["ort-int8"] == "smaller"
    assert small.broken == ()


def test_runs_that_share_nothing_are_refused() -> None:
    others = [replace(one, candidate=f"x-{one.candidate}") for one in run_of(2)[0]]
    with pytest.raises(ConfigError, match="no candidate in common"):
        compare(run_of(1), (others, Verdict(None), {}), 0.05)
    twice = run_of(2)
    with pytest.raises(ConfigError, match="after holds a candidate twice"):
        compare(run_of(1), ([*twice[0], twice[0][0]], *twice[1:]), 0.05)


def test_equal_files_seldom_differ() -> None:
    """Every file starts anew and is shifted by 1 %, which no round shows."""
    called = []
    for seed in range(1, 31):
        runs = []
        for at in (2 * seed, 2 * seed + 1):
            shift = np.random.default_rng(at).normal(1.0, 0.01, len(FILES))
            run = run_of(at, machine=float(shift.prod()) ** 4)
            rows = [
                replace(one, latency_ns=[[int(by * ns) for ns in each] for each in one.latency_ns])
                for one, by in zip(run[0], shift, strict=True)
            ]
            runs.append((rows, run[1], run[2]))
        diff = compare(runs[0], runs[1], 0.05)
        assert diff.broken == ()
        called += [word in ("slower", "faster") for word in outcomes(diff).values()]
    assert sum(called) / len(called) < 0.15


HOSTILE = "<script>alert(1)</script>|[x](y)\x1b[2J"


def test_without_a_latency_to_compare_no_control_is_missed() -> None:
    before, after = run_of(1), run_of(2)
    dead = [replace(row, metrics={}, latency_ns=[], err="it crashed") for row in before[0]]
    assert compare((dead, *before[1:]), after, 0.05).warnings == ()


def full() -> RunDiff:
    """Return a comparison in which everything happens."""
    before = with_row(run_of(1, governor="powersave"), "ort-fp32", metrics={"size_mb": 0.5})
    after = run_of(2, machine=1.3, slower={"ort-int8": 1.2, "litert-int8": 0.8}, governor=HOSTILE)
    after = with_row(
        after, "ort-int8", metrics={"top1": 87.0}, facts={"correct": "0" * 80 + HITS[80:]}
    )
    gone = replace(before[0][0], candidate="old-ort-fp32")
    new = replace(after[0][0], candidate=HOSTILE)
    bad = replace(before[0][0], candidate="ort-int8_dynamic")
    return compare(
        ([*before[0], gone, bad], before[1], before[2]),
        ([*after[0], new, replace(bad, err=HOSTILE)], Verdict(None), {"title": HOSTILE}),
        0.05,
    )


def shown(diff: RunDiff, width: int) -> str:
    out = io.StringIO()
    render_console(Console(file=out, width=width), diff)
    return out.getvalue()


def markdown(diff: RunDiff) -> str:
    return render_markdown(diff, diff_figures(diff))


def html(diff: RunDiff) -> str:
    return render_html(diff, diff_figures(diff))


def test_the_headline_says_what_counts() -> None:
    assert headline(full()) == "Regression beyond 5 %: 4 findings."
    assert headline(compare(run_of(1), run_of(2), 0.05)) == "No regression beyond 5 %."
    assert headline(compare(run_of(1), run_of(2), None)) == "Of 4 candidates: 4 same."
    doubtful = compare(run_of(1), with_row(run_of(2), "ort-int8", device="phone"), 0.05)
    assert headline(doubtful) == "No proven regression beyond 5 %; 1 inconclusive finding."


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_the_terminal_shows_it_within_its_width(width: int) -> None:
    diff = full()
    text = shown(diff, width)
    table = text[: text.index("\n\n")].splitlines()
    assert all(cell_len(line) <= width for line in table)
    assert "\x1b" not in text
    assert "…" not in text
    whole = " ".join(text.split())
    for part in ("slower, worse top-1", "✗ ort-int8: latency", "? old-ort-fp32 "):
        assert part in whole
    assert "litert-int8 → none" in whole
    assert whole.count(" ✗ ") == len(diff.broken)
    assert whole.count(" ? ") == len(diff.strict)
    assert ("not shown at this width: memory MB" in text) == (width < 200)


def test_the_markdown_is_text_and_complete() -> None:
    text = markdown(full())
    titles = re.findall(r"^## (.*)$", text, re.M)
    assert len(titles) == 5
    assert "<script>" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 7
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {9}
    calm = markdown(compare(run_of(1), run_of(2), None))
    assert re.findall(r"^## (.*)$", calm, re.M) == titles[3:]
    for each in (text, calm):
        assert "\n\n\n" not in each
        links = re.findall(r"^!\[.+\]\((.+)\)$", each, re.M)
        assert links == ["figures/against-latency.svg", "figures/against-accuracy.svg"]


def test_the_page_holds_everything_and_makes_no_request() -> None:
    page = html(full())
    keys = re.findall(r'<section id="([\w-]+)"', page)
    assert keys == ["warnings", "broken", "strict", "result", "latency", "accuracy", "limits"]
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert page.count("<!doctype html>") == 1
    assert "://" not in page
    assert "<script>alert" not in page
    assert "default-src 'none'; style-src 'sha256-" in unescape(page)
    assert html(full()) == page
    calm = html(compare(run_of(1), run_of(2), None))
    assert re.findall(r'<section id="([\w-]+)"', calm) == keys[3:]


def test_runs_are_compared_from_their_folders(tmp_path: Path) -> None:
    for name, (rows, verdict, context) in (("a", run_of(1)), ("b", run_of(2))):
        write_run(tmp_path / name, rows, verdict, title=context["title"])
    diff = compare(read(tmp_path / "a"), read(tmp_path / "b"), 0.05)
    write(tmp_path / "out", diff)
    names = ("against.md", "against.html", "against.json", "figures")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names)
    kept = json.loads((tmp_path / "out" / "against.json").read_text())
    assert kept["schema"] == 1
    assert kept["titles"] == ["run 1", "run 2"]
    assert kept["anchor"] == "torch-fp32"
    assert [change["word"] for change in kept["changes"]] == [c.outcome for c in diff.changes]


def test_what_has_no_end_is_still_json(tmp_path: Path) -> None:
    own = {"metric": "f2", "correct": None}
    runs = [with_row(run_of(s), "ort-int8", metrics={"f2": 1.0 * s}, facts=own) for s in (1, 2)]
    write(tmp_path, compare(runs[0], runs[1], 0.05))
    text = (tmp_path / "against.json").read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert '"inf"' in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_accessible(opened: Opener, width: int, scheme: str) -> None:
    visit = opened(html(full()), width, scheme)
    visit.check_access()
    assert (len(visit.requests), visit.complaints) == (1, [])
    assert visit.overflow() <= 0
    assert visit.texts_outside() == []
    visit.page.locator("#result thead button").first.click()
    assert visit.page.locator("#result thead [aria-sort]").count() == 1
