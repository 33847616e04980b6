"""What rounds in turns are worth: interval widths against one file after the other, under drift.

Two copies of one file, the same timed seconds either way. In turns the interval is that of the
per-round ratios (`stats.rounds.paired_ratio`); one after the other it is that of two unpaired
medians, for nothing pairs the rounds.

- Simulated: the medians of short slots that one file gave when it ran alone for a while, cut into
  stretches at random places, with a linear drift of 3 % on each. Slots go to the two files in
  shuffled turns, as in the harness, or by halves.
- Really: through the harness, pinned to a core on which a neighbour takes a share that rises slowly
  from nothing to 6 %, for a millisecond at a time, so that every inference feels it.

A width alone flatters the second way: its interval does not hold the truth. So it is also shown how
often each interval holds 1, and how wide one must be that does so in 95 of 100 simulations.

    make bench SUITE=turns
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame, nets, steps

if TYPE_CHECKING:
    from torchopt2edge.stats.rounds import Interval
    from torchopt2edge.types import Candidate

LIMIT = 0.5
DRIFT = 0.03
NET_MS = 5.0
SHARE, PERIOD_S = 0.06, 0.001
WAYS = ("in turns", "one after the other")
Widths = Mapping[str, Sequence["Interval"]]


def paired(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Return the ratio of files whose medians were found side by side."""
    from torchopt2edge.stats.rounds import paired_ratio

    return paired_ratio(*([[round(one)] for one in side] for side in (above, below)))


def unpaired(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Return the ratio of two medians that know nothing of each other, with its interval.

    The two intervals are joined as Zou and Donner do (2008, "Construction of confidence limits
    about effect measures: a general approach").
    """
    from torchopt2edge.stats.rounds import median_interval

    a, b = (median_interval([math.log(one) for one in side]) for side in (above, below))
    low = a[0] - b[0] - math.hypot(a[0] - a[1], b[2] - b[0])
    high = a[0] - b[0] + math.hypot(a[2] - a[0], b[0] - b[1])
    return math.exp(a[0] - b[0]), math.exp(low), math.exp(high)


def split(slots: Sequence[float], chance: random.Random) -> dict[str, Interval]:
    """Give slots to two equal files, in shuffled turns and by halves; return both intervals."""
    half = len(slots) // 2
    rounds = [chance.sample(slots[at : at + 2], 2) for at in range(0, 2 * half, 2)]
    return {
        WAYS[0]: paired([one for one, _ in rounds], [other for _, other in rounds]),
        WAYS[1]: unpaired(slots[:half], slots[half : 2 * half]),
    }


def simulated(noise: Sequence[float], slots: int, count: int) -> dict[str, list[Interval]]:
    """Split that many stretches of recorded medians, each with a drift of `DRIFT`."""
    chance = random.Random(0)
    found: dict[str, list[Interval]] = {way: [] for way in WAYS}
    for _ in range(count):
        begin = chance.randrange(len(noise) - slots + 1)
        sign = chance.choice((1.0, -1.0))
        stretch = [
            value * (1.0 + sign * DRIFT * at / (slots - 1))
            for at, value in enumerate(noise[begin : begin + slots])
        ]
        for way, interval in split(stretch, chance).items():
            found[way].append(interval)
    return found


def recorded(candidate: Candidate, seconds: float, slot_s: float, core: int) -> list[float]:
    """Return the medians, in nanoseconds, of the slots of a file that runs alone."""
    from torchopt2edge.stats.rounds import round_medians

    with steps.running(candidate, core) as (session, _):
        rounds = [
            session.round(5, slot_s, 1_000_000).latency_ns for _ in range(round(seconds / slot_s))
        ]
    return [float(one) for one in round_medians(rounds)]


def measured(pair: Sequence[Candidate], seconds: float, rounds: int, core: int, turns: bool) -> Any:
    """Measure two copies through the harness while the neighbour's share rises."""
    from torchopt2edge.bench.harness import measure
    from torchopt2edge.bench.timing import TimingPlan
    from torchopt2edge.devices.local import Local
    from torchopt2edge.stats.rounds import round_medians

    plan = TimingPlan("turns", 5, seconds / 2, rounds, 0.5, 0.0, turns=turns, prime=False)
    with steps.neighbour(core, (0.0, SHARE), rise_s=1.5 + 1.15 * seconds, period_s=PERIOD_S):
        rows = measure(
            pair, lambda _: nets.sample(), Local(1, (core,)), plan, pair[0].file.parent / "work"
        )
    for row in rows:
        if row.err is not None:
            raise SystemExit(row.err)
    medians = [[float(one) for one in round_medians(row.latency_ns)] for row in rows]
    return medians[1], medians[0]


def really(pair: Sequence[Candidate], options: argparse.Namespace) -> dict[str, list[Interval]]:
    """Measure both ways by turns, each as often as is asked for."""
    core = min(os.sched_getaffinity(0))
    found: dict[str, list[Interval]] = {way: [] for way in WAYS}
    for _ in range(options.repeats):
        for way, interval in zip(WAYS, (paired, unpaired), strict=True):
            sides = measured(pair, options.seconds, options.rounds, core, way == WAYS[0])
            found[way].append(interval(*sides))
    return found


def widths(intervals: Sequence[Interval]) -> list[float]:
    """Return how wide each interval is, as a share of the ratio."""
    return [math.log(high / low) for _, low, high in intervals]


def needed(intervals: Sequence[Interval]) -> float:
    """Return how wide an interval must be to hold 1 in 95 of 100, where it stands."""
    import numpy as np

    off = np.abs(np.log([middle for middle, _, _ in intervals]))
    return 2.0 * float(np.percentile(off, 95))


def rows(found: Widths, how: str) -> list[dict[str, Any]]:
    """Return the table's lines: widths, how often the truth is held, and the width needed."""
    import numpy as np

    return [
        {
            "under": how,
            "order": way,
            "repeats": len(intervals),
            "median width %": 100 * float(np.median(widths(intervals))),
            "hold 1, %": 100 * float(np.mean([low <= 1 <= high for _, low, high in intervals])),
            "width needed %": 100 * needed(intervals),
        }
        for way, intervals in found.items()
    ]


def goal(found: Widths, how: str) -> frame.Goal:
    """Hold the width in turns over the other against what was promised."""
    from torchopt2edge.stats.rounds import median_interval

    turns, blocks = (widths(found[way]) for way in WAYS)
    each = [a / b for a, b in zip(turns, blocks, strict=True)]
    middle, low, high = median_interval(each)
    ends = (None, None) if not math.isfinite(high) else (low, high)
    return frame.Goal(f"width in turns over the other, {how}", LIMIT, middle, "×", False, *ends)


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("--alone", type=float, default=60.0, help="seconds of noise to record")
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=20, help="of each file")
    parser.add_argument("--seconds", type=float, default=12.0, help="timed, both files together")
    parser.add_argument("--repeats", type=int, default=8, help="real ones, both ways")
    parser.add_argument("--quick", action="store_true", help="a trial of seconds")
    options = parser.parse_args()
    if options.quick:
        options.alone, options.simulations, options.seconds, options.repeats = 4.0, 40, 2.0, 1
    run = frame.start("turns", options)
    slot_s = options.seconds / (2 * options.rounds)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tower = nets.fitted(NET_MS, "ort", folder)
        pair = [tower.save(name, "ort", folder) for name in ("one", "other")]
        noise = recorded(pair[0], options.alone, slot_s, min(os.sched_getaffinity(0)))
        found = {
            f"a simulated drift of {DRIFT:.0%}": simulated(
                noise, 2 * options.rounds, options.simulations
            ),
            "a neighbour that rises": really(pair, options),
        }
    kept = {"noise_ns": noise, "intervals": found}
    table = [row for how, one in found.items() for row in rows(one, how)]
    return run.finish(table, [goal(one, how) for how, one in found.items()], kept)


if __name__ == "__main__":
    sys.exit(main())
