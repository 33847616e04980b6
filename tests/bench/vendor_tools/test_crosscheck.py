"""A runtime's own tool beside the row that it checks: PyPI's litert-benchmark for real.

No binary of ``benchmark_model`` or ``onnxruntime_perf_test`` is to be had from a registry: for
these two, a shell script that prints a captured output shows the plumbing and no more (their
parsers have tests of their own, and their flags are those of `command`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.bench.vendor_tools.adder import CAPTURED, LITERT_BENCHMARK, printing, widened
from torchopt2edge.bench.harness import measure
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.bench.vendor_tools import crosscheck as checking
from torchopt2edge.bench.vendor_tools.crosscheck import check, tool_of
from torchopt2edge.devices import Local
from torchopt2edge.types import Candidate, Measurement


def timed(file: Path, backend: str = "ort", ms: float = 1.85, **facts: object) -> Measurement:
    """A measured row of a file: five rounds of three inferences, the last of each twice as long."""
    rounds = [[round(ms * 1e6), round(ms * 1e6), round(2 * ms * 1e6)]] * 5
    return Measurement(
        f"{backend}-fp32", backend, "fp32", "local", "brief",
        {"latency_ms": ms}, rounds, {"file": str(file), **facts},
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that no stand-in opens."""
    made = tmp_path / "a net.onnx"
    made.write_bytes(b"weights")
    return made


def words(program: str) -> list[str]:
    """Return what a stand-in was called with."""
    return Path(f"{program}.words").read_text().splitlines()


def test_the_real_tool_times_the_file_that_was_timed(
    tflite: Candidate, brief: TimingPlan, tmp_path: Path
) -> None:
    wide = widened(tflite)
    image = {"image": np.ones((1, 3, 512, 512), np.float32)}
    device = Local(native_tools={"litert": str(LITERT_BENCHMARK)})
    (row,) = measure([wide], lambda _: image, device, brief, tmp_path / "work")
    assert row.err is None
    made = check(row, device)
    assert made.err is None, made.err
    assert (made.candidate, made.backend, made.scheme) == (
        "add (litert-benchmark)", "litert", "fp32",
    )  # fmt: skip
    assert (made.protocol, made.device, made.latency_ns) == ("tool:litert-benchmark", "local", [])
    assert made.metrics["runs"] >= checking.LEAST
    assert made.facts["latency_is"] == "median"
    assert made.facts["ratio"] == made.metrics["latency_ms"] / row.metrics["latency_ms"]
    assert f"(median of {made.metrics['runs']:.0f}" in made.facts["cross_check"]
    assert f"({made.facts['ratio']:.2f}×)" in made.facts["cross_check"]


def test_a_damaged_file_is_a_row_that_says_what_the_real_tool_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"no model at all")
    device = Local(native_tools={"litert": str(LITERT_BENCHMARK)})
    made = check(timed(broken, "litert"), device)
    assert made.candidate == "litert-fp32 (litert-benchmark)"
    assert (made.metrics, made.latency_ns) == ({}, [])
    assert "it last said:" in str(made.err)
    assert str(broken) in str(made.err)
    assert made.facts["checks"] == "litert-fp32"


def test_perf_test_is_asked_for_the_same_threads(file: Path, tmp_path: Path) -> None:
    """A stand-in prints what 1.22 did: the plumbing, not the tool."""
    program = printing(tmp_path / "onnxruntime_perf_test", "perf_test_1_22.txt")
    made = check(timed(file), Local(threads=2, native_tools={"ort": program}))
    asked = [*"-I -m times -r 1082 -x 2 -D -e cpu".split(), str(file)]
    assert words(program) == asked
    assert made.facts["cross_check"] == (
        "cross-check of ort-fp32: onnxruntime_perf_test says 1.86 ms (median of 100), "
        "we say 1.85 ms (1.00×)"
    )
    assert made.facts["flags"] == ["summary-only"]
    assert made.metrics["p90_ms"] == pytest.approx(1.87215)
    assert (made.facts["threads"], made.facts["runner"]) == (2, "onnxruntime_perf_test")


def test_a_mean_is_held_against_the_mean(file: Path, tmp_path: Path) -> None:
    """A stand-in prints what TFLite's tool did: the plumbing, not the tool."""
    program = printing(tmp_path / "benchmark_model", "tflite_peak_memory.txt")
    made = check(timed(file, "litert", 42.3), Local(native_tools={"litert": program}))
    assert words(program) == [
        f"--graph={file}", "--num_threads=1", "--warmup_runs=5", "--num_runs=50",
    ]  # fmt: skip
    assert made.facts["latency_is"] == "mean"
    assert made.facts["ratio"] == pytest.approx(56.2658 / (42.3 * 4 / 3), rel=1e-3)
    assert "(mean of 1061), we say 56.4 ms (1.00×)" in made.facts["cross_check"]
    assert "size_mb" not in made.metrics


@pytest.mark.parametrize(("ms", "runs"), [(1e-4, checking.MOST), (5.0, 400), (900.0, 50)])
def test_it_times_about_two_seconds(ms: float, runs: int, file: Path, tmp_path: Path) -> None:
    program = printing(tmp_path / "benchmark_model", "tflite_2020.txt")
    check(timed(file, "litert", ms), Local(native_tools={"litert": program}))
    assert words(program)[-1] == f"--num_runs={runs}"


def test_a_tool_that_disagrees_is_flagged(file: Path, tmp_path: Path) -> None:
    program = printing(tmp_path / "tool", "perf_test_1_22.txt")
    made = check(timed(file, ms=9.0), Local(native_tools={"ort": program}))
    assert made.facts["flags"] == ["summary-only", "tool-disagrees"]
    assert "1.86 ms" in made.facts["warnings"]["tool-disagrees"]
    assert "compare the versions" in made.facts["warnings"]["tool-disagrees"]


def test_coarse_steps_are_said(file: Path, tmp_path: Path) -> None:
    text = (CAPTURED / "litert_python_merged.txt").read_text().replace("1.96 ms", "0.03 ms")
    (tmp_path / "said").write_text(text)
    program = tmp_path / "litert-benchmark"
    program.write_text(f"#!/bin/sh\nexec cat '{tmp_path / 'said'}'\n")
    program.chmod(0o755)
    made = check(timed(file, "litert", 0.031), Local(native_tools={"litert": str(program)}))
    assert "in steps of 0.01 ms" in made.facts["cross_check"]
    assert math.isclose(made.facts["ratio"], 0.03 / 0.031)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo 'no such flag' >&2; exit 3", r"status 3; it last said: no such flag"),
        ("echo hello", r"printed no measurement.*hello"),
        ("kill -SEGV $$", r"status 139"),
    ],
)
def test_a_tool_that_fails_is_a_row_with_its_words(
    body: str, said: str, file: Path, tmp_path: Path
) -> None:
    program = tmp_path / "perf"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    made = check(timed(file), Local(native_tools={"ort": str(program)}))
    assert made.metrics == {}
    with pytest.raises(AssertionError, match=f"(?s){said}"):
        raise AssertionError(made.err)


def test_a_tool_that_hangs_is_killed_with_its_children(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixture `no_orphans` looks for them."""
    monkeypatch.setattr(checking, "_LOADING_S", 0.2)
    monkeypatch.setattr(checking, "_SLOWER", 0.0)
    program = printing(tmp_path / "tool", "perf_test_1_22.txt", before="sleep 600 & sleep 600")
    made = check(timed(file), Local(native_tools={"ort": program}))
    assert "at its limit of 0 s" in str(made.err)


def test_it_runs_on_the_cores_of_the_device(file: Path, tmp_path: Path) -> None:
    import os

    core = max(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    seen = tmp_path / "cores"
    status = f"grep Cpus_allowed_list /proc/self/status >'{seen}'"
    program = printing(tmp_path / "tool", "perf_test_1_22.txt", before=status)
    made = check(timed(file), Local(affinity=(core,), native_tools={"ort": program}))
    assert made.err is None
    assert seen.read_text().split()[1] == str(core)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("backend", "program", "name"),
    [
        ("ort", "anything", "onnxruntime_perf_test"),
        ("litert", "/x/benchmark_model", "benchmark_model"),
        ("litert", "device:/opt/benchmark_model_plus_flex", "benchmark_model"),
        ("litert", "device:litert-benchmark", "litert-benchmark"),
        ("litert", "/venv/bin/litert-benchmark", "litert-benchmark"),
    ],
)
def test_a_tool_is_known_by_its_backend_and_name(backend: str, program: str, name: str) -> None:
    assert tool_of(backend, program).name == name


def test_a_row_with_a_setting_keeps_its_own(file: Path, tmp_path: Path) -> None:
    program = printing(tmp_path / "tool", "perf_test_1_22.txt")
    device = replace(Local(native_tools={"ort": program}), threads=3)
    setting: Mapping[str, object] = {"threads": 3}
    assert check(timed(file, setting=setting), device).facts["threads"] == 3
    assert words(program)[words(program).index("-x") + 1] == "3"
