"""TFLite's and LiteRT's tool: every wording, every way an output arrives, and what is no run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from torchopt2edge.bench.vendor_tools.benchmark_model import parse
from torchopt2edge.errors import BenchError

CAPTURED = Path(__file__).parent / "captured"
MIB = 1.048576
WARM = "count=9 first=91020 curr=55300 min=54900 max=91020 avg=60125.5 std=11800\n"
TIMED = "count=20 first=31500 curr=30900 min=30718 max=36410 avg=31118.1 std=1323\n"
TIMINGS = (
    "Inference timings in us: Init: 21432, First inference: 91020, "
    "Warmup (avg): 60125.5, Inference (avg): 31118.1\n"
)


def captured(name: str) -> str:
    """Return an output that somebody posted."""
    return (CAPTURED / f"{name}.txt").read_text()


@pytest.mark.parametrize(
    ("name", "generation", "runs", "mean", "low", "high", "std"),
    [
        ("tflite_2018_all_same", "unstated", 50, 880.688, 851.668, 903.937, 12.426),
        ("tflite_2019", "tflite-2019", 15, 66.7676, 66.699, 66.838, 0.039),
        ("tflite_2020", "tflite", 50, 33.2094, 32.641, 34.005, 0.45),
        ("tflite_profile_gpu", "tflite", 110, 8.68033, 7.863, 10.688, 0.591),
        ("tflite_key_pressed", "tflite", 261, 3.79092, 3.19, 6.333, 0.358),
        ("tflite_peak_memory", "tflite", 1061, 56.2658, 54.669, 60.236, 0.982),
        ("tflite_logcat", "tflite", 25, 145.528, 140.071, 195.121, 13.583),
        ("tflite_timings_only", "tflite", None, 8.45969, None, None, None),
        ("litert_results", "litert", 10, 7430.2, 7416.4, 7448.86, 9.92),
        ("litert_python_merged", "litert", 20, 1.97, 1.87, 2.11, 0.06),
    ],
)
def test_the_measurement_is_read_and_not_the_warm_up(
    name: str,
    generation: str,
    runs: int | None,
    mean: float,
    low: float | None,
    high: float | None,
    std: float | None,
) -> None:
    found = parse(captured(name))
    assert (found.generation, found.runs) == (generation, runs)
    assert found.mean_ms == pytest.approx(mean)
    numbers = [(found.min_ms, low), (found.max_ms, high), (found.std_ms, std)]
    for seen, told in numbers:
        assert seen is None if told is None else seen == pytest.approx(told)


@pytest.mark.parametrize(
    ("name", "init", "first", "warmup", "threads", "model"),
    [
        ("tflite_2018_all_same", 17.527, 1058.871, 1058.871, 1, "UpResnet5-X2-H256-W256-C3"),
        ("tflite_2019", 9.933, 127.425, 76.6059, None, "mobilenet_v1_1.0_224_quant"),
        ("tflite_2020", 0.855, 49.06, 34.8251, 4, "espcn_harmonic_2x_slim_w_cl"),
        ("tflite_profile_gpu", 1451.507, 11.147, 8.77968, 1, "mnv3_seg_float"),
        ("tflite_timings_only", 25.558, 9992.42, 9992.42, None, None),
        ("litert_results", 23744.73, 7441.04, 7441.04, None, None),
        ("litert_python_merged", 4.66, 2.31, 2.12, None, None),
    ],
)
def test_what_went_before_the_measurement(
    name: str,
    init: float,
    first: float,
    warmup: float,
    threads: int | None,
    model: str | None,
) -> None:
    found = parse(captured(name))
    assert (found.init_ms, found.first_ms) == pytest.approx((init, first))
    assert found.warmup_ms == pytest.approx(warmup)
    assert found.threads == threads
    assert (found.model and Path(found.model).stem) == model


def test_percentiles_are_read_where_they_are_printed() -> None:
    new, old = parse(captured("tflite_logcat")), parse(captured("tflite_2020"))
    assert new.median_ms == pytest.approx(141.253)
    assert dict(new.percentiles) == pytest.approx({5: 140.545, 95: 187.533})
    assert (old.median_ms, dict(old.percentiles)) == (None, {})


def test_the_python_tool_is_told_by_its_median() -> None:
    found = parse(captured("litert_python_merged"))
    assert found.tool == "litert-benchmark"
    assert found.median_ms == pytest.approx(1.96)
    assert found.facts["warmup_runs"] == 3
    assert found.facts["resolution_ms"] == 0.01


def test_memory_is_a_peak_and_its_growth_is_a_fact() -> None:
    """The tool's MB are 2**20 bytes; "Peak memory footprint" of 2020 was a growth, too."""
    assert parse(captured("tflite_peak_memory")).memory_mb == pytest.approx(93.2383 * MIB)
    grown = parse(captured("tflite_logcat"))
    assert grown.memory_mb is None
    assert grown.facts["memory_delta_mb"] == pytest.approx(
        {"init": 54.2852 * MIB, "overall": 73.4102 * MIB}
    )
    old = parse(captured("tflite_2020")).facts["memory_delta_mb"]
    assert old == pytest.approx({"overall": 12.8672 * MIB})  # init=0 says nothing
    litert = parse(captured("litert_results"))
    assert litert.memory_mb is None
    assert litert.facts["memory_delta_mb"]["init"] == pytest.approx(6391.74 * MIB)


def test_delegates_size_and_signature_are_facts() -> None:
    found = parse(captured("tflite_logcat")).facts
    (delegate,) = found["delegates"]
    assert delegate == {
        "name": "TfLiteXNNPackDelegate",
        "replaced": 539,
        "nodes": 548,
        "partitions": 19,
    }
    assert found["model_size_mb"] == pytest.approx(3.06409)
    assert parse(captured("litert_results")).facts["signature"] == "prefill_1024"


def test_the_finer_numbers_win_where_both_halves_are_there() -> None:
    block = (
        "========== BENCHMARK RESULTS ==========\n"
        "INFO: [benchmark_litert_model.h:92] Model initialization: 21.43 ms\n"
        "INFO: [benchmark_litert_model.h:98] Warmup (avg):         60.13 ms (9 runs)\n"
        "INFO: [benchmark_litert_model.h:100] Inference (avg):      31.12 ms (20 runs)\n"
        "INFO: [benchmark_litert_model.h:108] Inference (std):      1.32\n"
        "INFO: [benchmark_litert_model.h:126] Peak memory:          25.50 MB\n"
    )
    found = parse(f"INFO: {WARM}{block}INFO: {TIMED}")
    assert found.generation == "litert"
    assert (found.mean_ms, found.std_ms) == pytest.approx((31.1181, 1.323))
    assert (found.init_ms, found.first_ms) == pytest.approx((21.43, 91.02))
    assert found.memory_mb == pytest.approx(25.5 * MIB)
    assert found.facts["resolution_ms"] == 0.001
    assert parse(block).mean_ms == pytest.approx(31.12)
    assert parse(WARM + TIMED).mean_ms == pytest.approx(31.1181)


@pytest.mark.parametrize(
    "dress",
    [
        lambda line: f"{line}\r",
        lambda line: f"{line}\r\r",
        lambda line: f"\x1b[1;32m{line}\x1b[0m",
        lambda line: f"INFO: {line}",
        lambda line: f"I/tflite  (12345): {line}",
        lambda line: f"07-14 13:14:52.097 I/tflite  ( 2283): {line}",
        lambda line: f"2026-07-14 13:14:52.097  2283  2290 I tflite  : INFO: {line}",
        lambda line: f"2018-09-10 13:35:21.431490: I tensorflow/a/b.cc:85] {line}",
        lambda line: f"I0714 13:14:52.097123    2283 benchmark_model.cc:85] {line}",
        lambda line: f"some line of another stream\n{line}",
    ],
)
def test_dress_makes_no_difference(dress: Callable[[str], str]) -> None:
    bare = f"Graph: [m.tflite]\nNum threads: [2]\n{WARM}{TIMED}{TIMINGS}"
    dressed = "".join(f"{dress(line)}\n" for line in bare.splitlines())
    assert parse(dressed) == parse(bare)


def test_all_same_values_are_said_once() -> None:
    one = parse(f"{WARM}count=1 curr=300\n")
    assert (one.runs, one.mean_ms, one.min_ms, one.max_ms) == pytest.approx((1, 0.3, 0.3, 0.3))
    assert one.std_ms is None  # one value has no spread
    many = parse(f"{WARM}count=4 curr=300(all same)\n")
    assert (many.runs, many.median_ms, many.std_ms) == pytest.approx((4, 0.3, 0.0))


def test_an_absent_warm_up_is_absent() -> None:
    timings = "Inference timings in us: Init: 5, First inference: 0, Warmup (avg): -nan, "
    found = parse(f"count=0\n{TIMED}{timings}Inference (avg): 31118.1\n")
    assert (found.first_ms, found.warmup_ms) == (None, None)
    assert found.mean_ms == pytest.approx(31.1181)


def test_a_time_below_the_clock_is_absent_and_not_nothing() -> None:
    found = parse(f"{WARM}count=20 first=1 curr=0 min=0 max=2 avg=0.6 std=0\n")
    assert found.min_ms is None
    assert (found.mean_ms, found.std_ms) == pytest.approx((0.0006, 0.0))


def test_threads_left_to_the_tool_are_unknown() -> None:
    assert parse(f"Num threads: [-1]\n{WARM}{TIMED}").threads is None


def test_the_last_run_of_a_loop_counts() -> None:
    first = f"STARTING!\nNum threads: [1]\n{WARM}count=50 curr=7\n"
    last = f"STARTING!\nNum threads: [2]\n{WARM}{TIMED}{TIMINGS}"
    assert parse(first + last) == parse(last)
    with pytest.raises(BenchError, match="cut off after its warm-up"):
        parse(captured("tflite_2019_cut"))


def test_a_filtered_log_needs_a_line_that_says_what_its_count_is() -> None:
    assert parse(TIMED + TIMINGS).runs == 20
    warm = parse(WARM + TIMINGS)
    assert (warm.runs, warm.mean_ms) == (None, pytest.approx(31.1181))
    with pytest.raises(BenchError, match="cut off after its warm-up"):
        parse(TIMED)


def test_an_error_that_it_survived_is_kept() -> None:
    found = parse(f"ERROR: Failed to apply GPU delegate.\n{WARM}{TIMED}{TIMINGS}")
    assert found.facts["errors"] == ["Failed to apply GPU delegate."]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "nothing at all"),
        ("INFO: STARTING!\n", "no measurement; its last lines: INFO: STARTING!"),
        (f"{WARM}count=20 first=31500 curr=30900 min=30718 max=364", "after its warm-up"),
        ("count=0\n\ncount=0\n", "ran no inference.*--dry_run"),
        ("ERROR: Could not open 'm.tflite'.\nBenchmarking failed.\n", r"failed \(Could not open"),
        (f"{WARM}count=20 curr=7\n{TIMINGS}", "of different runs"),
        ("Timings (microseconds): count=1 curr=14\nMemory (bytes): count=0\n", "no measurement"),
        ("Inference timings in us: Init: 1, Inference (avg): 345", "no measurement"),
    ],
)
def test_what_holds_no_measurement_is_refused(text: str, why: str) -> None:
    with pytest.raises(BenchError, match=why) as refused:
        parse(text)
    assert refused.value.hint
