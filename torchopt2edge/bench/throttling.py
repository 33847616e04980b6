"""What a file does when it runs on and on: when its speed steps down, and what is left of it.

Speed is throughput in windows of the file's own running time, and not the median: a quota that
stops a process for 80 % of the time leaves the median alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from torchopt2edge.bench.child_session import Round

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]

WINDOW_S = 2.0
"""The width of a window: three slow ones in a row are seen within ten seconds of their cause."""
SLOWER = 0.15
"""A window is slow when it lost that share of the speed before it."""
_IN_A_ROW = 3
_LEAST_BEFORE = 3
_MINUTE_S = 60.0


@dataclass(frozen=True)
class Step:
    """A loss of speed: seconds of own running time until it began, and the share that was kept.

    ``lasting`` tells whether the file was still as slow at the end: heat and quotas last, a
    busy neighbour goes away.
    """

    onset_s: float
    kept: float
    lasting: bool


def step_down(rounds: Sequence[Round]) -> Step | None:
    """Return the step down in speed that lasted, else the first that was made up for, or None.

    A step begins with three windows in a row that each lost `SLOWER` of the speed that three
    quarters of the windows before them did not exceed; it is made up for by three in a row that
    did not. What was lost after that is another step, so that a neighbour who came and went in
    the first minute is not taken for the onset of heat in the fifth.
    """
    found = list(_steps(*windows(rounds)))
    return found[-1] if found and found[-1].lasting else next(iter(found), None)


def _steps(ends: Vector, speeds: Vector) -> Iterator[Step]:
    """Yield every step down, in order; only the last one can be lasting."""
    onset: int | None = None
    before, run = 0.0, 0  # run: windows in a row that speak against the present state
    for at in range(_LEAST_BEFORE, speeds.size):
        if onset is None:
            before = float(np.percentile(speeds[: at - run], 75))
        slow = bool(speeds[at] < (1.0 - SLOWER) * before)
        run = run + 1 if slow is (onset is None) else 0
        if run < _IN_A_ROW:
            continue
        begin, run = at - run + 1, 0
        if onset is None:
            onset = begin
        else:
            yield _step(ends, speeds[onset:begin], before, onset, lasting=False)
            onset = None
    if onset is not None:
        late = speeds[-_IN_A_ROW:]
        lasting = bool(np.median(late) < (1.0 - SLOWER) * before)
        yield _step(ends, speeds[onset:], before, onset, lasting=lasting)


def _step(ends: Vector, during: Vector, before: float, onset: int, *, lasting: bool) -> Step:
    return Step(float(ends[onset - 1]), float(np.median(during)) / before, lasting)


def windows(rounds: Sequence[Round], width_s: float = WINDOW_S) -> tuple[Vector, Vector]:
    """Return the windows' ends, in seconds of own running time, and inferences per second.

    An inference belongs to the window in which it ends; what is over at the end is left out.
    """
    spent = np.cumsum([float(one) for each in rounds for one in each.latency_ns])
    if not spent.size:
        return np.zeros(0), np.zeros(0)
    # A window closes at the first inference that ends beyond its width.
    closes = np.unique(
        np.searchsorted(spent, np.arange(width_s * 1e9, float(spent[-1]), width_s * 1e9))
    )
    if not closes.size:
        return np.zeros(0), np.zeros(0)
    ends = spent[closes] / 1e9
    counts = np.diff(np.concatenate([[-1], closes]))
    return ends, counts / np.diff(np.concatenate([[0.0], ends]))


def summary(rounds: Sequence[Round]) -> dict[str, float | None]:
    """Compare the last minute with the first: milliseconds per inference, stalls included.

    ``kept`` is the per cent of the first minute's throughput that the last one still has,
    ``onset_s`` when the speed stepped down for good, None when it did not.
    """
    flat = np.concatenate([np.asarray(one.latency_ns, float) for one in rounds])
    spent = np.cumsum(flat) / 1e9
    minute = min(_MINUTE_S, float(spent[-1]) / 2)
    first = float(flat[spent <= max(minute, float(spent[0]))].mean())
    last = float(flat[spent > float(spent[-1]) - minute].mean())
    found = step_down(rounds)
    return {
        "first_minute_ms": first / 1e6,
        "last_minute_ms": last / 1e6,
        "kept": 100.0 * first / last,
        "onset_s": round(found.onset_s, 2) if found is not None and found.lasting else None,
    }
