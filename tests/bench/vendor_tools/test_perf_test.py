"""ONNX Runtime's tool: four wordings, units of all sizes, and what is no run."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchopt2edge.bench.vendor_tools.perf_test import parse
from torchopt2edge.errors import BenchError

CAPTURED = Path(__file__).parent / "captured"


def captured(name: str) -> str:
    """Return an output that somebody posted."""
    return (CAPTURED / f"perf_test_{name}.txt").read_text()


@pytest.mark.parametrize(
    ("name", "generation", "runs", "mean", "median", "low", "high"),
    [
        ("0_5", "0.5", 1000, 58.8053, 58.7108, 55.9777, 62.3472),
        ("1_1", "1.1", 1, 734.606, None, None, None),
        ("1_3", "1.3", 10, 144.871, None, None, None),
        ("1_22", "1.3", 100, 1.85739, 1.85674, 1.83404, 1.90312),
        ("1_23", "1.23", 10, 7.270205, 7.27787, 7.20383, 7.30163),
    ],
)
def test_every_wording_is_read(
    name: str,
    generation: str,
    runs: int,
    mean: float,
    median: float | None,
    low: float | None,
    high: float | None,
) -> None:
    found = parse(captured(name))
    assert (found.tool, found.generation, found.runs) == ("onnxruntime_perf_test", generation, runs)
    assert found.mean_ms == pytest.approx(mean)
    for seen, told in [(found.median_ms, median), (found.min_ms, low), (found.max_ms, high)]:
        assert seen is None if told is None else seen == pytest.approx(told)


@pytest.mark.parametrize(
    ("name", "init", "first", "threads", "memory"),
    [
        ("0_5", None, None, None, None),
        ("1_1", 1841.49, None, None, None),  # 0 threads: the runtime chooses
        ("1_3", 127.918, None, None, 158.171136),
        ("1_22", 10.2016, 2.0, None, 36.696064),
        ("1_23", 169.475, 109.0, 1, 91.336704),
    ],
)
def test_what_is_around_the_measurement(
    name: str,
    init: float | None,
    first: float | None,
    threads: int | None,
    memory: float | None,
) -> None:
    found = parse(captured(name))
    assert found.init_ms == (None if init is None else pytest.approx(init))
    assert (found.first_ms, found.threads, found.memory_mb) == (first, threads, memory)
    assert (found.warmup_ms, found.std_ms, found.model) == (None, None, None)


def test_percentiles_go_by_their_number() -> None:
    found = parse(captured("1_22")).percentiles
    assert dict(found) == pytest.approx({90: 1.87215, 95: 1.87393, 99: 1.90312, 99.9: 1.90312})


def test_the_rest_is_facts() -> None:
    assert parse(captured("1_23")).facts == {
        "provider": "SpaceMITExecutionProvider",
        "cpu_percent": 62,
        "inferences_per_s": 137.435,
    }
    assert parse(captured("1_22")).facts["spinning_disabled"] == "between runs"


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("58.8 ms", 58.8),
        ("0.0588 s", 58.8),
        ("0.0588sec", 58.8),
        ("58800 us", 58.8),
        ("58800 µs", 58.8),
        ("5.88e-05 s", 0.0588),
        ("58800000ns", 58.8),
    ],
)
def test_every_unit_is_taken_as_written(value: str, ms: float) -> None:
    assert parse(f"Average inference time cost: {value}\n").mean_ms == pytest.approx(ms)
    assert parse(f"P50 Latency: {value}\n").median_ms == pytest.approx(ms)


@pytest.mark.parametrize("end", ["\r\n", "\r\r\n"])
def test_line_ends_and_colours_make_no_difference(end: str) -> None:
    bare = captured("1_22")
    assert parse(bare.replace("\n", end)) == parse(bare)
    assert parse("".join(f"\x1b[0;93m{one}\x1b[m\n" for one in bare.splitlines())) == parse(bare)


def test_an_error_that_it_survived_is_kept() -> None:
    error = "\x1b[1;31m2025-10-15 10:00:00.1 [E:onnxruntime:, a.cc:1 Run] no kernel\x1b[m\n"
    (kept,) = parse(error + captured("1_3")).facts["errors"]
    assert kept.endswith("no kernel")
    assert "\x1b" not in kept


def test_the_last_run_of_a_text_counts_and_is_never_mixed() -> None:
    first, last = captured("1_22"), captured("1_3")
    assert parse(first + last) == parse(last)
    with pytest.raises(BenchError, match="no measurement"):
        parse(first + last.partition("Average")[0])


def test_statistics_of_the_submission_are_no_latency() -> None:
    """Before onnxruntime#26313 a GPU's percentiles were of handing the work over."""
    text = captured("1_23").replace("total: 7.270205 ms", "total: 72.70205 ms")
    found = parse(text)
    assert (found.median_ms, found.min_ms, dict(found.percentiles)) == (None, None, {})
    assert found.mean_ms == pytest.approx(72.70205)
    assert found.facts["submission_ms"]["P50"] == pytest.approx(7.27787)


def test_a_result_file_has_statistics_and_no_mean() -> None:
    text = "squeezenet,0.0012,0.0013,1000,50,0\n\nMin Latency: 0.0013 s\nP50 Latency: 0.0014 s\n"
    found = parse(text)
    assert (found.mean_ms, found.median_ms) == (None, pytest.approx(1.4))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "nothing at all"),
        ("there is no test data for model m\n", "no test data.*-I"),
        ("Session creation time cost: 0.1 s\n", "leave -n out"),
        ("Average inference time cost: nan ms\n", "no measurement"),
        ("Average inference time cost: 1.85\n", "no measurement"),
        ("Average inference time cost: 1.85739 m", "no measurement"),
    ],
)
def test_what_holds_no_measurement_is_refused(text: str, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        parse(text)
