"""Reads the file that Python's ``litert-benchmark --result_json`` writes.

It rounds everything to two decimals of a millisecond. So a model of a few dozen µs is one of
"0.01 ms" there, and below 5 µs it takes no time at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torchopt2edge.bench.vendor_tools.benchmark_model import PYTHON
from torchopt2edge.bench.vendor_tools.summary import MIB, ToolSummary
from torchopt2edge.bench.vendor_tools.text import nothing, positive, spread, whole
from torchopt2edge.types import Facts

_FILE = "give it the text of the file that --result_json named"


def parse(text: str) -> ToolSummary:
    """Return the measurement in a result file.

    Raises:
        BenchError: it is no such file, or the model was too fast for two decimals.
    """
    told = _load(text)
    latency = told["latency"]
    ms = {name: positive(value) for name, value in latency.items() if _is_number(value)}
    if ms.get("avg_ms") is None:
        raise nothing(
            PYTHON,
            text,
            "its mean is nothing in two decimals of a millisecond",
            "time a model this fast with benchmark_model or with this project's own runner",
        )
    size = _number(told, "model_size_mb")
    return ToolSummary(
        PYTHON,
        "json",
        model=model if isinstance(model := told.get("model"), str) else None,
        threads=whole(_number(told, "num_threads")),
        runs=whole(ms.get("num_runs")),
        mean_ms=ms["avg_ms"],
        median_ms=ms.get("median_ms"),
        min_ms=ms.get("min_ms"),
        max_ms=ms.get("max_ms"),
        std_ms=spread(std) if _is_number(std := latency.get("std_ms")) else None,
        percentiles={float(at): value for at in (5, 95) if (value := ms.get(f"p{at}_ms"))},
        init_ms=ms.get("init_ms"),
        first_ms=ms.get("warmup_first_ms"),
        warmup_ms=ms.get("warmup_avg_ms"),
        facts=_facts(told, whole(ms.get("num_warmup_runs")), size),
    )


def _load(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise nothing(PYTHON, text, "it is not a whole JSON file", _FILE) from error
    if not isinstance(told, dict) or not isinstance(told.get("latency"), dict):
        raise nothing(PYTHON, text, "it holds no 'latency'", _FILE)
    return told


def _is_number(value: object) -> bool:
    """JSON's numbers; an integer that no float holds is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**63


def _number(told: Mapping[str, Any], name: str) -> float | None:
    value = told.get(name)
    return positive(value) if _is_number(value) else None


def _facts(told: Mapping[str, Any], warm: int | None, size: float | None) -> Facts:
    names = ("accelerators", "signature", "fully_accelerated")
    found = {
        "resolution_ms": 0.01,
        "warmup_runs": warm,
        "model_size_mb": None if size is None else size * MIB,
        "throughput_mb_s": _number(told, "throughput_mb_s"),
        **{name: told.get(name) for name in names},
    }
    return {name: value for name, value in found.items() if value is not None}
