"""What the digits demo promises, read from the rows of its runs.

With `--run` from folders that exist, else the demo is run once per seed (over the user's store).
A drop is in points of top-1 on the 540 test images, its interval for paired samples at 95 %.

    make bench SUITE=digits ARGS="--seeds 0,1,2"
    make bench SUITE=digits ARGS="--run outputs/digits-20261122-120000"
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame

if TYPE_CHECKING:
    from torchopt2edge.types import Measurement

    Rows = Sequence[Measurement]

INT8_POINTS, INT8_SIZE, PRUNED_MACS, PRUNED_POINTS = 1.0, 0.35, 0.55, 2.0
RUNTIMES, GROUPS = ("ort", "litert"), ("student", "pruned")


def pick(rows: Rows, candidate: str) -> Measurement | None:
    """Return the row of a candidate that was measured."""
    return next((row for row in rows if row.candidate == candidate and row.err is None), None)


def drop(above: Measurement | None, below: Measurement | None) -> tuple[float, float, float] | None:
    """Return the points lost from one row to the other, with their interval."""
    from torchopt2edge.stats.paired import paired_drop

    if above is None or below is None:
        return None
    lost = paired_drop(above.facts["correct"], below.facts["correct"])
    return lost["drop"], lost["drop_low"], lost["drop_high"]


def pairs(rows: Rows) -> Iterator[dict[str, Any]]:
    """Walk the int8 files, each beside the fp32 file of its model and runtime."""
    from torchopt2edge.stats.rounds import paired_ratio

    for group in GROUPS:
        for runtime in RUNTIMES:
            high = pick(rows, f"{group}-{runtime}-fp32")
            low = pick(rows, f"{group}-{runtime}-int8")
            lost = drop(high, low)
            line: dict[str, Any] = {
                "model": f"{group}-{runtime}",
                "fp32 top-1": high.metrics["top1"] if high else None,
                "int8 top-1": low.metrics["top1"] if low else None,
                "drop": lost and lost[0],
                "from – to": lost and lost[1:],
                "int8 / fp32 size": None,
            }
            if high and low:
                ratio = paired_ratio(high.latency_ns, low.latency_ns)
                line["int8 / fp32 size"] = low.metrics["size_mb"] / high.metrics["size_mb"]
                line |= {"int8 faster": ratio[0], "from – to ×": ratio[1:]}
            yield line


def macs_share(rows: Rows) -> float | None:
    """Return the pruned model's multiply-accumulates over the student's."""
    known = {
        str(row.facts["group"]): float(row.facts["macs"]) for row in rows if "macs" in row.facts
    }
    return known["pruned"] / known["student"] if set(GROUPS) <= set(known) else None


def pruned_drop(rows: Rows) -> tuple[float, float, float] | None:
    """Return the points that pruning cost, in PyTorch, else in the first runtime."""
    for backend in ("torch", *RUNTIMES):
        high, low = pick(rows, f"student-{backend}-fp32"), pick(rows, f"pruned-{backend}-fp32")
        if high and low:
            return drop(high, low)
    return None


def goals(name: str, rows: Rows) -> list[frame.Goal]:
    """Hold one run against the demo's promises; the worst file counts."""
    compared = list(pairs(rows))
    drops = [(pair["drop"], *pair["from – to"]) if pair["from – to"] else None for pair in compared]
    sizes = [pair["int8 / fp32 size"] for pair in compared]
    return [
        _points(f"{name}: int8 below fp32, worst file", INT8_POINTS, _worst(drops)),
        frame.Goal(f"{name}: int8 over fp32 size, worst file", INT8_SIZE, _worst(sizes), "×"),
        frame.Goal(f"{name}: pruned over student MACs", PRUNED_MACS, macs_share(rows), "×"),
        _points(f"{name}: pruned below student", PRUNED_POINTS, pruned_drop(rows)),
    ]


def _worst(found: Sequence[Any]) -> Any:
    """Return the greatest, or None as soon as one is missing."""
    return None if any(one is None for one in found) else max(found)


def _points(what: str, limit: float, found: tuple[float, float, float] | None) -> frame.Goal:
    middle, low, high = found or (None, None, None)
    return frame.Goal(what, limit, middle, "points", low=low, high=high)


def optimize(seed: int, protocol: str, extra: Sequence[str], out: Path) -> Path:
    """Run the demo with a seed and return its folder."""
    given = ["experiment=digits", f"seed={seed}", f"timing={protocol}", f"out={out}", *extra]
    subprocess.run(
        frame.command("optimize", *given), cwd=frame.ROOT, stdout=subprocess.DEVNULL, check=True
    )
    return out


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("--run", type=Path, action="append", help="a finished run's folder")
    parser.add_argument("--seeds", default="0", help="numbers with commas between them")
    parser.add_argument("--protocol", default="smoke", help="smoke, quick or standard")
    parser.add_argument(
        "--override", action="append", default=[], help="a further override of optimize"
    )
    options = parser.parse_args()
    named = {folder.resolve().name: folder for folder in options.run or ()}
    if len(named) < len(options.run or ()):
        parser.error("two runs have the same name")
    run = frame.start("digits", options)
    from torchopt2edge.report.run_folder import read

    with tempfile.TemporaryDirectory() as made:
        folders = named or {
            f"seed {seed}": optimize(
                int(seed), options.protocol, options.override, Path(made) / seed
            )
            for seed in options.seeds.split(",")
        }
        runs = {name: read(folder) for name, folder in folders.items()}
    results, promises, raw = [], [], {}
    for name, (rows, _, context) in runs.items():
        results += [{"run": name, **pair} for pair in pairs(rows)]
        promises += goals(name, rows)
        raw[name] = {**context, "rows": [frame.slim(row) for row in rows]}
    return run.finish(results, promises, raw)


if __name__ == "__main__":
    sys.exit(main())
