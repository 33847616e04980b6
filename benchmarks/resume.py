"""What a second, identical `optimize` costs: the digits road twice over one fresh cache.

Wall seconds of the whole command, imports included, less the measuring itself as the run's own
log tells it. The sealed converter is lent to the fresh cache, so that it is not built again.

    make bench SUITE=resume
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import frame

LIMIT_S, DEMO_S = 15.0, 300.0


@dataclass(frozen=True)
class Taken:
    """One run: its wall seconds and those of its steps."""

    seconds: float
    steps: dict[str, float]

    @property
    def measuring(self) -> float:
        """The seconds of timing candidates, which no store can save."""
        return sum(s for title, s in self.steps.items() if title.startswith("measure "))

    @property
    def rest(self) -> float:
        """The seconds of all else."""
        return self.seconds - self.measuring


def lend_converter(cache: Path) -> None:
    """Let the sealed environment of the user's cache stand in another one, through links.

    Its marker names its folder, as its scripts do: here the original still stands behind the
    links, so a marker with the new folder tells no lie.
    """
    from torchopt2edge.converter import find

    own = find().folder
    assert own is not None
    folder = cache.resolve() / "converter" / own.name
    folder.mkdir(parents=True)
    for item in own.iterdir():
        if item.name != "complete.json":
            (folder / item.name).symlink_to(item)
    marker = json.loads((own / "complete.json").read_text())
    (folder / "complete.json").write_text(json.dumps({**marker, "folder": str(folder)}))


def optimize(cache: Path, out: Path, given: Sequence[str]) -> Taken:
    """Run the command once."""
    began = time.monotonic()
    done = subprocess.run(
        frame.command("optimize", f"out={out}", *given),
        cwd=frame.ROOT,
        env={**os.environ, "TORCHOPT2EDGE_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"optimize ended with status {done.returncode}")
    return Taken(seconds, frame.steps((out / "run.log").read_text()))


def goals(first: Taken, second: Taken, protocol: str) -> list[frame.Goal]:
    """Hold both runs against what was promised."""
    made = [frame.Goal("the second run without measuring", LIMIT_S, second.rest, "s")]
    if protocol == "quick":  # then the first run is what `make demo` runs
        made.append(frame.Goal("the demo, once installed", DEMO_S, first.seconds, "s"))
    return made


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("--protocol", default="smoke", help="quick: what `make demo` runs")
    parser.add_argument(
        "--override", action="append", default=[], help="a further override of optimize"
    )
    options = parser.parse_args()
    run = frame.start("resume", options)
    given = ["experiment=digits", f"timing={options.protocol}", *options.override]
    with tempfile.TemporaryDirectory() as made:
        cache = Path(made) / "cache"
        lend_converter(cache)
        first = optimize(cache, Path(made) / "first", given)
        second = optimize(cache, Path(made) / "second", given)
    rows = [
        {
            "run": name,
            "seconds": taken.seconds,
            "measuring": taken.measuring,
            "without measuring": taken.rest,
            "ratio": first.rest / taken.rest,
        }
        for name, taken in {"first": first, "second": second}.items()
    ]
    raw = {"first": asdict(first), "second": asdict(second)}
    return run.finish(rows, goals(first, second, options.protocol), raw)


if __name__ == "__main__":
    sys.exit(main())
