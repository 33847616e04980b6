"""How often a planted delay of 3 % is found: A/B comparisons of a file with a later one.

The later file is the same net with a function behind its end whose result counts for nothing. Its
length is read off a line through the gaps of four lengths; the true gap is what one much longer
measurement finds afterwards. Each comparison is a whole one of about ten seconds: fresh processes,
rounds in turns, the verdict over its rows. Found is: the winner is the file without the delay.

    make bench SUITE=planted
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import equals, frame, nets

if TYPE_CHECKING:
    from torchopt2edge.bench.timing import TimingPlan
    from torchopt2edge.types import Candidate

    Pair = tuple[Candidate, Candidate]

PLAIN, LATER = "plain", "later"
NET_MS = 2.0
DELAY, TOLERANCE = 0.03, 0.5
LIMIT = 95.0
LONGEST_S = 60.0
_MUCH = 131_072


def plan(seconds: float, rounds: int = 20) -> TimingPlan:
    """Return a protocol that times each of two files for half of so many seconds."""
    from torchopt2edge.bench.timing import TimingPlan

    return TimingPlan("planted", 64, seconds / 2, rounds, 1.0, 0.0, timeout_s=60.0)


def pair(tower: nets.Tower, folder: Path) -> Pair:
    """Write the net and the later net."""
    plain = replace(tower, extra=0).save(PLAIN, "ort", folder)
    return plain, tower.save(LATER, "ort", folder)


def crossing(extras: Sequence[float], gaps: Sequence[float], wanted: float) -> float:
    """Return the length whose gap is the wanted one on the straight line through what was found."""
    import numpy as np

    slope, base = np.polyfit(np.asarray(extras), np.asarray(gaps), 1)
    return float((wanted - base) / slope)


def fitted(tower: nets.Tower, folder: Path, seconds: float) -> nets.Tower:
    """Return the tower with a delay of `DELAY`: four lengths around a guess, and the line there."""

    def gap(extra: float) -> float:
        later = replace(tower, extra=round(extra))
        said = equals.compare(pair(later, folder), plan(seconds), folder / "work")
        return max(said.ratio[0] - 1, 1e-3)

    guess = _MUCH * DELAY / gap(_MUCH)
    extras = [step * guess for step in (0.5, 1.0, 1.5, 2.0)]
    found = crossing(extras, [gap(extra) for extra in extras], DELAY)
    return replace(tower, extra=round(min(max(found, extras[0] / 2), extras[-1])))


def is_found(one: equals.Compared) -> bool:
    """Whether the file without the delay was named."""
    return one.outcome == "winner" and one.winner == PLAIN


def rows(found: Sequence[equals.Compared], true: equals.Compared) -> list[dict[str, Any]]:
    """Return the table's lines: the true gap, every outcome, and the comparisons' intervals."""
    inside = sum(one.ratio[1] <= true.ratio[0] <= one.ratio[2] for one in found)
    wrong = sum(one.winner == LATER for one in found)
    width = sorted(one.ratio[2] / one.ratio[1] - 1 for one in found if one.err is None)
    ends = [100 * (end - 1) for end in true.ratio]
    return [
        {"what": "planted, by the long measurement", "%": ends[0], "from – to": tuple(ends[1:])},
        {"what": "the later file was named", "count": wrong},
        {"what": "intervals that hold the planted gap", "count": inside},
        {"what": "median width of an interval", "%": 100 * width[len(width) // 2]},
        *equals.rows(found),
    ]


def goals(
    found: Sequence[equals.Compared], true: equals.Compared, longest_s: float
) -> list[frame.Goal]:
    """Hold the comparisons against what was promised."""
    percent, low, high = equals.share(sum(map(is_found, found)), len(found))
    return [
        frame.Goal("a delay of 3 % is found", LIMIT, percent, "%", True, low, high),
        frame.Goal("longest comparison", LONGEST_S, longest_s, "s"),
        frame.Goal(
            "the planted gap lies off 3 %",
            TOLERANCE,
            100 * abs(true.ratio[0] - 1 - DELAY),
            "points",
        ),
    ]


def repeated(
    pair: Pair, options: argparse.Namespace, work: Path
) -> tuple[list[equals.Compared], float]:
    """Compare again and again; return what was said, and the seconds of the longest."""
    found: list[equals.Compared] = []
    longest = 0.0
    for seed in range(options.comparisons):
        begin = time.monotonic()
        found.append(equals.compare(pair, replace(plan(options.seconds), seed=seed), work))
        longest = max(longest, time.monotonic() - begin)
    return found, longest


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("--comparisons", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10.0, help="timed in one comparison")
    parser.add_argument("--long", type=float, default=60.0, help="timed for the true gap")
    parser.add_argument("--quick", action="store_true", help="a trial of seconds: 2 comparisons")
    options = parser.parse_args()
    if options.quick:
        options.comparisons, options.seconds, options.long = 2, 1.0, 2.0
    run = frame.start("planted", options)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tower = fitted(nets.fitted(NET_MS, "ort", folder), folder, options.seconds)
        files = pair(tower, folder)
        true = equals.compare(files, plan(options.long, 60), folder / "work")
        found, longest = repeated(files, options, folder / "work")
    kept = {"extra": tower.extra, "true": true.ratio, "comparisons": equals.raw(found)}
    return run.finish(rows(found, true), goals(found, true, longest), kept)


if __name__ == "__main__":
    sys.exit(main())
