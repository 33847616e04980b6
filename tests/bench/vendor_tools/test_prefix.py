"""A tool that dies, a link that drops: any part of an output is read right or refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchopt2edge.bench.vendor_tools import benchmark_model, litert_json, op_profile, perf_test
from torchopt2edge.bench.vendor_tools import result_proto as proto
from torchopt2edge.bench.vendor_tools.summary import MIB, ToolSummary
from torchopt2edge.bench.vendor_tools.text import NUMBER
from torchopt2edge.errors import BenchError

CAPTURED = Path(__file__).parent / "captured"
NAMES = sorted(path.name for path in CAPTURED.glob("*.*") if path.suffix != ".md")
TIMES = "mean_ms median_ms min_ms max_ms std_ms init_ms first_ms warmup_ms memory_mb".split()
SHOWN = ("ms", "share")  # of an operator
UNITS = (1.0, 1e3, 1e-3, 1e-6, MIB)
STDOUT = """STARTING!
Num threads: [2]
Graph: [m.tflite]
count=9 first=91020 curr=55300 min=54900 max=91020 avg=60125.5 std=11800

count=20 first=31500 curr=30900 min=30718 max=36410 avg=31118.1 std=1323

"""
STDERR = """INFO: [environment.cc:36] Creating LiteRT environment with options
VERBOSE: Replacing 58 out of 58 node(s) with delegate (X) node, yielding 1 partitions.
========== BENCHMARK RESULTS ==========
INFO: [benchmark_litert_model.h:94] Model initialization: 21.43 ms
INFO: [benchmark_litert_model.h:98] Warmup (avg):         60.13 ms (9 runs)
INFO: [benchmark_litert_model.h:100] Inference (avg):      31.12 ms (20 runs)
INFO: [benchmark_litert_model.h:128] Overall footprint:    6.00 MB
"""
MARKS = ("", "", "INFO: ", "ERROR: ", "[a.h:1] ", "I/tflite( ): ", "\x1b[1m", "STARTING!\n", "{")
KEYS = (
    "count=3 avg=", "count=5 curr=", "count=9 first=7 curr=7 min=7 max=7 avg=7 std=", "====",
    "Inference timings in us: Init: 5, Inference (avg): ", "Inference (avg):  ",
    "Average inference time cost: ", "Session creation time cost: ", "P50 Latency: ",
    "Max Latency: ", '{"latency": {"avg_ms": ', "Top by Computation Time\n",
    "[node type]\t[avg ms]\t[%]\t[Name]\nCONV\t",
)  # fmt: skip
VALUES = ("", "nan", "inf", "-1", "0", "1e999", "3.5", "7", "7e3")
ENDS = (  # of a line, cut or whole
    "",
    "\n",
    "\n",
    "\r\n",
    " ms\n",
    " s\n",
    "sec\n",
    "}}\n",
    "\t50%\tnet/conv\n",
    " (4 runs)\n",
)
RUBBISH = st.lists(
    st.tuples(*map(st.sampled_from, (MARKS, KEYS, VALUES, ENDS))).map("".join), max_size=8
).map("".join)


def parser(name: str) -> Callable[[str], ToolSummary]:
    """Return the reader of a captured file."""
    if name.endswith(".json"):
        return litert_json.parse
    return perf_test.parse if name.startswith("perf_test") else benchmark_model.parse


def attempt(parse: Callable[[Any], Any], text: Any) -> Any:
    """Return what a reader says, None where it refuses; anything else it raises is a failure."""
    try:
        return parse(text)
    except BenchError:
        return None


def numbers(found: ToolSummary) -> Mapping[str, float]:
    """Return the numbers that are known, by name."""
    told = {name: getattr(found, name) for name in (*TIMES, "runs", "threads")}
    spread = {f"p{at}": value for at, value in found.percentiles.items()}
    return {name: value for name, value in {**told, **spread}.items() if value is not None}


def sound(found: Any, text: str) -> None:
    """Assert that what was read, if anything, is numbers that can be, and that were printed."""
    if found is None:
        return
    summary = isinstance(found, ToolSummary)
    values = numbers(found).items() if summary else [*((k, r[k]) for r in found for k in SHOWN)]
    printed = [0.0, *(float(one) for one in re.findall(NUMBER, text))]  # equal values spread by 0
    for label, value in values:
        least = 0.0 if label in ("std_ms", *SHOWN) else 1e-300
        assert least <= value < math.inf, (label, value)
        units = (1.0,) if label in ("runs", "threads", *SHOWN) else UNITS
        assert any(
            math.isclose(value, one * unit, rel_tol=1e-6) or (unit == 1.0 and value == int(one))
            for one in printed
            if math.isfinite(one)
            for unit in units
        ), (label, value)
    if summary:
        assert found.mean_ms or found.median_ms or found.min_ms or found.max_ms or found.percentiles


@pytest.mark.parametrize("name", NAMES)
def test_no_prefix_gives_another_number(name: str) -> None:
    """Every prefix; the sixth digit may differ, since one line prints six and another seven."""
    text = (CAPTURED / name).read_text()
    whole = attempt(parser(name), text)
    for end in range(len(text)):
        part = attempt(parser(name), text[:end])
        for label, value in numbers(part).items() if part else ():
            if name == "tflite_2019_cut.txt":  # the first run of two is whole
                assert value == numbers(benchmark_model.parse(text.partition("echo")[0]))[label]
            else:
                assert math.isclose(value, numbers(whole)[label], rel_tol=1e-5), (end, label)


@pytest.mark.parametrize("name", NAMES)
def test_every_capture_is_read(name: str) -> None:
    """So the property above is not kept by refusing everything."""
    text = (CAPTURED / name).read_text()
    assert (attempt(parser(name), text) is None) == (name == "tflite_2019_cut.txt")


@settings(max_examples=200, deadline=None)
@given(RUBBISH)
def test_rubbish_is_refused_or_read_and_nothing_else(text: str) -> None:
    for parse in (benchmark_model.parse, perf_test.parse, litert_json.parse, op_profile.table):
        sound(attempt(parse, text), text)
        sound(attempt(parse, text + "\n"), text)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_lines_that_are_lost_or_doubled_break_nothing(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    lines = (CAPTURED / name).read_text().splitlines(keepends=True)
    kept = data.draw(st.lists(st.integers(0, len(lines) - 1), max_size=len(lines)))
    text = "".join(lines[at] for at in kept)
    for parse in (parser(name), op_profile.table):
        sound(attempt(parse, text), text)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_two_streams_may_mingle_by_lines(data: st.DataObject) -> None:
    """Into a terminal they alternate; into a file, stderr comes whole before stdout."""
    out, err = STDOUT.splitlines(True), STDERR.splitlines(True)
    turns = data.draw(st.permutations([out] * len(out) + [err] * len(err)))
    streams = {id(out): iter(out), id(err): iter(err)}
    text = "".join(next(streams[id(turn)]) for turn in turns)
    assert benchmark_model.parse(text) == benchmark_model.parse(STDERR + STDOUT)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_result_or_refused(data: bytes) -> None:
    """In front of whatever follows, a mean that is there stays what it is, or is refused."""
    mean = b"\x12\x05\x0d\x00\x00\xc0\x3f"  # field 2 {field 1: 1.5f}
    assert proto.parse(mean).mean_ms == 1.5
    found = attempt(proto.parse, mean + data)
    assert found is None or all(0 <= value < math.inf for value in numbers(found).values())
    if found is not None and not data.startswith(b"\x12") and b"\x12" not in data:
        assert found.mean_ms == 1.5


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".txt")])
@pytest.mark.parametrize("parse", [benchmark_model.parse, perf_test.parse])
def test_decimal_commas_are_never_read_as_whole_numbers(
    name: str, parse: Callable[[str], ToolSummary]
) -> None:
    """Some locales write them: ``1,97 ms`` is not one millisecond."""
    text = (CAPTURED / name).read_text()
    try:
        told = parse(text)
    except BenchError:
        return
    try:
        found = parse(re.sub(r"(\d)\.(\d)", r"\1,\2", text))
    except BenchError as error:
        found, said = None, error.hint or ""
    if found is None:
        assert "LC_ALL=C" in said
    else:
        assert all(getattr(found, at) in (None, getattr(told, at)) for at in TIMES)
