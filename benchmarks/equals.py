"""How often two copies of one file are told apart: A/A comparisons beside a noisy neighbour.

Both candidates are the same bytes. Every comparison is a whole one, of protocol smoke: fresh
processes, rounds in turns in an order of its own, and the verdict over its rows. On the other core
a process spins and rests for random times all along. A winner is false; so is, shown beside it, an
interval of the ratio that leaves 1 out, which the verdict's margin of 1 % forgives.

    make bench SUITE=equals
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame, nets, steps

if TYPE_CHECKING:
    from torchopt2edge.bench.timing import TimingPlan
    from torchopt2edge.types import Candidate

NAMES = ("one", "other")
NET_MS = 1.0
LIMIT = 5.0
_SHARE, _PERIOD_S = 0.5, 0.4


@dataclass(frozen=True)
class Compared:
    """What one comparison said: its winner, and the ratio of the second file to the first."""

    winner: str | None
    ratio: tuple[float, float, float]
    flags: tuple[str, ...] = ()
    err: str | None = None

    @property
    def outcome(self) -> str:
        """``winner``, ``tie``, ``invalid`` (a flag forbids a winner) or ``failed``."""
        from torchopt2edge.verdict.decide import INVALIDATING

        if self.err is not None:
            return "failed"
        if self.winner is not None:
            return "winner"
        return "invalid" if INVALIDATING.intersection(self.flags) else "tie"

    @property
    def excludes_one(self) -> bool:
        """Whether the interval of the ratio leaves 1 out."""
        return self.err is None and not self.ratio[1] <= 1.0 <= self.ratio[2]


def compare(
    candidates: Sequence[Candidate], plan: TimingPlan, work: Path, core: int | None = None
) -> Compared:
    """Measure two candidates against each other and decide."""
    from torchopt2edge.bench.harness import measure
    from torchopt2edge.devices.local import Local
    from torchopt2edge.stats.rounds import paired_ratio
    from torchopt2edge.types import Constraints
    from torchopt2edge.verdict.decide import decide

    device = Local(1, None if core is None else (core,))
    rows = measure(candidates, lambda _: nets.sample(), device, plan, work)
    wrong = "; ".join(row.err for row in rows if row.err is not None)
    if wrong:
        return Compared(None, (0.0, 0.0, 0.0), (), wrong)
    verdict = decide(rows, Constraints(max_drop=None), None)
    flags = sorted({flag for row in rows for flag in row.facts["flags"]})
    ratio = paired_ratio(rows[1].latency_ns, rows[0].latency_ns)
    return Compared(verdict.winner, ratio, tuple(flags))


def share(count: int, of: int) -> tuple[float, float, float]:
    """Return per cent with its 95 % interval (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest

    ends = binomtest(count, of).proportion_ci(0.95, "exact")
    return 100.0 * count / of, 100.0 * float(ends.low), 100.0 * float(ends.high)


def rows(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """Return the table's lines: every outcome and how often it was."""
    outcomes = Counter(one.outcome for one in found)
    counts = {**outcomes, "interval without 1": sum(one.excludes_one for one in found)}
    flags = Counter(f"flag: {flag}" for one in found for flag in one.flags)
    made = []
    for name, count in [*counts.items(), *flags.items()]:
        percent, low, high = share(count, len(found))
        made.append({"what": name, "count": count, "%": percent, "from – to": (low, high)})
    return made


def goals(found: Sequence[Compared]) -> list[frame.Goal]:
    """Hold the false winners against what was promised, and that something was decided at all."""
    false = sum(one.outcome == "winner" for one in found)
    percent, low, high = share(false, len(found))
    usable = sum(one.outcome in ("winner", "tie") for one in found)
    return [
        frame.Goal("false winners", LIMIT, percent, "%", low=low, high=high),
        frame.Goal("comparisons with a verdict", 90.0, share(usable, len(found))[0], "%", True),
    ]


def raw(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """Return what the record keeps of each comparison."""
    return [
        {"outcome": one.outcome, "ratio": one.ratio, "flags": one.flags, "err": one.err}
        for one in found
    ]


def repeated(options: argparse.Namespace, folder: Path) -> list[Compared]:
    """Compare the two copies again and again beside the neighbour."""
    from torchopt2edge.bench.timing import by_name

    cores = sorted(os.sched_getaffinity(0))
    plan = by_name("smoke")
    tower = nets.fitted(NET_MS, options.backend, folder)
    pair = [tower.save(name, options.backend, folder) for name in NAMES]
    with steps.neighbour(cores[-1], (_SHARE, _SHARE), period_s=_PERIOD_S, seed=0):
        return [
            compare(pair, replace(plan, seed=seed), folder / "work", cores[0])
            for seed in range(options.comparisons)
        ]


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("--comparisons", type=int, default=100)
    parser.add_argument("--backend", default="ort", choices=("ort", "litert"))
    parser.add_argument("--quick", action="store_true", help="a trial of seconds: 4 comparisons")
    options = parser.parse_args()
    if options.quick:
        options.comparisons = 4
    run = frame.start("equals", options)
    with tempfile.TemporaryDirectory() as place:
        found = repeated(options, Path(place))
    return run.finish(rows(found), goals(found), {"comparisons": raw(found)})


if __name__ == "__main__":
    sys.exit(main())
