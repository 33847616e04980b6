"""What the harness adds to a latency: both runners beside a bare C loop on the same library.

``bare.c`` opens the same file with the same shared library and does nothing but run and time it.
In every round all sides get a fresh process (two processes of one program differ by where their
memory lies, and only fresh ones show it), warm up, and then run a few times in shuffled turns.
A round's median is over its turns; a ratio is the median over the rounds with its 95 % bootstrap
interval. All processes are pinned to one core, where one of them at a time is awake.

    make bench SUITE=truth
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame, nets

if TYPE_CHECKING:
    from torchopt2edge.devices.local import Local
    from torchopt2edge.types import Candidate

    Side = Callable[[int, float], list[int]]

BACKENDS = ("ort", "litert")
LATENCIES_MS = (0.2, 1.0, 10.0)
LIMIT = {"native": 1.0, "python": 2.0}
SHORT_MS, SHORT_LIMIT = 1.0, 5.0
_LEAST = 5
_WARM_TURNS = 1


@dataclass
class Found:
    """One net in one runtime: nanoseconds of every inference, by side and round."""

    backend: str
    wanted_ms: float
    rounds: dict[str, list[list[int]]] = field(default_factory=dict)

    def ratio(self, side: str) -> tuple[float, float, float]:
        """Return how much longer that side says it takes than the bare loop does."""
        from torchopt2edge.stats.rounds import paired_ratio

        return paired_ratio(self.rounds[side], self.rounds["bare"])


def compiled(folder: Path) -> Path:
    """Compile ``bare.c`` as the native runner is compiled."""
    from torchopt2edge.deploy import native_build

    made = folder / "bare"
    source = Path(__file__).with_name("bare.c")
    command = [
        *native_build.compiler(),
        *native_build.FLAGS,
        "-o",
        str(made),
        str(source),
        *native_build.LIBRARIES,
    ]
    subprocess.run(command, check=True)
    return made


@contextlib.contextmanager
def bare(program: Path, candidate: Candidate, device: Local) -> Iterator[Side]:
    """Open a candidate in the bare loop; the process is gone after the block."""
    from torchopt2edge.deploy import native_build

    outputs = candidate.signature.outputs[0].shape[-1]
    given = [candidate.backend, native_build.library(candidate.backend), candidate.file, outputs]
    with subprocess.Popen(
        [program, *map(str, given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=device.environment(),
    ) as child:
        try:
            os.sched_setaffinity(child.pid, device.affinity or os.sched_getaffinity(0))
            values = nets.sample()["image"]
            if candidate.backend == "litert":
                values = values.transpose(0, 2, 3, 1)
            assert child.stdin is not None
            child.stdin.write(values.tobytes())
            yield functools.partial(asked, child, outputs)
        finally:
            child.kill()


def asked(child: subprocess.Popen[bytes], outputs: int, samples: int, seconds: float) -> list[int]:
    """Let the bare loop run; return the nanoseconds of each inference."""
    import numpy as np

    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(struct.pack("=qd", samples, seconds))
    child.stdin.flush()
    count = np.frombuffer(child.stdout.read(8), np.int64)
    if not count.size:
        raise SystemExit("the bare loop died")
    taken = np.frombuffer(child.stdout.read(8 * int(count[0])), np.int64)
    last = np.frombuffer(child.stdout.read(4 * outputs), np.float32)
    if not np.isfinite(last).all() or not last.any():
        raise SystemExit("the bare loop computes nothing")
    return [int(one) for one in taken]


@contextlib.contextmanager
def runner(candidate: Candidate, device: Local, folder: Path) -> Iterator[Side]:
    """Open a candidate as the harness does, in the device's runner."""
    from torchopt2edge.bench.child_session import open_child

    with open_child(candidate, device, folder / f"{device.runner}.log") as session:
        session.load_timed(nets.sample())
        yield lambda samples, seconds: session.round(samples, seconds, 1_000_000).latency_ns


def one_round(
    sides: Mapping[str, Side], turns: int, seconds: float, shuffler: random.Random
) -> dict[str, list[int]]:
    """Let all sides run in turns, each for so many seconds in all; the first turns are warm-up."""
    taken: dict[str, list[int]] = {name: [] for name in sides}
    for turn in range(turns + _WARM_TURNS):
        for name in shuffler.sample(list(sides), len(sides)):
            samples = sides[name](_LEAST, seconds / turns)
            if turn >= _WARM_TURNS:
                taken[name] += samples
    return taken


def compared(
    program: Path, candidate: Candidate, found: Found, options: argparse.Namespace
) -> None:
    """Time all sides of one file, round by round."""
    from torchopt2edge.devices.local import Local

    shuffler = random.Random(0)
    cores = (max(os.sched_getaffinity(0)),)
    for _ in range(options.rounds):
        with contextlib.ExitStack() as closing:
            folder = candidate.file.parent
            sides = {"bare": closing.enter_context(bare(program, candidate, Local(1, cores)))}
            for kind in LIMIT:
                opened = runner(candidate, Local(1, cores, kind), folder)
                sides[kind] = closing.enter_context(opened)
            taken = one_round(sides, options.turns, options.seconds, shuffler)
        for name, samples in taken.items():
            found.rounds.setdefault(name, []).append(samples)


def rows(found: Found) -> list[dict[str, Any]]:
    """Return the table's lines of one net."""
    from torchopt2edge.stats.rounds import median_interval, round_medians

    made = []
    for side, rounds in found.rounds.items():
        ratio, low, high = found.ratio(side)
        made.append(
            {
                "net": f"{found.wanted_ms:g} ms, {found.backend}",
                "side": side,
                "ms": median_interval(round_medians(rounds))[0] / 1e6,
                "÷ bare": None if side == "bare" else ratio,
                "from – to": None if side == "bare" else (low, high),
            }
        )
    return made


def goals(found: Found) -> list[frame.Goal]:
    """Hold each runner of one net against what was promised, in per cent off the bare loop."""
    made = []
    for side, limit in LIMIT.items():
        off = [100 * (ratio - 1) for ratio in found.ratio(side)]
        low, high = min(map(abs, off[1:])), max(map(abs, off[1:]))
        made.append(
            frame.Goal(
                f"{side} runner off a bare loop, {found.backend}, {found.wanted_ms:g} ms",
                limit if found.wanted_ms >= SHORT_MS else SHORT_LIMIT,
                abs(off[0]),
                "%",
                low=0.0 if off[1] <= 0 <= off[2] else low,
                high=high,
            )
        )
    return made


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=16, help="rounds of fresh processes")
    parser.add_argument("--turns", type=int, default=4, help="turns of each side in a round")
    parser.add_argument("--seconds", type=float, default=0.6, help="of each side in a round")
    parser.add_argument("--quick", action="store_true", help="a trial of seconds: one net")
    options = parser.parse_args()
    latencies: tuple[float, ...] = LATENCIES_MS
    if options.quick:
        options.rounds, options.seconds, latencies = 5, 0.2, LATENCIES_MS[1:2]
    run = frame.start("truth", options)
    all_found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        program = compiled(folder)
        for backend in BACKENDS:
            for wanted in latencies:
                candidate = nets.fitted(wanted, backend, folder).save("net", backend, folder)
                all_found.append(Found(backend, wanted))
                compared(program, candidate, all_found[-1], options)
    return run.finish(
        [row for found in all_found for row in rows(found)],
        [goal for found in all_found for goal in goals(found)],
        {"rounds": [by_side(found) for found in all_found]},
    )


def by_side(found: Found) -> dict[str, Any]:
    """Return the raw samples as the record keeps them."""
    sides = {side: {"latency_ns": rounds} for side, rounds in found.rounds.items()}
    return {"backend": found.backend, "wanted_ms": found.wanted_ms, **sides}


if __name__ == "__main__":
    sys.exit(main())
