"""A whole `compare` from a cold store: {fp32, int8} × {ort, litert} on MobileNetV2 at 224.

One fresh process imports torch and torchopt2edge, builds the network (nets.py: random weights that
are fit to be measured) and reads the calibration images; then the clock starts, and everything
that `compare` does counts: its own lazy imports, export, conversion, quantization, checks, the
measuring and the report. The store is fresh, the sealed converter is the user's. Memory is the
greatest VmHWM of any process of the tree, the converter's child included.

    make bench SUITE=compare ARGS="--data ../shared/data"
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import frame, nets
from benchmarks.watch import Watch, peak_bytes

LIMIT_S, LIMIT_MB = 90.0, 2500.0
FOUND = "found.json"


def inside(folder: Path, options: argparse.Namespace) -> None:
    """Be the fresh process: compare, and leave the times in ``folder``."""
    began = time.monotonic()
    import torch
    import torchvision  # noqa: F401

    import torchopt2edge as t2e
    from torchopt2edge import api  # noqa: F401
    from torchopt2edge.store import Store

    imported = time.monotonic()
    net = nets.warmed(options.model, options.data)
    calibration = nets.images(options.images, options.data).split(8)
    before = (peak_bytes(os.getpid()) or 0) / 1e6
    ready = time.monotonic()
    t2e.compare(
        net,
        (torch.zeros(1, 3, nets.SIZE, nets.SIZE),),
        calibration,
        backends=("ort", "litert"),
        schemes=("fp32", "int8"),
        baseline=options.baseline,
        timing=options.protocol,
        store=Store(folder / "store"),
        out=folder / "run",
        title=options.model,
    )
    done = time.monotonic()
    found = {
        "imports_s": imported - began,
        "inputs_s": ready - imported,
        "compare_s": done - ready,
        "peak_before_mb": before,
    }
    (folder / FOUND).write_text(json.dumps(found))


def outside(folder: Path, options: argparse.Namespace) -> tuple[dict[str, float], str]:
    """Start the fresh process, watch its tree, and return the peaks in MB and its log."""
    given = [f"--images={options.images}", f"--protocol={options.protocol}"]
    given += [f"--model={options.model}", f"--inside={folder}"]
    given += [f"--data={options.data.resolve()}"] if options.data else []
    given += [] if options.baseline else ["--no-baseline"]
    log = folder / "log"
    with log.open("wb") as kept:
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.compare", *given], cwd=frame.ROOT, stderr=kept
        )
        try:
            with Watch(child.pid) as watch:
                status = child.wait()
        finally:
            child.kill()
            child.wait()
    said = log.read_text(errors="replace")
    if status:
        raise SystemExit(f"compare ended with status {status}:\n{said[-2000:]}")
    return watch.peaks_mb, said


def goals(seconds: float, peaks_mb: Mapping[str, float], files: int) -> list[frame.Goal]:
    """Hold the run against what was promised; a file that was not timed saved its seconds."""
    return [
        frame.Goal("files that were timed", 4, files, at_least=True),
        frame.Goal("compare, wall seconds after imports", LIMIT_S, seconds, "s"),
        frame.Goal("peak memory of any process", LIMIT_MB, max(peaks_mb.values()), "MB"),
    ]


def table(rows: list[Any]) -> list[dict[str, Any]]:
    """Return a line per candidate, each timed against the fp32 file of its own runtime."""
    from torchopt2edge.stats.rounds import paired_ratio

    timed = {(row.backend, row.scheme): row for row in rows if row.latency_ns}
    made = []
    for row in rows:
        base = timed.get((row.backend, "fp32"))
        ratio = (
            paired_ratio(base.latency_ns, row.latency_ns)
            if base and row.latency_ns and row is not base
            else None
        )
        made.append(
            {
                "candidate": row.candidate,
                "ms": row.metrics.get("latency_ms"),
                "faster than its fp32": ratio and ratio[0],
                "from – to": ratio and ratio[1:],
                "SQNR dB": row.metrics.get("sqnr_db"),
                "file MB": row.metrics.get("size_mb"),
                "peak MB": row.metrics.get("memory_mb"),
                "err": row.err,
            }
        )
    return made


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("--data", type=Path, help="a folder with photos/*.jpg; else synthetic")
    parser.add_argument("--model", default="mobilenet_v2", choices=nets.ZOO)
    parser.add_argument("--images", type=int, default=64, help="calibration images")
    parser.add_argument("--protocol", default="quick", help="smoke, quick or standard")
    parser.add_argument(
        "--baseline",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="PyTorch's row too, as by default in compare",
    )
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.inside
    if folder is not None:
        import logging

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        inside(folder, options)
        return 0
    run = frame.start("compare", options)
    with tempfile.TemporaryDirectory() as made:
        peaks, said = outside(Path(made), options)
        found = json.loads((Path(made) / FOUND).read_text())
        from torchopt2edge.report.run_folder import read

        rows, verdict, _ = read(Path(made) / "run")
    raw = {
        **found,
        "steps": frame.steps(said),
        "peaks_mb": peaks,
        "verdict": {"winner": verdict.winner, "tie": verdict.tie, "ratios": verdict.ratios},
        "rows": [frame.slim(row) for row in rows],
    }
    files = sum(bool(row.latency_ns) for row in rows if row.backend != "torch")
    return run.finish(table(rows), goals(found["compare_s"], peaks, files), raw)


if __name__ == "__main__":
    sys.exit(main())
