"""How long `import torchopt2edge` takes: fresh processes with it and bare ones, in turns.

Seconds are wall time of one whole process; the import's own time is the difference within each
round, its interval a 95 % bootstrap over the rounds. The first round fills the page cache and is
thrown away. What a first call of `compare` imports on top is shown, and promised nothing.

    make bench SUITE=imports
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks import frame

LIMIT_S = 0.3
BARE, OURS = "pass", "import torchopt2edge"
SHOWN = ("import torchopt2edge.api", "import torchopt2edge.cli.main", "import torch")


def seconds(code: str) -> float:
    """Run a line in a fresh process of this interpreter."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=frame.ROOT, check=True)
    return time.perf_counter() - began


def goal(bare: list[float], ours: list[float]) -> frame.Goal:
    """Hold the paired differences against the limit."""
    from torchopt2edge.stats.rounds import median_interval

    middle, low, high = median_interval([a - b for a, b in zip(ours, bare, strict=True)])
    return frame.Goal("import torchopt2edge", LIMIT_S, middle, "s", low=low, high=high)


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=11, help="rounds of fresh processes")
    options = parser.parse_args()
    if options.repeats < 5:
        parser.error("fewer than 5 rounds carry no interval")
    run = frame.start("imports", options)
    samples: dict[str, list[float]] = {code: [] for code in (BARE, OURS, *SHOWN)}
    for number in range(options.repeats + 1):
        for code, kept in samples.items():
            taken = seconds(code)
            if number:
                kept.append(taken)
    rows = [
        {
            "process": f"python -c '{code}'",
            "median s": statistics.median(kept),
            "from – to s": (min(kept), max(kept)),
            "ratio": statistics.median(kept) / statistics.median(samples[BARE]),
        }
        for code, kept in samples.items()
    ]
    return run.finish(rows, [goal(samples[BARE], samples[OURS])], {"seconds": samples})


if __name__ == "__main__":
    sys.exit(main())
