"""Reads what TFLite's and LiteRT's ``benchmark_model`` print.

Both print one ``count=… avg=…`` line in µs for the warm-up and one for the measurement (on
stdout). TFLite then repeats the means in a line ``Inference timings in us``; LiteRT prints a block
of results in ms with two decimals instead (on stderr). Either half is enough; where both are, the
lines in µs win and the block fills the rest. With op profiling further ``count=`` follow, in lines
that begin with ``Timings`` or ``Memory``: they are the profiler's and no measurement.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torchopt2edge.bench.vendor_tools.summary import MIB, ToolSummary
from torchopt2edge.bench.vendor_tools.text import (
    NUMBER,
    Line,
    nothing,
    positive,
    read,
    spread,
    whole,
)
from torchopt2edge.errors import BenchError
from torchopt2edge.types import Facts

NAME = "benchmark_model"
PYTHON = "litert-benchmark"

_US = 1e-3
_ERRORS = 5
_WHOLE = "give it the whole output of one run, as it was written, with its last line break"
_COUNT = re.compile(r"count=\d+\b")
_FIELD = re.compile(rf"(\w+)=({NUMBER})")
_TIMINGS = re.compile(r"(?:Average i|I)nference timings in us:(.*)")
_TIMING = re.compile(rf"([A-Za-z][\w ()]*?):\s*({NUMBER})")
_BLOCK = re.compile(
    r"(Model initialization|Warmup \(\w+\)|Inference \(\w+\)|Init footprint|Overall footprint"
    rf"|Peak memory|Throughput):\s+({NUMBER})(?:.*\((\d+) runs\))?"
)
_DELEGATE = re.compile(
    r"Replacing (\d{1,9}) out of (\d{1,9}) node\(s\) with delegate \((\w+)\) node, "
    r"yielding (\d{1,9}) partition"
)
_DELTA = re.compile(rf"(?:Peak m|M)emory footprint.*: init=({NUMBER}) overall=({NUMBER})")
_SAID = {  # the last one of each is taken
    "model": re.compile(r"Graph: \[(.+)\]|Loaded model (.+)"),
    "threads": re.compile(rf"(?:Num threads|#threads used for CPU inference): \[({NUMBER})\]"),
    "init": re.compile(rf"Initialized session in ({NUMBER})ms"),
    "size": re.compile(rf"The input model file size \(MB\): ({NUMBER})"),
    "peak": re.compile(rf"Overall peak memory footprint \(MB\) via .*: ({NUMBER})"),
    "signature": re.compile(r"Signature name:\s+(.+)"),
    "python": re.compile(r"(Inference \(median\)):"),
}


@dataclass(frozen=True)
class _Stat:
    """One ``count=`` line, or the block's inference lines, in ms."""

    count: int | None = None
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    std: float | None = None
    median: float | None = None
    first: float | None = None
    percentiles: Mapping[float, float] = field(default_factory=dict)


def parse(text: str) -> ToolSummary:
    """Return the measurement of the last run in an output (stdout, stderr or both, logcat too).

    Raises:
        BenchError: it holds none, or its lines are of several runs.
    """
    lines = _last_run(read(text))
    said = {name: _last(pattern, lines) for name, pattern in _SAID.items()}
    stats = [_stat(line.text) for line in lines if _COUNT.match(line.text)]
    timings, block = _timings(lines), _block(lines)
    warm, main = _assign(text, stats, timings, block)
    rough = _rough(block)
    peak = positive(said["peak"]) or block.get("Peak memory")
    if main.mean is None:
        raise _unmeasured(text, lines, stats)
    return ToolSummary(
        PYTHON if said["python"] else NAME,
        _generation(lines, block),
        model=said["model"],
        threads=whole(said["threads"]),
        runs=main.count or rough.count,
        mean_ms=main.mean,
        median_ms=main.median or rough.median,
        min_ms=main.low or rough.low,
        max_ms=main.high or rough.high,
        std_ms=rough.std if main.std is None else main.std,
        percentiles=main.percentiles or rough.percentiles,
        init_ms=timings.get("init") or block.get("Model initialization") or positive(said["init"]),
        first_ms=warm.first or timings.get("first inference") or block.get("Warmup (first)"),
        warmup_ms=warm.mean or timings.get("warmup") or block.get("Warmup (avg)"),
        memory_mb=None if peak is None else peak * MIB,
        facts=_facts(lines, said, block, warm.count, bool(stats or timings)),
    )


def _last_run(lines: list[Line]) -> list[Line]:
    """A shell loop's output holds many runs, each of which begins so.

    What is in front of a lone beginning is the same run's: into a file or a pipe, stderr comes
    first and stdout when the tool ends.
    """
    starts = [at for at, line in enumerate(lines) if line.text == "STARTING!"]
    if not starts:
        return lines
    before = lines[: starts[-1]]
    other = any(_COUNT.match(line.text) or _TIMINGS.match(line.text) for line in before)
    return lines[starts[-1] :] if other or len(starts) > 1 else lines


def _last(pattern: re.Pattern[str], lines: Sequence[Line]) -> str | None:
    found = [match for line in lines if (match := pattern.match(line.text))]
    return next(filter(None, found[-1].groups()), None) if found else None


def _stat(text: str) -> _Stat:
    """``curr=`` alone stands for all values when they are equal, or when there is one."""
    found = {name: float(value) for name, value in _FIELD.findall(text)}
    ms = {name: at * _US for name, value in found.items() if (at := positive(value))}
    count, alone = whole(found.get("count")), "avg=" not in text
    same = ms.get("curr") if alone else None
    std = spread(found.get("std", 0.0 if same and (count or 0) > 1 else None))
    return _Stat(
        count,
        mean=same or ms.get("avg"),
        low=same or ms.get("min"),
        high=same or ms.get("max"),
        std=None if std is None else std * _US,
        median=same or ms.get("median"),
        first=same or ms.get("first"),
        percentiles={float(at): ms[f"p{at}"] for at in (5, 95) if f"p{at}" in ms},
    )


def _timings(lines: Sequence[Line]) -> dict[str, float]:
    """The means in ms by ``init``, ``first inference``, ``warmup`` and ``inference``.

    In 2019 the inference was called ``no stats`` (and ``with stats`` when profiled).
    """
    told = _last(_TIMINGS, lines)
    names = {"no stats": "inference", "with stats": "inference"}
    found = {}
    for name, value in _TIMING.findall(told or ""):
        key = name.lower().removesuffix(" (avg)")
        if (number := positive(value)) is not None:
            found[names.get(key, key)] = number * _US
    return found


def _block(lines: Sequence[Line]) -> dict[str, float]:
    """The results that LiteRT prints, in ms (and MiB), and the runs behind its two means."""
    found: dict[str, float] = {}
    for line in lines:
        if match := _BLOCK.match(line.text):
            if (number := positive(match[2])) is not None:
                found[match[1]] = number
            if match[3] and (runs := whole(match[3])):
                found[f"{match[1]} runs"] = runs
    return found


def _rough(block: Mapping[str, float]) -> _Stat:
    def of(name: str) -> float | None:
        return block.get(f"Inference ({name})")

    return _Stat(
        whole(block.get("Inference (avg) runs")),
        of("avg"),
        of("min"),
        of("max"),
        of("std"),
        of("median"),
        percentiles={float(at): value for at in (5, 95) if (value := of(f"p{at}"))},
    )


def _assign(
    text: str,
    stats: Sequence[_Stat],
    timings: Mapping[str, float],
    block: Mapping[str, float],
) -> tuple[_Stat, _Stat]:
    """Tell the warm-up's ``count=`` line from the measurement's: return both.

    A run writes two of them, so where nothing repeats the mean, a lone one is the warm-up's and
    the tool died behind it. Where the mean is repeated, the line must agree with it.
    """
    mean, rough = timings.get("inference"), _rough(block)
    if mean is None and rough.mean is None:
        return (stats[-2], stats[-1]) if stats and len(stats) % 2 == 0 else (_Stat(), _Stat())
    stated = _Stat(mean=mean) if mean is not None else rough
    if not stats:
        return _Stat(), stated
    if _agree(stats[-1].mean, mean, rough.mean):
        return (stats[-2] if len(stats) > 1 else _Stat()), stats[-1]
    if len(stats) == 1 and _agree(stats[0].mean, timings.get("warmup"), block.get("Warmup (avg)")):
        return stats[0], stated
    raise nothing(NAME, text, "its lines of counts and of results are of different runs", _WHOLE)


def _agree(mean: float | None, exact: float | None, rough: float | None) -> bool:
    """Six digits are printed of the one, two decimals of the other."""
    if mean is None:
        return False
    if exact is not None:
        return math.isclose(mean, exact, rel_tol=1e-4)
    return rough is not None and math.isclose(mean, rough, rel_tol=1e-4, abs_tol=0.006)


def _generation(lines: Sequence[Line], block: Mapping[str, float]) -> str:
    if any("BENCHMARK RESULTS" in line.text for line in lines) or "Inference (avg)" in block:
        return "litert"
    if any(line.text.startswith("Average inference timings") for line in lines):
        return "tflite-2019"
    return "tflite" if _last(_TIMINGS, lines) else "unstated"


def _facts(
    lines: Sequence[Line],
    said: Mapping[str, str | None],
    block: Mapping[str, float],
    warm: int | None,
    fine: bool,
) -> Facts:
    """What else was said; ``delegates`` is who took how many nodes."""
    delegates = [
        {
            "name": match[3],
            "replaced": int(match[1]),
            "nodes": int(match[2]),
            "partitions": int(match[4]),
        }
        for line in lines
        if (match := _DELEGATE.match(line.text))
    ]
    found = {
        "resolution_ms": _US if fine else 0.01,
        "warmup_runs": warm or whole(block.get("Warmup (avg) runs")),
        "model_size_mb": positive(said["size"]),
        "memory_delta_mb": _delta(lines, block),
        "signature": said["signature"],
        "throughput_mb_s": block.get("Throughput"),
        "delegates": delegates,
        "errors": [line.text for line in lines if line.error][:_ERRORS],
    }
    return {name: value for name, value in found.items() if value not in (None, [], {})}


def _delta(lines: Sequence[Line], block: Mapping[str, float]) -> dict[str, float]:
    """How far the process grew until it was initialized and over all, in 1e6 bytes."""
    match = next((m for line in reversed(lines) if (m := _DELTA.match(line.text))), None)
    told = {
        "init": positive(match[1]) if match else block.get("Init footprint"),
        "overall": positive(match[2]) if match else block.get("Overall footprint"),
    }
    return {name: value * MIB for name, value in told.items() if value is not None}


def _unmeasured(text: str, lines: Sequence[Line], stats: Sequence[_Stat]) -> BenchError:
    errors = [line.text for line in lines if line.error]
    if errors:
        return nothing(NAME, text, f"it failed ({errors[0][:200]})", "fix what it complains of")
    if stats and stats[-1].count is None:
        return nothing(NAME, text, "it ran no inference", "leave --dry_run out, ask for --num_runs")
    if stats:
        return nothing(NAME, text, "it was cut off after its warm-up", _WHOLE)
    return nothing(NAME, text, "it printed no measurement", _WHOLE)
