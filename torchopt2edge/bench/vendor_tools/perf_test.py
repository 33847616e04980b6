"""Reads what ``onnxruntime_perf_test`` prints, in all four of its wordings.

========== ======================================================================================
generation how it is known
========== ======================================================================================
0.5        ``Average time cost``, ``Min Latency is 0.0559777 sec``
1.1        ``Average inference time cost:734.606 ms``, without a space
1.3        ``Average inference time cost: 1.85739 ms``
1.23       ``Average inference time cost total: 98.961997 ms``
========== ======================================================================================

Totals and percentiles are in seconds and the mean in milliseconds; the first inference is cut to
whole milliseconds. Percentile x of n runs is the value at ``floor(n * x)`` of the sorted ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torchopt2edge.bench.vendor_tools.summary import ToolSummary
from torchopt2edge.bench.vendor_tools.text import Line, duration, nothing, positive, read, whole
from torchopt2edge.types import Facts

NAME = "onnxruntime_perf_test"

_BYTES = 1e6
_ERRORS = 5
_WHOLE = "give it the whole output of one run, as it was written, with its last line break"
_MEAN = re.compile(r"Average (inference )?time cost( total)?:(\s*)(.+)")
_OPENS = re.compile(r"Setting intra_op|Session creation|First inference|Total (inference )?time")
_LATENCY = re.compile(r"(Min|Max|P\d+) Latency(?: is|:)\s*(.+)")
_SAID = {  # the first one of each is taken: the second copy of some has no unit
    "threads": re.compile(r"Setting intra_op_num_threads to (\d+)"),
    "init": re.compile(r"Session creation time cost:\s*(.+)"),
    "first": re.compile(r"First inference time cost:\s*(.+)"),
    "runs": re.compile(r"(?:Total inference requests|Total iterations|Runs):\s*(\d+)"),
    "peak": re.compile(r"Peak working set size:\s*(\d+)"),
    "cpu": re.compile(r"(?:Avg|Total) CPU usage:\s*(\d+)"),
    "rate": re.compile(r"Number of inferences per second:\s*(\S+)"),
    "provider": re.compile(r"using (\w+ExecutionProvider)"),
    "spinning": re.compile(r"Disabling intra-op thread spinning (.+)"),
}
_HINTS = (
    ("there is no test", "let it make its inputs: -I"),
    ("Session creation time cost", "leave -n out, or see why it stopped after its session"),
    ("", _WHOLE),
)


def parse(text: str) -> ToolSummary:
    """Return the measurement of the last run in an output, or the statistics of a result file.

    Where the mean is above the maximum, the statistics are of the submission of the work and not
    of the work (on a GPU, before onnxruntime#26313): they are kept in ``facts`` alone.

    Raises:
        BenchError: it holds none.
    """
    lines = [line.text for line in _last_run(read(text))]
    mean = next((found for each in lines if (found := _MEAN.match(each))), None)
    mean_ms = duration(mean[4]) if mean else None
    spread = _spread(lines)
    if mean_ms is None and not spread:
        hint = next(hint for sign, hint in _HINTS if sign in text)
        raise nothing(NAME, text, "it printed no measurement", hint)
    told = {name: _first(pattern, lines) for name, pattern in _SAID.items()}
    submitted = mean_ms is not None and mean_ms > 1.0001 * spread.get("Max", mean_ms)
    kept = {} if submitted else spread
    peak = positive(told["peak"])
    return ToolSummary(
        NAME,
        _generation(mean, lines),
        threads=whole(told["threads"]),
        runs=whole(told["runs"]),
        mean_ms=mean_ms,
        median_ms=kept.get("P50"),
        min_ms=kept.get("Min"),
        max_ms=kept.get("Max"),
        percentiles={_percent(name): value for name, value in kept.items() if _percent(name)},
        init_ms=duration(told["init"]),
        first_ms=duration(told["first"]),
        memory_mb=None if peak is None else peak / _BYTES,
        facts=_facts(lines, told, spread if submitted else {}),
    )


def _last_run(lines: Iterable[Line]) -> list[Line]:
    """A run begins where one of the opening lines follows a mean."""
    run: list[Line] = []
    ended = False
    for line in lines:
        if ended and _OPENS.match(line.text):
            run, ended = [], False
        ended = ended or _MEAN.match(line.text) is not None
        run.append(line)
    return run


def _first(pattern: re.Pattern[str], lines: Iterable[str]) -> str | None:
    return next((found[1] for each in lines if (found := pattern.match(each))), None)


def _spread(lines: Iterable[str]) -> dict[str, float]:
    """The latencies in ms by ``Min``, ``Max``, ``P50`` …, each of which carries its unit."""
    found = [match for each in lines if (match := _LATENCY.match(each))]
    told = {match[1]: duration(match[2]) for match in found}
    return {name: value for name, value in told.items() if value is not None}


def _percent(name: str) -> float:
    """90 for P90 and 99.9 for P999; 0 for what is no percentile of its own."""
    digits = name[1:]
    if not digits.isdecimal() or name == "P50" or len(digits) > 4:
        return 0.0
    return float(f"{digits[:2]}.{digits[2:] or 0}")


def _generation(mean: re.Match[str] | None, lines: Iterable[str]) -> str:
    if mean is None:
        return "0.5" if any(" Latency is " in each for each in lines) else "unstated"
    if not mean[1]:
        return "0.5"
    if mean[2]:
        return "1.23"
    return "1.3" if mean[3] else "1.1"


def _facts(
    lines: Iterable[str], told: Mapping[str, str | None], submission: Mapping[str, float]
) -> Facts:
    rate = told["rate"]
    found = {
        "provider": told["provider"],
        "spinning_disabled": told["spinning"],
        "cpu_percent": whole(told["cpu"]),
        "inferences_per_s": float(rate) if rate and re.fullmatch(r"[\d.]+", rate) else None,
        "submission_ms": dict(submission),
        "errors": [each for each in lines if "[E:onnxruntime" in each][:_ERRORS],
    }
    return {name: value for name, value in found.items() if value not in (None, {}, [])}
