"""Has a runtime's own benchmark tool time a file that was timed here: a row beside, a cross-check.

The tool runs on the device, alone, with the threads and on the cores of the row that it checks.
What it says has no samples behind it, was not measured in turns with anything and is not of checked
outputs, so its row names itself a cross-check and takes no part in a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Protocol, runtime_checkable

import numpy as np

from torchopt2edge.bench.vendor_tools import benchmark_model, command, perf_test
from torchopt2edge.bench.vendor_tools.measurement import row
from torchopt2edge.bench.vendor_tools.summary import ToolSummary
from torchopt2edge.devices.remote.command import KILLED, THERE
from torchopt2edge.devices.remote.transport import Finished
from torchopt2edge.errors import BenchError, EdgeError
from torchopt2edge.types import Facts, Measurement

SECONDS = 2.0
"""How long a tool should time a file, within `LEAST` and `MOST` inferences."""
LEAST, MOST = 50, 10_000
APART = 1.25
"""Beyond this ratio, either way, the two do not measure the same thing."""

_WARM_UP = 5
_LOADING_S = 120.0
_SLOWER = 10.0  # than what we measured: the tool may take so much more before it is given up
_COARSE = 0.02
_LAST_LINES = 4


@runtime_checkable
class Tooled(Protocol):
    """A device that runs plain programs; ``native_tools`` maps a backend to its own tool."""

    @property
    def name(self) -> str:
        """The word in the rows' ``device``."""

    @property
    def threads(self) -> int:
        """Intra-op threads of every session."""

    @property
    def native_tools(self) -> Mapping[str, str | None]:
        """Backend → a path here, or ``device:`` and a program there."""

    def push(self, file: Path) -> str:
        """Bring a file there and return its path there."""

    def execute(self, argv: Sequence[str], timeout_s: float) -> Finished:
        """Run a program there to its end."""


@dataclass(frozen=True)
class Tool:
    """How one tool is called and read; ``command`` takes program, file, threads and runs."""

    name: str
    command: Callable[[str, str, int, int], list[str]]
    parse: Callable[[str], ToolSummary]


def tool_of(backend: str, program: str) -> Tool:
    """Return the tool that a program is: Python's ``litert-benchmark`` is told by its name."""
    if backend == "ort":
        return Tool(perf_test.NAME, _perf_test, perf_test.parse)
    if PurePath(program.removeprefix(THERE)).name.startswith(benchmark_model.PYTHON):
        return Tool(benchmark_model.PYTHON, _litert_benchmark, benchmark_model.parse)
    return Tool(benchmark_model.NAME, _benchmark_model, benchmark_model.parse)


def check(timed: Measurement, device: Tooled) -> Measurement:
    """Return what the device's own tool says of the file that a row is of.

    ``facts["cross_check"]`` is the sentence for a reader, ``facts["checks"]`` the candidate,
    ``facts["ratio"]`` the tool's latency over ours, median over median, or mean over mean where
    the tool states no median. A tool that fails is a row with ``err``.
    """
    place = device.native_tools[timed.backend] or ""
    tool = tool_of(timed.backend, place)
    name = f"{timed.candidate} ({tool.name})"
    who = timed.backend, timed.scheme, device.name
    try:
        found = _summary(tool, place, timed, device)
        made = row(found, candidate=name, backend=who[0], scheme=who[1], device=who[2])
    except EdgeError as error:
        facts: Facts = {"runner": tool.name, "checks": timed.candidate, "flags": [], "warnings": {}}
        return Measurement(name, *who, f"tool:{tool.name}", facts=facts, err=str(error))
    return _beside(made, timed, device)


def _summary(tool: Tool, place: str, timed: Measurement, device: Tooled) -> ToolSummary:
    there = place.startswith(THERE)
    program = place.removeprefix(THERE) if there else device.push(Path(place).expanduser())
    latency_s = timed.metrics["latency_ms"] / 1e3
    runs = min(MOST, max(LEAST, math.ceil(SECONDS / latency_s)))
    argv = tool.command(program, device.push(Path(timed.facts["file"])), device.threads, runs)
    limit_s = _LOADING_S + _SLOWER * (runs + _WARM_UP) * latency_s
    done = device.execute(argv, limit_s)
    # Into files, as here, a tool's stderr comes before its stdout.
    text = "\n".join(part.decode(errors="replace") for part in (done.stderr, done.stdout))
    if done.code:
        raise _failed(done.code, argv, text, limit_s)
    return tool.parse(f"{text}\n")


def _failed(code: int, argv: Sequence[str], text: str, limit_s: float) -> BenchError:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = " | ".join(lines[-_LAST_LINES:]) or "nothing at all"
    limit = f", at its limit of {limit_s:.0f} s or for want of memory" if code == KILLED else ""
    return BenchError(
        f"the tool ended with status {code}{limit}; it last said: {last}",
        artifact=argv[0],
        hint=f"see what this says on the device: {' '.join(argv)}",
    )


def _beside(made: Measurement, timed: Measurement, device: Tooled) -> Measurement:
    statistic, tool = made.facts["latency_is"], made.facts["runner"]
    ours = timed.metrics["latency_ms"] if statistic == "median" else _mean_ms(timed)
    theirs = made.metrics["latency_ms"]
    ratio = theirs / ours
    runs = f" of {made.metrics['runs']:.0f}" if "runs" in made.metrics else ""
    step = made.facts.get("resolution_ms") or 0.0
    coarse = f", in steps of {step:g} ms" if step > _COARSE * theirs else ""
    said = (
        f"cross-check of {timed.candidate}: {tool} says {theirs:.3g} ms ({statistic}{runs}{coarse})"
        f", we say {ours:.3g} ms ({ratio:.2f}×)"
    )
    flags = dict(made.facts["warnings"])
    if not 1.0 / APART <= ratio <= APART:
        flags["tool-disagrees"] = (
            f"{said}: the two do not run the same thing; compare the versions of the runtime, the "
            "threads, the delegate and what is inside the clock"
        )
    # The size of the file is the checked row's to tell; twice in a chart it is a candidate more.
    metrics = {name: value for name, value in made.metrics.items() if name != "size_mb"}
    facts = {
        **{"threads": device.threads},
        **made.facts,
        **{"checks": timed.candidate, "ratio": ratio, "cross_check": said},
        **{"flags": list(flags), "warnings": flags},
    }
    return replace(made, metrics=metrics, facts=facts)


def _mean_ms(timed: Measurement) -> float:
    return float(np.mean([one for each in timed.latency_ns for one in each])) / 1e6


def _perf_test(program: str, file: str, threads: int, runs: int) -> list[str]:
    return command.perf_test(file, threads, runs=runs, extra=("-e", "cpu"), tool=program)


def _benchmark_model(program: str, file: str, threads: int, runs: int) -> list[str]:
    return command.benchmark_model(file, threads, _WARM_UP, runs, tool=program)


def _litert_benchmark(program: str, file: str, threads: int, runs: int) -> list[str]:
    asked = {"num_threads": threads, "warmup_runs": _WARM_UP, "num_runs": runs}
    return [program, f"--model={file}", *(f"--{name}={value}" for name, value in asked.items())]
