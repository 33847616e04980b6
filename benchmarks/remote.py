"""What a link costs: the same comparison over ssh and here, its commands, its bytes, its cuts.

An sshd of the suite's own serves the loopback (own keys, own port, own folder), so that board and
host are one machine: what is found is the price of the way, not of a network or of a slower board.

- Overhead: {fp32, int8} × {ort, litert} of a net of some milliseconds, in one measurement over ssh
  and in one here, turn about. What counts is wall time beside inferences and warm-up: over ssh,
  less the same here, over the timed seconds. The files and the runner lie there already.
- Commands: runs of the ssh client in such a measurement, per candidate, the jobs that only warm
  the caches and the questions before and after included.
- Bytes: what is pushed the first time, and by a second process for the same files.
- Cuts: comparisons under which, at random moments, the clients, the serving processes or both are
  killed. Lost are rows with an error or with too few rounds; orphans are processes in the board's
  folder five seconds after a comparison, and clients of ours.
- Bundle (``--fetch``, for pip and apt have to bring it once): the native runner, both runtimes and
  a C library of their own, as an arm64 phone gets them.

    make bench SUITE=remote ARGS=--fetch
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks import frame, overhead
from benchmarks.board import Count, Counted, sshd

if TYPE_CHECKING:
    from torchopt2edge.bench.timing import TimingPlan
    from torchopt2edge.interfaces import Device
    from torchopt2edge.types import Candidate, Measurement

LIMIT = {
    "overhead": 10.0,
    "commands": 6.0,
    "bytes": 0,
    "lost": 0,
    "orphans": 0,
    "MB": 16.0,
    "s": 3.0,
}
PHONE = {"arch": "aarch64", "bits": 64, "libc": "none"}
BACKENDS, SCHEMES = ("ort", "litert"), ("fp32", "int8")
SIZE, WIDTH, DEPTH = 64, 48, 6
_WAYS = ("the clients", "the serving processes", "both")


def files(folder: Path) -> list[Candidate]:
    """Make the files of a small net of plain convolutions, and say what each is."""
    import torch
    from torch import nn

    import torchopt2edge as t2e
    from torchopt2edge.store import Store
    from torchopt2edge.workflow.existing_files import describe
    from torchopt2edge.workflow.settings import resolve_backends

    torch.manual_seed(0)
    middle = [nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(DEPTH)]
    layers = [layer for one in middle for layer in (one, nn.ReLU())]
    first = nn.Conv2d(3, WIDTH, 3, stride=2, padding=1)
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10))
    net = nn.Sequential(first, nn.ReLU(), *layers, *end).eval()
    made = t2e.compare(
        net,
        (torch.zeros(1, 3, SIZE, SIZE),),
        [torch.randn(8, 3, SIZE, SIZE) for _ in range(4)],
        backends=BACKENDS,
        schemes=SCHEMES,
        baseline=False,
        timing="smoke",
        store=Store(folder / "store"),
        out=folder / "run",
    )
    backends = {one.name: one for one in resolve_backends(BACKENDS)}
    found = []
    for row in made.rows:
        if row.err is not None:
            raise SystemExit(f"{row.candidate}: {row.err}")
        place = folder / "run/artifacts" / f"{row.candidate}{backends[row.backend].suffix}"
        found.append(
            replace(describe(place.resolve(), backends[row.backend], ""), id=row.candidate)
        )
    return found


@dataclass(frozen=True)
class Taken:
    """One measurement: where its seconds went, and its rows."""

    seconds: overhead.Taken
    rows: list[Measurement]

    @property
    def beside(self) -> float:
        """Seconds of the wall that were neither inferences nor warm-up."""
        return self.seconds.wall - self.seconds.invoked - self.seconds.warm_up


def measured(found: Sequence[Candidate], device: Device, plan: TimingPlan, work: Path) -> Taken:
    """Measure the files on a device, with a clock on the harness."""
    from torchopt2edge.bench.harness import measure
    from torchopt2edge.samples.random_inputs import random_sample

    clock = overhead.Clock()
    rows = measure(found, lambda one: random_sample(one.signature), device, plan, work, clock)
    ended = overhead.Clock.now()
    for row in rows:
        if row.err is not None:
            raise SystemExit(f"{row.candidate} on {row.device}: {row.err}")
    return Taken(overhead.accounted(clock, ended, rows), rows)


@dataclass
class Cuts:
    """Kills a board's link at random moments, in a thread; ``done`` says how often and what."""

    server: psutil.Process
    config: Path
    chance: random.Random
    longest_s: float
    most: int
    done: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Cut while the block runs."""
        ended = threading.Event()

        def cut() -> None:
            while len(self.done) < self.most:
                if ended.wait(self.chance.uniform(0.1, self.longest_s)):
                    return
                self._cut(self.chance.choice(_WAYS))

        thread = threading.Thread(target=cut)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _cut(self, way: str) -> None:
        ours = [] if way == _WAYS[1] else clients(self.config)
        theirs = [] if way == _WAYS[0] else self.server.children()
        for one in (*ours, *theirs):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        if ours or theirs:
            self.done.append(way)


def clients(config: Path) -> list[psutil.Process]:
    """Return the clients of ours that talk to the board, but for those that only keep it open."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if one.status() != psutil.STATUS_ZOMBIE and str(config) in one.cmdline():
                found.append(one)
    return found


def left(folder: Path, config: Path, within_s: float = 5.0) -> int:
    """Return how many processes and folders a comparison left behind, here and on the board."""
    deadline = time.monotonic() + within_s
    while True:
        there = 0
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                place = f"{one.cwd()} {' '.join(one.cmdline())}"
                there += one.pid != os.getpid() and f"{folder}/jobs" in place
        count = there + len(clients(config)) + len([*folder.glob("jobs/*/*")])
        if not count or time.monotonic() > deadline:
            return count
        time.sleep(0.1)


@dataclass
class Survived:
    """What cuts did: comparisons, rows that were lost, what was left behind."""

    comparisons: int = 0
    rows: int = 0
    lost: list[str] = field(default_factory=list)
    orphans: int = 0


def under_cuts(
    found: Sequence[Candidate], board: Counted, cuts: Cuts, plan: TimingPlan, work: Path
) -> Survived:
    """Compare until the link was cut as often as it was to be."""
    from torchopt2edge.bench.harness import measure
    from torchopt2edge.samples.random_inputs import random_sample

    seen = Survived()
    while len(cuts.done) < cuts.most:
        with cuts.running():
            rows = measure(found, lambda one: random_sample(one.signature), board, plan, work)
        seen.comparisons += 1
        seen.rows += len(rows)
        seen.orphans += left(Path(board.workdir), cuts.config)
        short = [row for row in rows if len(row.latency_ns or ()) != plan.rounds]
        seen.lost += [f"{row.candidate}: {row.err}" for row in short]
    return seen


def row(where: str, taken: Taken, count: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return the table's line of one measurement."""
    seconds = taken.seconds
    return {
        "where": where,
        "wall s": seconds.wall,
        "timed inferences s": seconds.invoked,
        "warm-up s": seconds.warm_up,
        "beside s": taken.beside,
        "beside, in rounds s": seconds.rounds_wall - seconds.invoked,
        "wall ÷ timed": seconds.wall / seconds.invoked,
        "client runs": ", ".join(f"{n} {what}" for what, n in (count or {}).items()) or None,
    }


def bundled(board: Counted) -> dict[str, Any]:
    """Bring there what an arm64 phone needs for both runtimes, a C library of ours included.

    Returns its megabytes here and on the way, and the seconds of the first and the second time.
    """
    from torchopt2edge.deploy.native_bundle import kit

    board = replace(board, count=Count())
    kits = [kit(PHONE, backend, fetch=True) for backend in BACKENDS]
    whole = {
        name: file for one in kits for name, file in [*one.program.items(), *one.runtime.items()]
    }
    seconds = []
    for _ in range(2):
        board.known.forget()
        begin = time.monotonic()
        for one in kits:
            board.push_all(one.program)
            board.push_all(one.runtime)
        seconds.append(time.monotonic() - begin)
    return {
        "where": "an arm64 phone's bundle, pushed",
        "MB": sum(file.stat().st_size for file in whole.values()) / 1e6,
        "MB on the way": board.count.pushed / 1e6,
        "first push s": seconds[0],
        "second s": seconds[1],
    }


@dataclass(frozen=True)
class Found:
    """What the measurements gave: over ssh and here in pairs, what went over the link in each."""

    pairs: list[tuple[Taken, Taken]]
    counts: list[Count]
    first: Count
    second: Count

    @property
    def percents(self) -> list[float]:
        """What ssh took more than here, beside inferences and warm-up, over the timed seconds."""
        return [
            100 * (there.beside - here.beside) / there.seconds.invoked for there, here in self.pairs
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return the table's lines."""
        return [
            line
            for (there, here), count in zip(self.pairs, self.counts, strict=True)
            for line in (row("ssh", there, count.commands), row("here", here))
        ]


def compared(
    found: Sequence[Candidate], board: Counted, plan: TimingPlan, repeats: int, work: Path
) -> Found:
    """Bring the files there, look again as another process does, then measure turn about."""
    from torchopt2edge.bench.timing import by_name
    from torchopt2edge.devices.local import Local

    counts = [Count() for _ in range(repeats + 2)]
    measured(found, replace(board, count=counts[0]), by_name("smoke"), work)
    board.known.forget()
    measured(found, replace(board, count=counts[1]), by_name("smoke"), work)
    pairs = [
        (
            measured(found, replace(board, count=count), plan, work),
            measured(found, Local(), plan, work),
        )
        for count in counts[2:]
    ]
    return Found(pairs, counts[2:], *counts[:2])


def goals(
    found: Found, files: int, survived: Survived, bundle: Mapping[str, Any]
) -> list[frame.Goal]:
    """Hold what was found against what was promised."""
    sent = ("bundle for a phone, on the way", LIMIT["MB"], bundle.get("MB on the way"), "MB")
    brought = ("its first push", LIMIT["s"], bundle.get("first push s"), "s")
    percents = found.percents
    middle = statistics.median(percents)
    most = max(count.whole for count in found.counts) / files
    return [
        frame.Goal(
            "what ssh takes, over timed seconds",
            LIMIT["overhead"],
            middle,
            "%",
            low=min(percents),
            high=max(percents),
        ),
        frame.Goal("runs of the client per candidate", LIMIT["commands"], most),
        frame.Goal("bytes pushed by a second process", LIMIT["bytes"], found.second.pushed),
        frame.Goal("rows lost to cuts", LIMIT["lost"], len(survived.lost)),
        frame.Goal("left behind after cuts", LIMIT["orphans"], survived.orphans),
        *(frame.Goal(*one) for one in (sent, brought) if bundle),
    ]


def main() -> int:
    """Run the suite."""
    from torchopt2edge.bench.timing import by_name

    parser = frame.parser(__doc__)
    parser.add_argument("--protocol", default="quick", help="a name from conf/protocol")
    parser.add_argument("--repeats", type=int, default=3, help="measurements over ssh and here")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--fetch", action="store_true", help="measure the phone's bundle as well")
    parser.add_argument("--quick", action="store_true", help="a trial: protocol smoke, few cuts")
    options = parser.parse_args()
    if options.quick:
        options.protocol, options.repeats, options.cuts = "smoke", 1, 4
    run = frame.start("remote", options)
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as closing:
        folder = Path(place)
        config, server = closing.enter_context(sshd(folder))
        board = Counted(
            host="board", config=str(config), python=sys.executable, workdir=str(folder / "board")
        )
        closing.callback(board.link.recover)
        made, work = files(folder), folder / "work"
        found = compared(made, board, by_name(options.protocol), options.repeats, work)
        cuts = Cuts(server, config, random.Random(0), 4.0, options.cuts)
        brief = replace(by_name("smoke"), rounds=16, min_seconds=2.0, prime=True)
        survived = under_cuts(made, board, cuts, brief, work)
        bundle = bundled(board) if options.fetch else {}
    last = found.pairs[-1][1].rows
    raw = {
        "p50_ms": {one.candidate: one.metrics["p50_ms"] for one in last},
        "first": vars(found.first),
        "second": vars(found.second),
        "percents": found.percents,
        "cuts": cuts.done,
        "survived": vars(survived),
    }
    table = [*found.rows(), *([bundle] if bundle else [])]
    return run.finish(table, goals(found, len(made), survived, bundle), raw)


if __name__ == "__main__":
    sys.exit(main())
