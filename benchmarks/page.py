"""How heavy ``report.html`` is, and how soon a browser shows it: 8 candidates, 20 000 samples each.

The rows are made up, with everything that a row may hold: sensors by the round, placement, a
profile of operators, percentiles, flags. Chromium opens the file from disk in a fresh context each
time, at the size of a desktop and of a phone; rendered is the second frame after it has loaded,
when the layout of the first is on the screen. Starting the browser is not in it.

    make bench SUITE=page
"""

from __future__ import annotations

import functools
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame

if TYPE_CHECKING:
    from torchopt2edge.types import Measurement, Verdict

LIMIT = {"MB": 3.0, "seconds": 2.0}
NAMES = tuple(
    f"{group}-{backend}-{scheme}"
    for group in ("dense", "pruned")
    for backend in ("ort", "litert")
    for scheme in ("fp32", "int8")
)
WIDTHS = {"desktop": 1280, "phone": 360}
_OPERATORS, _LAYERS = 60, 60
_PAINTED = """() => new Promise(done =>
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"""


def row(name: str, ms: float, samples: int, rounds: int) -> Measurement:
    """Make a row of that many samples in rounds, with everything that the page shows."""
    from torchopt2edge.stats import rounds as round_stats
    from torchopt2edge.types import Measurement

    chance = random.Random(name)
    group, backend, scheme = name.split("-")
    latency = []
    for _ in range(rounds):
        pace = 1e6 * ms * chance.gauss(1.0, 0.01)
        per_round = samples // rounds
        latency.append([round(pace * (1 + chance.expovariate(33))) for _ in range(per_round)])
    middle, low, high = round_stats.median_interval(round_stats.round_medians(latency))
    metrics = {"latency_ms": middle / 1e6, "latency_low_ms": low / 1e6, "rounds": float(rounds)}
    metrics |= {"latency_high_ms": high / 1e6, "samples": float(samples), "memory_mb": 60.0 + ms}
    for at in (50, 90, 99):
        found = round_stats.percentile_interval(latency, at)
        assert found is not None
        ends = (f"p{at}_ms", f"p{at}_low_ms", f"p{at}_high_ms")
        metrics |= {name: ns / 1e6 for name, ns in zip(ends, found, strict=True)}
    metrics |= {
        "top1": 97.0 - ms,
        "top1_low": 96.0 - ms,
        "top1_high": 98.0 - ms,
        "first_ms": 3 * ms,
    }
    metrics |= {"size_mb": ms / 2, "gzip_mb": ms / 3, "library_ms": 3.0, "load_ms": 9.0}
    metrics |= {"sqnr_db": 24.0 if scheme == "int8" else 110.0, "agreement": 99.0}
    facts = {**receipt(backend, rounds, ms), "group": group}
    return Measurement(name, backend, scheme, "local", "quick", metrics, latency, facts)


def receipt(backend: str, rounds: int, ms: float) -> dict[str, Any]:
    """Return the facts of a row: what it ran on, and what was seen round by round."""
    sensors = [
        {"temperature_c": 45.0 + at % 7, "clock_mhz": 2400 - 3 * at, "load": 1.0}
        for at in range(rounds)
    ]
    profile = [
        {"name": f"/layer{at}/conv/Conv", "type": "Conv", "ms": ms / (at + 3), "share": 2.0}
        for at in range(_OPERATORS)
    ]
    placement = {"nodes": 96.5, "macs": 99.2, "partitions": 2, "unfused_qdq": 1, "transposes": 1}
    return {
        "runtime": {"ort": "onnxruntime", "litert": "litert"}[backend],
        "runtime_version": "1.0",
        "threads": 1,
        "metric": "top1",
        "n_eval": 1000,
        "flags": ["drift"],
        "warnings": {"drift": "latency moved by +3.1% from the first round to the last"},
        "sensors": sensors,
        "began_s": [2.0 * at for at in range(rounds)],
        "profile": profile,
        "placement": {**placement, "fallback": {"Resize": 1}},
        "sustained": {"first_minute_ms": ms, "last_minute_ms": 1.1 * ms, "kept": 91.0},
        "params": 3_500_000,
        "macs": 300_000_000,
        "run": "one",
        "order": "turns",
    }


def context() -> dict[str, Any]:
    """Return what the page says of the run: its stages, its decision, its environment."""
    ranking = [
        {
            "op": f"/layer{at}/conv/Conv",
            "op_type": "Conv",
            "macs": 1000 * (at + 1),
            "only_db": 28.0 + at,
            "without_db": 24.0 + 3 / (at + 1),
        }
        for at in range(_LAYERS)
    ]
    decision = {
        "group": "dense",
        "origin": "calibrated:mse",
        "why": "mse keeps 37.2 dB SQNR at the output on 32 samples",
        "excluded": [],
        "lints": [],
        "sensitivity": ranking,
        "ranked_db": 23.5,
    }
    stages = [
        {"name": name, "seconds": 100.0, "cached": False, "facts": {"params": 3_500_000}}
        for name in ("teacher", "student", "pruned", "export dense", "export pruned")
    ]
    environment = {"device": {"cpu": "a CPU", "cores": 2}, "protocol": "quick", "versions": {}}
    command = {"command": "torchopt2edge optimize experiment=digits"}
    return {
        "title": "eight candidates",
        "stages": stages,
        "environment": {**environment, **command},
        "decisions": [decision],
    }


def made(samples: int, rounds: int = 20) -> tuple[list[Measurement], Verdict]:
    """Make the rows of a run and decide over them."""
    from torchopt2edge.types import Constraints
    from torchopt2edge.verdict.decide import decide

    rows = [row(name, 1.0 + 0.4 * at, samples, rounds) for at, name in enumerate(NAMES)]
    return rows, decide(rows, Constraints(max_drop=None), None)


def browse(file: Path, width: int, repeats: int) -> tuple[list[float], list[str]]:
    """Open the page that often; return seconds until it is painted, and what it complained of."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if program is None:
        raise SystemExit("no Chromium: tests/report/html/provide.sh installs it")
    seconds: list[float] = []
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for number in range(repeats + 1):  # the first one is the browser's own warm-up
            opened = browser.new_context(viewport={"width": width, "height": 800})
            page = opened.new_page()
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            begin = time.perf_counter()
            page.goto(file.as_uri(), wait_until="load")
            page.evaluate(_PAINTED)
            if number:
                seconds.append(time.perf_counter() - begin)
            opened.close()
        browser.close()
    return seconds, complaints


def goals(size_mb: float, seconds: dict[str, list[float]], complaints: int) -> list[frame.Goal]:
    """Hold the page against what was promised; the ends are the extremes of the repeats."""
    shown = [
        frame.Goal(
            f"rendered in Chromium, {where}",
            LIMIT["seconds"],
            statistics.median(each),
            "s",
            low=min(each),
            high=max(each),
        )
        for where, each in seconds.items()
    ]
    return [
        frame.Goal("report.html of 8 candidates", LIMIT["MB"], size_mb, "MB"),
        *shown,
        frame.Goal("complaints in its console", 0, complaints),
    ]


def main() -> int:
    """Run the suite."""
    from torchopt2edge.report.html.run import render
    from torchopt2edge.report.run_report import RunReport

    parser = frame.parser(__doc__)
    parser.add_argument("--samples", type=int, default=20_000, help="of each candidate")
    parser.add_argument("--repeats", type=int, default=7, help="visits at each width")
    parser.add_argument("--quick", action="store_true", help="a trial of seconds: two visits")
    options = parser.parse_args()
    if options.quick:
        options.repeats = 2
    run = frame.start("page", options)
    rows, verdict = made(options.samples)
    begin = time.perf_counter()
    text = render(RunReport.of(rows, verdict, context()))
    written = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "report.html"
        file.write_text(text, encoding="utf-8")
        size = file.stat().st_size / 1e6
        visit = functools.partial(browse, file, repeats=options.repeats)
        seen = {where: visit(width=width) for where, width in WIDTHS.items()}
    seconds = {where: taken for where, (taken, _) in seen.items()}
    complaints = [said for _, each in seen.values() for said in each]
    return run.finish(
        table(size, written, seconds),
        goals(size, seconds, len(complaints)),
        {"seconds": seconds, "complaints": complaints},
    )


def table(
    size: float, written: float, seconds: Mapping[str, Sequence[float]]
) -> list[dict[str, Any]]:
    """Return the table's lines."""
    lines: list[dict[str, Any]] = [
        {"what": "size", "MB": size},
        {"what": "written by the package", "seconds": written},
    ]
    for where, each in seconds.items():
        ends = (min(each), max(each))
        middle = statistics.median(each)
        lines.append({"what": f"rendered, {where}", "seconds": middle, "from – to": ends})
    return lines


if __name__ == "__main__":
    sys.exit(main())
