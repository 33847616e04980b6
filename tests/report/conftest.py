"""Rows as a real run makes them, for the tests of the report."""

from __future__ import annotations

import random
import shutil
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.full_run import Run, bare_context, full_run
from tests.report.visit import Opener, Visit
from torchopt2edge.report.run_report import RunReport
from torchopt2edge.types import Measurement, Verdict

RUNTIMES = {
    "ort": ("onnxruntime", "1.31.1"),
    "litert": ("litert", "2.3.0"),
    "torch": ("torch", "2.14.1"),
}


def row(
    candidate: str,
    *,
    ms: float = 1.0,
    top1: float | None = 97.0,
    size: float | None = 1.0,
    backend: str = "",
    scheme: str = "",
    **facts: object,
) -> Measurement:
    """One measured row: 12 rounds of 40 samples around ``ms``, with the tail of a desktop."""
    parts = candidate.split("-")
    backend = backend or next((p for p in parts if p in RUNTIMES), "ort")
    scheme = scheme or parts[-1]
    noise = random.Random(candidate)
    rounds = []
    for _ in range(12):
        pace = ms * noise.gauss(1.0, 0.012)
        rounds.append([round(1e6 * pace * (1 + noise.expovariate(33))) for _ in range(40)])
    medians = sorted(statistics.median(each) / 1e6 for each in rounds)
    pooled = sorted(ns / 1e6 for each in rounds for ns in each)
    metrics = {
        "latency_ms": statistics.median(medians),
        "latency_low_ms": medians[3],
        "latency_high_ms": medians[8],
        "p90_ms": pooled[int(0.9 * len(pooled))],
        "memory_mb": 48.0 + 6 * (size or 0),
        "samples": 480.0,
        "rounds": 12.0,
    }
    if backend != "torch":
        lossy = "int8" in scheme
        metrics |= {"sqnr_db": 22.5 if lossy else 108.0, "agreement": 98.9 if lossy else 100.0}
    if size is not None:
        metrics["size_mb"] = size
    if top1 is not None:
        metrics |= {"top1": top1, "top1_low": top1 - 1.0, "top1_high": min(100.0, top1 + 0.9)}
        facts = {"metric": "top1", "n_eval": 1000, **facts}
    runtime, version = RUNTIMES.get(backend, (backend, "1.0"))
    receipt = {"threads": 1, "runtime": runtime, "runtime_version": version, "flags": []}
    return Measurement(
        candidate, backend, scheme, "local", "quick", metrics, rounds, {**receipt, **facts}
    )


def failed(candidate: str, err: str) -> Measurement:
    """One row that failed."""
    parts = candidate.split("-")
    return Measurement(candidate, parts[-2], parts[-1], "local", "quick", err=err)


def ratios_to(rows: list[Measurement], base: str) -> dict[str, tuple[float, float, float]]:
    """The ratio of every measured row to ``base``, with an interval of two per cent."""
    measured = {x.candidate: x.metrics["latency_ms"] for x in rows if x.err is None}
    found = {name: ms / measured[base] for name, ms in measured.items()}
    return {
        name: (1.0, 1.0, 1.0) if name == base else (ratio, 0.98 * ratio, 1.02 * ratio)
        for name, ratio in found.items()
    }


@pytest.fixture
def make_row() -> Callable[..., Measurement]:
    """Return `row`."""
    return row


@pytest.fixture
def make_failed() -> Callable[..., Measurement]:
    """Return `failed`."""
    return failed


@pytest.fixture
def run() -> tuple[list[Measurement], Verdict]:
    """Eight files of two runtimes from two models, PyTorch, a loser and a failure."""
    rows = [
        row("torch-fp32", ms=3.9, top1=97.5, size=None),
        row("dense-ort-fp32", ms=1.35, top1=97.5, size=1.24),
        row("dense-ort-int8", ms=0.74, top1=97.1, size=0.335),
        row("dense-litert-fp32", ms=1.6, top1=97.5, size=1.24),
        row("dense-litert-int8", ms=0.55, top1=97.2, size=0.34),
        row("pruned-ort-fp32", ms=0.65, top1=97.1, size=0.36, flags=["drift"]),
        row("pruned-ort-int8", ms=0.2, top1=61.0, size=0.098),
        row("pruned-litert-fp32", ms=0.78, top1=97.1, size=0.36),
        row("pruned-litert-int8", ms=0.27, top1=96.7, size=0.094),
        failed("pruned-litert-int8_dynamic", "SQNR −2.1 dB is under the floor of 3.0 dB"),
    ]
    verdict = Verdict(
        "pruned-litert-int8",
        (),
        ratios_to(rows, "pruned-litert-int8"),
        ("pruned-litert-int8", "dense-litert-int8", "dense-ort-fp32"),
        {
            "torch-fp32": "it is the baseline, not a file to ship",
            "pruned-ort-int8": "top1 drops by 36.5 points, more than 1.0",
            "pruned-litert-int8_dynamic": "SQNR −2.1 dB is under the floor of 3.0 dB",
        },
        ["pruned-litert-int8 is 2.04× faster than dense-litert-int8 (95 % 2.00–2.08)"],
        ["the clock's governor is powersave"],
    )
    return rows, verdict


@pytest.fixture
def context() -> Callable[..., dict[str, Any]]:
    """Return `bare_context`."""
    return bare_context


@pytest.fixture
def whole(run: tuple[list[Measurement], Verdict]) -> Run:
    """Return a run of ten rows with every fact, and its context."""
    return full_run(*run)


@pytest.fixture
def whole_report(whole: Run) -> RunReport:
    """Return what the reports of `whole` show."""
    return RunReport.of(*whole)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; the tests are skipped, with what to type, where there is none.

    Not for the whole session: tests of the bench hold that no child of ours is alive.
    """
    found = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if found is None:
        pytest.skip("no Chromium: tests/report/html/provide.sh installs it")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("no Playwright: tests/report/html/provide.sh PYTHON installs it")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opener]:
    """Return what opens a page's text in a window of some width and colour scheme."""
    visits: list[Visit] = []

    def to(text: str, width: int = 1280, scheme: str = "light") -> Visit:
        file = tmp_path / f"page-{len(visits)}.html"
        file.write_text(text, encoding="utf-8")
        visits.append(Visit(browser, file, width, scheme))
        return visits[-1]

    yield to
    for one in visits:
        one.context.close()
