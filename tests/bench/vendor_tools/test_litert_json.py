"""The result file of Python's litert-benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from torchopt2edge.bench.vendor_tools.benchmark_model import parse as parse_text
from torchopt2edge.bench.vendor_tools.litert_json import parse
from torchopt2edge.errors import BenchError

CAPTURED = Path(__file__).parent / "captured"
TEXT = (CAPTURED / "litert_python.json").read_text()


def changed(**latency: object) -> str:
    """Return the file with other latencies; None takes one out."""
    told: dict[str, Any] = json.loads(TEXT)
    merged = {**told["latency"], **latency}
    told["latency"] = {name: value for name, value in merged.items() if value is not None}
    return json.dumps(told)


def test_a_file_is_read() -> None:
    found = parse(TEXT)
    assert (found.tool, found.threads, found.runs) == ("litert-benchmark", 1, 20)
    assert (found.mean_ms, found.median_ms, found.std_ms) == (1.97, 1.96, 0.06)
    assert (found.init_ms, found.first_ms, found.warmup_ms) == (4.66, 2.31, 2.12)
    assert found.percentiles == {5: 1.9, 95: 2.08}
    assert found.facts["accelerators"] == ["CPU"]
    assert found.facts["model_size_mb"] == pytest.approx(3.79 * 1.048576)


def test_it_says_what_the_tool_printed() -> None:
    printed, kept = parse_text((CAPTURED / "litert_python_merged.txt").read_text()), parse(TEXT)
    names = "runs mean_ms median_ms min_ms max_ms std_ms percentiles init_ms first_ms warmup_ms"
    for name in names.split():
        assert getattr(printed, name) == getattr(kept, name), name


def test_windows_writes_it_too() -> None:
    assert parse("\ufeff" + TEXT.replace("\n", "\r\n")) == parse(TEXT)


def test_zero_in_two_decimals_is_unknown() -> None:
    found = parse(changed(min_ms=0.0, warmup_avg_ms=0, num_warmup_runs=0, p5_ms=0.0, std_ms=0))
    assert (found.min_ms, found.warmup_ms, found.std_ms) == (None, None, 0.0)
    assert "warmup_runs" not in found.facts
    assert found.percentiles == {95: 2.08}


def test_what_is_not_there_is_none() -> None:
    found = parse('{"latency": {"avg_ms": 2}}')
    assert (found.mean_ms, found.median_ms, found.model, found.threads) == (2.0, None, None, None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no whole JSON|not a whole JSON"),
        (TEXT[:200], "not a whole JSON"),
        ("[1]", "holds no 'latency'"),
        ('{"latency": 3}', "holds no 'latency'"),
        (changed(avg_ms=0.0), "two decimals.*own runner"),
        (changed(avg_ms="1.9"), "two decimals"),
        (changed(avg_ms=float("nan")), "two decimals"),
        (changed(avg_ms=10**400), "two decimals"),
        (changed(avg_ms=True), "two decimals"),
        ("9" * 5000, "not a whole JSON"),
        ("[" * 200_000, "not a whole JSON"),
    ],
)
def test_what_is_no_result_is_refused(text: str, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        parse(text)
