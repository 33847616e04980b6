"""How often the 95 % intervals hold the truth: simulations with heavy-tailed weather.

A round's weather is a factor on all of its samples. ``heavy`` is Student's t with three degrees of
freedom, 1 % wide; ``busy`` has a neighbour besides, that slows one round of ten by 5 % on average.
A sample adds a noise of its own, skewed and with a tail. For the ratio the weather drifts as well,
by 10 % and as a random walk: both files of a round have it in common. The other intervals get
rounds that do not depend on each other, for no interval of one file can know of a drift. The truth
comes from symmetry (the ratio) or from many draws.

Percentiles are held against those of the very weather that a run had: their intervals promise no
more, for a tail that is made of rare rounds is not in a few of them.

What is promised is promised for ``heavy``. ``busy`` is shown without a goal: a tail that is made of
rare rounds is not in so few of them, whatever is computed from them.

    make bench SUITE=coverage
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import equals, frame

if TYPE_CHECKING:
    import numpy as np

    from torchopt2edge.stats.rounds import Interval

    Rng = np.random.Generator
    Vector = np.ndarray[tuple[int], np.dtype[np.float64]]
    Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]

ROUNDS = (5, 8, 20, 32)
LIMIT = 93.0
WEATHERS = {"heavy": 0.0, "busy": 0.1}
PROMISED = "heavy"
RATIO = 1.03
_BASE_NS = 1e6
_DRAWS = 2_000_000
_SAMPLES = {"ratio": 9, "median": 9, "p50": 20, "p90": 20, "p99": 96}


def weather(rng: Rng, rounds: int, busy: float) -> Vector:
    """Return the factor of each round, [rounds]; ``busy`` is the share of slowed ones."""
    import numpy as np

    own = 0.01 * rng.standard_t(3, rounds)
    slowed = (rng.random(rounds) < busy) * rng.exponential(0.05, rounds)
    made: Vector = np.exp(own + slowed)
    return made


def drift(rng: Rng, rounds: int) -> Vector:
    """Return what both files of a round have in common: 10 % in all, and a random walk."""
    import numpy as np

    walk = np.cumsum(0.01 * rng.standard_t(3, rounds))
    made: Vector = np.exp(walk + np.linspace(0, 0.1, rounds))
    return made


def samples(rng: Rng, factors: Vector, count: int, base: float) -> Matrix:
    """Return nanoseconds of every inference, [rounds, count]."""
    shape = (len(factors), count)
    noise = 1.0 + 0.01 * rng.exponential(1.0, shape) + 0.02 * rng.pareto(4.0, shape)
    made: Matrix = base * factors[:, None] * noise
    return made


def median_of(busy: float, rng: Rng, rounds: int) -> Interval:
    """Simulate the interval of the median of round medians."""
    from torchopt2edge.stats.rounds import median_interval, round_medians

    made = samples(rng, weather(rng, rounds, busy), _SAMPLES["median"], _BASE_NS)
    return median_interval(round_medians([list(one) for one in made]))


def ratio_of(busy: float, rng: Rng, rounds: int) -> Interval:
    """Simulate the interval of the ratio of two files in turns, under drift."""
    from torchopt2edge.stats.rounds import paired_ratio

    common = drift(rng, rounds) * weather(rng, rounds, busy)
    sides = [  # a file has a third of its weather to itself
        samples(rng, common * weather(rng, rounds, busy) ** 0.3, _SAMPLES["ratio"], base)
        for base in (RATIO * _BASE_NS, _BASE_NS)
    ]
    return paired_ratio(*([list(one) for one in side] for side in sides))


def percentile_of(name: str, busy: float, rng: Rng, rounds: int) -> Interval:
    """Simulate the interval of a percentile, over the true one of the weather that the run had."""
    from torchopt2edge.stats.rounds import percentile_interval

    factors = weather(rng, rounds, busy)
    made = samples(rng, factors, _SAMPLES[name], _BASE_NS)
    found = percentile_interval([list(one) for one in made], float(name[1:]))
    assert found is not None
    truth = true_percentile(factors, float(name[1:]) / 100)
    return found[0] / truth, found[1] / truth, found[2] / truth


def true_percentile(factors: Vector, share: float) -> float:
    """Return where ``share`` of the inferences of rounds with these factors are done, in ns."""
    import numpy as np
    from scipy.optimize import brentq

    noise = _noise()

    def missing(at: float) -> float:
        done = np.searchsorted(noise, at / (_BASE_NS * factors), side="right") / noise.size
        return float(done.mean()) - share

    low, high = noise[0] * factors.min() * _BASE_NS, noise[-1] * factors.max() * _BASE_NS
    return float(brentq(missing, low, high, xtol=1.0))


@functools.cache
def _noise() -> Vector:
    import numpy as np

    made: Vector = np.sort(samples(np.random.default_rng(2), np.ones(1), _DRAWS // 4, 1.0)[0])
    return made


@dataclass(frozen=True)
class Statistic:
    """An interval to try: what it is called, how one is simulated, and what it should hold."""

    name: str
    weather: str
    simulate: Callable[[Rng, int], Interval]
    truth: float


def statistics(name: str) -> list[Statistic]:
    """Return everything that is tried in one weather, each with its truth."""
    import numpy as np

    rng, busy, count = np.random.default_rng(1), WEATHERS[name], _SAMPLES["median"]
    rounds = samples(rng, weather(rng, _DRAWS // count, busy), count, _BASE_NS)
    middle = float(np.median(np.median(rounds, axis=1)))
    return [
        Statistic("median_interval", name, functools.partial(median_of, busy), middle),
        Statistic("paired_ratio", name, functools.partial(ratio_of, busy), RATIO),
        *(
            Statistic(
                f"percentile_interval, {at}",
                name,
                functools.partial(percentile_of, at, busy),
                1.0,
            )
            for at in ("p50", "p90", "p99")
        ),
    ]


def tried(statistic: Statistic, rounds: int, count: int) -> dict[str, Any]:
    """Simulate so many intervals; return how many held the truth, and how wide they were."""
    import numpy as np

    rng = np.random.default_rng([rounds, *statistic.name.encode(), *statistic.weather.encode()])
    held, widths = 0, []
    for _ in range(count):
        middle, low, high = statistic.simulate(rng, rounds)
        held += low <= statistic.truth <= high
        widths.append((high - low) / middle)
    percent, low, high = equals.share(held, count)
    return {
        "interval": statistic.name,
        "weather": statistic.weather,
        "rounds": rounds,
        "simulations": count,
        "held %": percent,
        "from – to": (low, high),
        "median width %": 100 * float(np.median(widths)),
    }


def goals(rows: Sequence[Mapping[str, Any]]) -> list[frame.Goal]:
    """Hold the worst coverage of each interval in heavy weather against what was promised."""
    worst: dict[str, Mapping[str, Any]] = {}
    for row in (row for row in rows if row["weather"] == PROMISED):
        before = worst.get(row["interval"])
        if before is None or row["held %"] < before["held %"]:
            worst[row["interval"]] = row
    made = []
    for name, row in worst.items():
        low, high = row["from – to"]
        what = f"{name}, holds the truth, at worst ({row['rounds']} rounds)"
        made.append(frame.Goal(what, LIMIT, row["held %"], "%", True, low, high))
    return made


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("--simulations", type=int, default=2000, help="of each interval")
    parser.add_argument("--rounds", type=int, nargs="+", default=ROUNDS, help="in a run")
    parser.add_argument("--quick", action="store_true", help="a trial of seconds: 50 simulations")
    options = parser.parse_args()
    if options.quick:
        options.simulations = 50
    run = frame.start("coverage", options)
    rows = [
        tried(statistic, rounds, options.simulations)
        for name in WEATHERS
        for statistic in statistics(name)
        for rounds in options.rounds
    ]
    return run.finish(rows, goals(rows))


if __name__ == "__main__":
    sys.exit(main())
