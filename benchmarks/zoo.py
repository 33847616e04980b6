"""The usual mobile networks through every backend: which file is faster, how far int8 is off.

Random weights with measured BatchNorm statistics: latency and conversion are those of the real
network, the accuracy of a trained one is not visible here, and its SQNR differs. The store is
fresh, so that the conversions are timed. A backend that cannot do a network leaves a row that
says why.

    make bench SUITE=zoo ARGS="--data ../shared/data"
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame, nets

if TYPE_CHECKING:
    from torchopt2edge.types import Measurement
    from torchopt2edge.workflow.progress import Tick

CANDIDATES = ("ort-fp32", "ort-int8", "litert-fp32", "litert-int8")


class Stopwatch:
    """A `workflow.progress.Progress` that keeps the seconds of every step by its title."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def task(self, title: str) -> Iterator[Tick]:
        """Time a step."""
        began = time.monotonic()
        yield lambda done, total, what: None
        self.seconds[title] = round(time.monotonic() - began, 2)


def one(name: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Compare the files of one network; an error of ours is its result."""
    import torch

    import torchopt2edge as t2e
    from torchopt2edge.store import Store

    clock = Stopwatch()
    try:
        result = t2e.compare(
            nets.warmed(name, options.data),
            (torch.zeros(1, 3, nets.SIZE, nets.SIZE),),
            nets.images(options.images, options.data).split(8),
            timing=options.protocol,
            baseline=False,
            store=Store(work / "store"),
            out=work / name,
            progress=clock,
            title=name,
        )
    except t2e.EdgeError as error:
        return {"model": name, "rows": [], "steps": clock.seconds, "err": str(error)}
    shown = {"winner": result.verdict.winner, "tie": result.verdict.tie}
    return {"model": name, "rows": result.rows, "steps": clock.seconds, "verdict": shown}


def table(found: dict[str, Any]) -> dict[str, Any]:
    """Return one network's line: milliseconds, int8's gain per runtime, SQNR, ranges, seconds.

    ``wait s`` is for the conversion, which runs while calibration does.
    """
    rows = {row.candidate: row for row in found["rows"]}
    line: dict[str, Any] = {"model": found["model"]}
    for name in CANDIDATES:
        row = rows.get(name)
        line[f"{name} ms"] = row.metrics.get("latency_ms") if row and not row.err else "err"
    for runtime in ("ort", "litert"):
        line[f"{runtime} int8 ×"] = faster(rows.get(f"{runtime}-fp32"), rows.get(f"{runtime}-int8"))
    for runtime in ("ort", "litert"):
        row = rows.get(f"{runtime}-int8")
        line[f"{runtime} int8 dB"] = row.metrics.get("sqnr_db") if row else None
    matched = rows["litert-int8"].facts.get("ranges_matched") if "litert-int8" in rows else None
    return {**line, "matched %": matched, "wait s": found["steps"].get("litert-base")}


def faster(high: Measurement | None, low: Measurement | None) -> str | None:
    """Return how much faster the second is than the first, with its interval."""
    from torchopt2edge.stats.rounds import paired_ratio

    if high is None or low is None or not high.latency_ns or not low.latency_ns:
        return None
    middle, least, most = paired_ratio(high.latency_ns, low.latency_ns)
    return f"{middle:.2f} ({least:.2f}–{most:.2f})"


def goals(name: str, rows: Sequence[Measurement]) -> list[frame.Goal]:
    """Every candidate must be there: measured, or with the reason why not."""
    told = [row for row in rows if row.candidate in CANDIDATES and (row.err or row.latency_ns)]
    wanted = float(len(CANDIDATES))
    return [frame.Goal(f"{name}: rows", wanted, float(len(told)), "rows", at_least=True)]


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("--data", type=Path, help="a folder with photos/*.jpg; else synthetic")
    parser.add_argument("--models", nargs="+", default=list(nets.ZOO), choices=nets.ZOO)
    parser.add_argument("--images", type=int, default=64, help="calibration images")
    parser.add_argument("--protocol", default="quick", help="smoke, quick or standard")
    options = parser.parse_args()
    run = frame.start("zoo", options)
    console = frame.stdout()
    found = []
    with tempfile.TemporaryDirectory() as work:
        for name in options.models:
            found.append(one(name, options, Path(work)))
            seconds = sum(found[-1]["steps"].values())
            console.print(f"{name}: {seconds:.0f} s", highlight=False)
    for each in found:
        for row in each["rows"]:
            if row.err:
                console.print(f"{each['model']} {row.candidate}: {row.err}", markup=False)
    every = [goal for each in found for goal in goals(each["model"], each["rows"])]
    raw = {each["model"]: {**each, "rows": [frame.slim(r) for r in each["rows"]]} for each in found}
    return run.finish([table(each) for each in found], every, raw)


if __name__ == "__main__":
    sys.exit(main())
