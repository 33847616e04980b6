"""What the harness itself takes while it measures: CPU of its own process, and time.

- CPU: the process that measures four files of about 5 ms under protocol quick; its own processor
  seconds over the wall, of the rounds and of the whole call. A runner is not in it: it is on when
  its file is.
- Time: protocol quick on four files in each of two runtimes; the wall of the whole call over the
  timed inferences and the starts of the processes (the priming ones too). Warm-up, checks, rests
  and rows are what may cost up to a quarter.

    make bench SUITE=overhead
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame, nets

if TYPE_CHECKING:
    from torchopt2edge.bench.timing import TimingPlan
    from torchopt2edge.types import Candidate, Measurement

LIMIT = {"cpu": 1.0, "time": 1.25}
NET_MS = 5.0
SCALES = (0.6, 0.8, 1.0, 1.2)
BACKENDS = ("ort", "litert")


@dataclass
class Clock:
    """Notes wall and processor seconds of this process whenever the harness reports progress."""

    began: tuple[float, float] = field(default_factory=lambda: Clock.now())
    marks: list[tuple[float, float, str]] = field(default_factory=list)

    @staticmethod
    def now() -> tuple[float, float]:
        """Return wall and processor seconds; children are not in the latter."""
        return time.monotonic(), time.process_time()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Take a mark."""
        self.marks.append((*self.now(), what))

    def first(self, word: str) -> tuple[float, float]:
        """Return the first mark whose text begins with that word."""
        return next((wall, cpu) for wall, cpu, what in self.marks if what.startswith(word))


@dataclass(frozen=True)
class Taken:
    """One whole call of the harness, in seconds; ``cpu`` are those of its own process."""

    files: int
    wall: float
    cpu: float
    rounds_wall: float
    rounds_cpu: float
    starts: float
    invoked: float
    warm_up: float

    @property
    def cpu_percent(self) -> float:
        """The share of a core that the harness took while rounds were timed."""
        return 100 * self.rounds_cpu / self.rounds_wall

    @property
    def whole_percent(self) -> float:
        """The share of a core that the harness took during the whole call."""
        return 100 * self.cpu / self.wall

    @property
    def time_ratio(self) -> float:
        """The wall over inferences and starts."""
        return self.wall / (self.invoked + self.starts)


def accounted(clock: Clock, ended: tuple[float, float], rows: Sequence[Measurement]) -> Taken:
    """Return where the seconds of a call went."""
    rounds, timed = clock.first("round 1"), clock.first("timed")
    warm_up = sum(row.facts["warmup_s"] for row in rows)
    return Taken(
        files=len(rows),
        wall=ended[0] - clock.began[0],
        cpu=ended[1] - clock.began[1],
        rounds_wall=timed[0] - rounds[0],
        rounds_cpu=timed[1] - rounds[1],
        starts=rounds[0] - clock.began[0] - warm_up,
        invoked=sum(sum(one) for row in rows for one in row.latency_ns) / 1e9,
        warm_up=warm_up,
    )


def measured(candidates: Sequence[Candidate], plan: TimingPlan, work: Path) -> Taken:
    """Measure candidates with a clock on the harness."""
    from torchopt2edge.bench.harness import measure
    from torchopt2edge.devices.local import Local

    clock = Clock()
    rows = measure(candidates, lambda _: nets.sample(), Local(), plan, work, clock)
    ended = Clock.now()
    for row in rows:
        if row.err is not None:
            raise SystemExit(f"{row.candidate}: {row.err}")
    return accounted(clock, ended, rows)


def files(backend: str, folder: Path) -> list[Candidate]:
    """Write four nets of about `NET_MS` for a backend."""
    from torchopt2edge.bench.file_size import PACKED, packed_mb

    tower = nets.fitted(NET_MS, backend, folder)
    depths = [max(1, round(scale * tower.depth)) for scale in SCALES]
    made = [
        replace(tower, depth=depth).save(f"{backend}-{at}", backend, folder)
        for at, depth in enumerate(depths)
    ]
    # As files come out of the store: they bring what a download of them takes.
    return [replace(one, facts={**one.facts, PACKED: packed_mb(one.file)}) for one in made]


def row(taken: Taken) -> dict[str, Any]:
    """Return the table's line of one call."""
    return {
        "files": taken.files,
        "wall s": taken.wall,
        "timed inferences s": taken.invoked,
        "starts s": taken.starts,
        "warm-up s": taken.warm_up,
        "wall ÷ inferences + starts": taken.time_ratio,
        "harness CPU in rounds %": taken.cpu_percent,
        "in the whole call %": taken.whole_percent,
    }


def goals(four: Taken, eight: Taken) -> list[frame.Goal]:
    """Hold both calls against what was promised."""
    return [
        frame.Goal("the harness's share of a core in rounds", LIMIT["cpu"], four.cpu_percent, "%"),
        frame.Goal("the same, of the whole call", LIMIT["cpu"], four.whole_percent, "%"),
        frame.Goal("wall ÷ inferences and starts", LIMIT["time"], eight.time_ratio, "×"),
    ]


def main() -> int:
    """Run the suite."""
    from torchopt2edge.bench.timing import by_name

    parser = frame.parser(__doc__)
    parser.add_argument("--protocol", default="quick", help="a name from conf/protocol")
    parser.add_argument("--quick", action="store_true", help="a trial of seconds: protocol smoke")
    options = parser.parse_args()
    plan = by_name("smoke" if options.quick else options.protocol)
    run = frame.start("overhead", options)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        known = {backend: files(backend, folder) for backend in BACKENDS}
        four = measured(known["ort"], plan, folder / "work")
        eight = measured([*known["ort"], *known["litert"]], plan, folder / "work")
    return run.finish([row(four), row(eight)], goals(four, eight))


if __name__ == "__main__":
    sys.exit(main())
