"""A tool's row stands beside the harness's and takes no part in a verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from torchopt2edge.bench.vendor_tools import benchmark_model, perf_test
from torchopt2edge.bench.vendor_tools.measurement import row
from torchopt2edge.bench.vendor_tools.summary import ToolSummary
from torchopt2edge.errors import BenchError
from torchopt2edge.types import Constraints, Measurement
from torchopt2edge.verdict.decide import decide

CAPTURED = Path(__file__).parent / "captured"
WHO = {"candidate": "litert-fp32", "backend": "litert", "scheme": "fp32", "device": "phone"}


def read(name: str) -> ToolSummary:
    """Return the summary of a captured output."""
    parse = perf_test.parse if name.startswith("perf") else benchmark_model.parse
    return parse((CAPTURED / f"{name}.txt").read_text())


def test_metrics_are_what_is_known() -> None:
    made = row(read("tflite_logcat"), **WHO)
    assert made.metrics == pytest.approx(
        {
            "latency_ms": 141.253,
            "mean_ms": 145.528,
            "p50_ms": 141.253,
            "min_ms": 140.071,
            "max_ms": 195.121,
            "std_ms": 13.583,
            "p5_ms": 140.545,
            "p95_ms": 187.533,
            "init_ms": 92.318,
            "first_ms": 235.158,
            "warmup_ms": 211.669,
            "size_mb": 3.06409,
            "runs": 25.0,
        }
    )
    assert made.latency_ns == []
    assert (made.protocol, made.device, made.err) == ("tool:benchmark_model", "phone", None)


def test_the_receipt_names_tool_wording_and_statistic() -> None:
    facts = row(read("perf_test_1_22"), **WHO).facts
    assert facts["runner"] == "onnxruntime_perf_test"
    assert (facts["generation"], facts["latency_is"]) == ("1.3", "median")
    assert "p99.9_ms" in row(read("perf_test_1_22"), **WHO).metrics
    mean = row(read("tflite_2020"), **WHO)
    assert mean.facts["latency_is"] == "mean"
    assert mean.metrics["latency_ms"] == mean.metrics["mean_ms"]
    assert "p50_ms" not in mean.metrics
    assert (mean.facts["threads"], mean.facts["model"][:6]) == (4, "/data/")


def test_it_says_that_it_is_a_cross_check() -> None:
    facts = row(read("tflite_2020"), **WHO).facts
    assert facts["flags"] == ["summary-only"]
    sentence = facts["warnings"]["summary-only"]
    assert "keeps no samples" in sentence
    assert "no part in a verdict" in sentence


def test_a_survived_error_is_a_flag() -> None:
    found = read("tflite_2020")
    failed = replace(found, facts={**found.facts, "errors": ["Failed to apply GPU delegate."]})
    facts = row(failed, **WHO).facts
    assert facts["flags"] == ["summary-only", "tool-errors"]
    assert "GPU delegate" in facts["warnings"]["tool-errors"]


def test_no_verdict_takes_it() -> None:
    found = decide([row(read("tflite_2020"), **WHO)], Constraints(None), None)
    assert found.winner is None
    assert found.tie == ()


def test_it_is_plain_data() -> None:
    made = row(read("perf_test_1_23"), **WHO)
    assert Measurement.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_a_summary_without_a_latency_is_no_row() -> None:
    with pytest.raises(BenchError, match="neither a median nor a mean"):
        row(ToolSummary("benchmark_model", "tflite", min_ms=1.0), **WHO)
