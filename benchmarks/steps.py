"""Whether a step down in speed is reported, how soon, and whether quiet minutes raise an alarm.

A file runs alone on one core; at a random second that core loses 30 %: to a CPU quota of the file's
process (cgroup v1, as root) and to a neighbour that spins 30 % of the time, by turns; to the
neighbour alone where no quota can be set. `bench.throttling.step_down` sees the rounds as they
came in, after each of them anew: reported is when it first tells of a step.

    make bench SUITE=steps
    make bench SUITE=steps ARGS="--minutes 10"
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame, nets

if TYPE_CHECKING:
    from torchopt2edge.bench.child_session import ChildSession, Round
    from torchopt2edge.types import Candidate

SHARE = 0.3
SOON_S = 10.0
NET_MS = 1.0
ROUND_S = 0.5
_GROUP = Path("/sys/fs/cgroup/cpu/torchopt2edge-steps")
_PERIOD_US = 10_000

# What a neighbour runs: core, first and last share, seconds from one to the other, period, seed.
# It spends its share of each period on the CPU; a seed makes both halves of a period random.
SPIN = """
import os, random, sys, time
core, parent = int(sys.argv[1]), os.getppid()
first, last, rise, period = map(float, sys.argv[2:6])
chance = random.Random(sys.argv[6]) if sys.argv[6] else None
os.sched_setaffinity(0, {core})
try:
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
except OSError:
    pass
begin = wake = time.monotonic()
while os.getppid() == parent:
    share = first + (last - first) * min(1.0, (time.monotonic() - begin) / rise)
    busy, length = share * period, period
    if chance:
        busy = chance.expovariate(1 / busy)
        length = busy + chance.expovariate(1 / (period - share * period))
    until = time.thread_time() + busy
    while time.thread_time() < until:
        pass
    wake = max(wake + length, time.monotonic() - 1)
    time.sleep(max(0.0, wake - time.monotonic()))
"""


@contextlib.contextmanager
def neighbour(
    core: int,
    shares: tuple[float, float],
    rise_s: float = 1.0,
    period_s: float = 0.01,
    seed: int | None = None,
) -> Iterator[None]:
    """Let a process take a share of one core, rising from the first to the last.

    It runs before everybody else there where that is allowed (root), so that its share is what
    was asked for. With a ``seed`` it is busy and idle for random times. It ends with the block.
    """
    given = [core, *shares, rise_s, period_s, "" if seed is None else seed]
    with subprocess.Popen([sys.executable, "-c", SPIN, *map(str, given)]) as child:
        try:
            yield
        finally:
            child.kill()


@contextlib.contextmanager
def quota(pid: int, share: float) -> Iterator[None]:
    """Let a process have that share of a core and no more; the group is gone after the block."""
    root = _GROUP.parent / "cgroup.procs"
    _GROUP.mkdir(exist_ok=True)
    try:
        (_GROUP / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (_GROUP / "cpu.cfs_quota_us").write_text(str(round(_PERIOD_US * share)))
        (_GROUP / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with contextlib.suppress(OSError):  # it is dead already
            root.write_text(str(pid))
        _GROUP.rmdir()


def has_quota() -> bool:
    """Whether this process may set CPU quotas (cgroup v1, writable)."""
    try:
        with quota(os.getpid(), 1.0):
            return True
    except OSError:
        return False


@dataclass
class Trial:
    """What came of one step: when it was, and the rounds with the seconds of their ends."""

    how: str
    step_s: float
    rounds: list[Round] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)

    @property
    def reported_s(self) -> float | None:
        """Seconds from the begin to the first report, None without one."""
        return first_report(self.rounds, self.ends_s)

    @property
    def delay_s(self) -> float | None:
        """Seconds from the step to the report; None: not reported, or before the step."""
        at = self.reported_s
        return None if at is None or at < self.step_s else at - self.step_s

    @property
    def false_alarm(self) -> bool:
        """Whether a step was reported before there was one."""
        at = self.reported_s
        return at is not None and at < self.step_s

    @property
    def kept(self) -> float | None:
        """The throughput after the step as a share of that before it."""
        halves: list[list[Round]] = [[], []]
        for one, end in zip(self.rounds, self.ends_s, strict=True):
            halves[end > self.step_s].append(one)
        speeds = [
            sum(len(one.latency_ns) for one in half) / sum(one.wall_ns for one in half)
            for half in halves
            if half
        ]
        return speeds[1] / speeds[0] if len(speeds) == 2 else None


def first_report(rounds: Sequence[Round], ends_s: Sequence[float]) -> float | None:
    """Return when `step_down` first told of a step, fed with one round more each time."""
    from torchopt2edge.bench.throttling import step_down

    for at, end in enumerate(ends_s, 1):
        if step_down(rounds[:at]) is not None:
            return end
    return None


def watch(session: ChildSession, trial: Trial, begin: float, until_s: float) -> None:
    """Time rounds until so many seconds are over since ``begin``."""
    while time.monotonic() - begin < until_s:
        trial.rounds.append(session.round(1, ROUND_S, 1_000_000))
        trial.ends_s.append(time.monotonic() - begin)


@contextlib.contextmanager
def running(candidate: Candidate, core: int) -> Iterator[tuple[ChildSession, int]]:
    """Open a candidate alone on a core, warm; gives its session and the process."""
    import psutil

    from torchopt2edge.bench.child_session import open_child
    from torchopt2edge.devices.local import Local

    log = candidate.file.with_suffix(".log")
    before = set(psutil.Process().children())
    with open_child(candidate, Local(1, (core,)), log) as session:
        (child,) = set(psutil.Process().children()) - before
        session.load_timed(nets.sample())
        session.round(5, 1.0, 1_000_000)
        yield session, child.pid


def attempt(candidate: Candidate, how: str, step_s: float, core: int) -> Trial:
    """Run quietly for ``step_s`` seconds, then with less of the core for `SOON_S`."""
    trial = Trial(how, step_s)
    with running(candidate, core) as (session, pid):
        begin = time.monotonic()
        watch(session, trial, begin, step_s)
        trial.step_s = time.monotonic() - begin
        injected: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
            "quota": lambda: quota(pid, 1 - SHARE),
            "load": lambda: neighbour(core, (SHARE, SHARE)),
            "nothing": contextlib.nullcontext,
        }
        with injected[how]():
            watch(session, trial, begin, trial.step_s + SOON_S * (how != "nothing"))
    return trial


def shown(trial: Trial) -> dict[str, Any]:
    """Return the table's line of one trial."""
    return {
        "slowed by": trial.how,
        "after s": trial.step_s,
        "kept": trial.kept if trial.how != "nothing" else None,
        "reported after s": trial.delay_s,
        "false alarm": "yes" if trial.false_alarm else None,
    }


def goals(trials: Sequence[Trial], quiet: Trial | None) -> list[frame.Goal]:
    """Hold trials and the quiet run against what was promised."""
    delays = [trial.delay_s for trial in trials if trial.delay_s is not None]
    late = len(trials) - sum(delay <= SOON_S for delay in delays)
    slowest = max(delays) if trials and len(delays) == len(trials) else None
    made = [
        frame.Goal(f"steps of {SHARE:.0%} not reported within {SOON_S:g} s", 0, late),
        frame.Goal("slowest report after a step", SOON_S, slowest, "s"),
        frame.Goal("alarms before a step", 0, sum(trial.false_alarm for trial in trials)),
    ]
    if quiet is not None:
        minutes = f"alarms in {quiet.step_s / 60:.0f} quiet minutes"
        made.append(frame.Goal(minutes, 0, int(quiet.false_alarm)))
    return made


def raw(trial: Trial) -> dict[str, Any]:
    """Return what the record keeps of a trial: each round's end, inferences and seconds."""
    counts = [len(one.latency_ns) for one in trial.rounds]
    busy = [round(sum(one.latency_ns) / 1e9, 4) for one in trial.rounds]
    ends = [round(end, 3) for end in trial.ends_s]
    return {**shown(trial), "ends_s": ends, "inferences": counts, "seconds": busy}


def planned(options: argparse.Namespace) -> list[tuple[str, float]]:
    """Return how and after how many seconds each trial slows down."""
    chance = random.Random(options.seed)
    ways = ("quota", "load") if has_quota() else ("load",)
    low, high = options.between
    return [(ways[at % len(ways)], chance.uniform(low, high)) for at in range(options.trials)]


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("--trials", type=int, default=10, help="steps")
    parser.add_argument("--between", type=float, nargs=2, default=(15.0, 45.0), help="seconds")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the quiet run; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of the seconds of the steps")
    parser.add_argument("--quick", action="store_true", help="a trial of seconds: one step")
    options = parser.parse_args()
    if options.quick:
        options.trials, options.between, options.minutes = 1, (7.0, 8.0), 0.0
    run = frame.start("steps", options)
    core = min(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        candidate = nets.fitted(NET_MS, "ort", folder).save("net", "ort", folder)
        trials = [attempt(candidate, how, at, core) for how, at in planned(options)]
        quiet = (
            attempt(candidate, "nothing", 60 * options.minutes, core) if options.minutes else None
        )
    known = [*trials, *([quiet] if quiet else [])]
    return run.finish(
        [shown(trial) for trial in known],
        goals(trials, quiet),
        {"trials": [raw(trial) for trial in known]},
    )


if __name__ == "__main__":
    sys.exit(main())
