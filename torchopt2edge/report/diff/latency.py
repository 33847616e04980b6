"""How the latencies of two runs compare, which were not measured in turns with each other.

Rounds are not paired across the runs: the ratio is that of the medians of the per-round medians,
its interval a bootstrap that draws the rounds of either run on their own. Where both runs hold
an unchanged file, it is the anchor: within its run every round of a file is divided by the
anchor's beside it, which cancels what the machine did to both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from torchopt2edge.report.text.numbers import times
from torchopt2edge.report.text.row_view import plain
from torchopt2edge.stats import rounds as round_stats
from torchopt2edge.stats.rounds import Interval, Vector
from torchopt2edge.types import BASELINE, Measurement

TOLERANCE = 0.05
"""What an interval must stay within to be called the same where no limit was given."""

# What makes latencies differ without any change of a file.
_SETTINGS = (
    *("runtime", "runtime_version", "threads", "affinity", "provider", "delegate", "mode"),
    *("spinning", "graph_optimization", "order", "cores", "governor", "kernel", "python"),
)
_SPOILS = ("emulated", "throttled", "too-few-samples")  # flags with which no latency is compared
_PLACE = ("cpu", "arch", "emulated", "runner")  # where one differs, latencies are not compared
_OF_MACHINE = ("cores", "governor", "kernel", "python")  # these the anchor feels as others do
_WIDE = 1.96 / 0.6745  # from the median absolute deviation to 95 %
MACHINE = 0.15
"""How far a shared machine's speed differs from run to run: half an interval without an anchor."""


@dataclass(frozen=True)
class Pair:
    """The rows of one candidate in both runs."""

    before: Measurement
    after: Measurement

    @property
    def name(self) -> str:
        """The candidate's id."""
        return self.after.candidate

    def metric(self, name: str) -> tuple[float, float] | None:
        """Return the values before and after, None unless both were measured."""
        first, second = self.before.metrics.get(name), self.after.metrics.get(name)
        if first is None or second is None or not math.isfinite(first + second):
            return None
        return first, second

    def differs(self, key: str) -> tuple[object, object] | None:
        """Return a fact's two values when both are known and differ."""
        first, second = self.before.facts.get(key), self.after.facts.get(key)
        return None if first is None or second is None or first == second else (first, second)

    def differences(self) -> Iterator[tuple[str, tuple[object, object]]]:
        """Yield every setting whose two values are known and differ, with them."""
        for key in ("device", "protocol"):
            first, second = getattr(self.before, key), getattr(self.after, key)
            if first != second:
                yield key, (first, second)
        for key in (*_PLACE, *_SETTINGS):
            if (both := self.differs(key)) is not None:
                yield key, both

    @property
    def obstacle(self) -> str:
        """Why the two latencies cannot be compared, "" when they can."""
        if self.before.device != self.after.device:
            return "measured on another device"
        for key in _PLACE:
            if self.differs(key):
                return "measured by another runner" if key == "runner" else f"another {key}"
        for row, when in ((self.before, "before"), (self.after, "after")):
            for flag in _SPOILS:
                if flag in (row.facts.get("flags") or ()):
                    return f"{flag} {when}"
            if len(_settled(row)) < round_stats.LEAST_ROUNDS:
                return f"{len(_settled(row))} rounds {when}, too few for an interval"
            if not round_stats.has_times(row.latency_ns):
                return f"rounds without any time {when}"
        return ""

    @property
    def blur(self) -> float:
        """What the clocks could not tell (logarithm)."""
        rows = (self.before, self.after)
        return sum(
            round_stats.blur(
                round_stats.clock_step(row.facts), round_stats.round_medians(_settled(row))
            )
            for row in rows
        )

    @property
    def unchanged(self) -> bool:
        """Whether it can be an anchor: the same bytes, timed in turns in the same way.

        PyTorch's row may hold other weights in the same net: what floats take does not hang on
        their values, and a model that was trained on has no other anchor.
        """
        if self.before.err or self.after.err or self.obstacle:
            return False
        made = _net if self.after.backend == BASELINE else _digest
        digests = [made(row) for row in (self.before, self.after)]
        turns = all(row.facts.get("order") != "blocks" for row in (self.before, self.after))
        settings = any(self.differs(key) for key in _SETTINGS if key not in _OF_MACHINE)
        return bool(digests[0]) and digests[0] == digests[1] and turns and not settings


def _digest(row: Measurement) -> str:
    return str(row.facts.get("file_sha256") or row.facts.get("digest") or "")


def _net(row: Measurement) -> str:
    """Return what tells a PyTorch net from others but for its weights' values."""
    known = [row.facts.get(name) for name in ("params", "macs")]
    return _digest(row) if None in known else f"{row.backend} {known}"


def _settled(row: Measurement) -> Sequence[list[int]]:
    return round_stats.settled(row.latency_ns, row.facts.get("order"))


@dataclass(frozen=True)
class Weather:
    """What the machine did between the runs, as unchanged files show it.

    ``still`` holds by how much (logarithm) each other unchanged file moved against the anchor.
    """

    anchor: Pair | None = None
    still: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Weather:
        """Choose the anchor: the reference, else PyTorch, else the first unchanged file."""
        unchanged = sorted((pair for pair in pairs if pair.unchanged), key=_as_anchor)
        if not unchanged:
            return cls()
        bare = cls(unchanged[0])
        others = [pair for pair in unchanged[1:] if bare.covers(pair)]
        return cls(unchanged[0], {pair.name: _middle(*bare.logs(pair)) for pair in others})

    @property
    def name(self) -> str:
        """The anchor's id, "" without one."""
        return self.anchor.name if self.anchor else ""

    def covers(self, pair: Pair) -> bool:
        """Whether a pair was timed in turns with the anchor, in both runs."""
        if self.anchor is None:
            return False
        rows = ((pair.before, self.anchor.before), (pair.after, self.anchor.after))
        return all(
            own.facts.get("run") == its.facts.get("run") and own.facts.get("order") != "blocks"
            for own, its in rows
        )

    def logs(self, pair: Pair) -> tuple[Vector, Vector]:
        """Return the logarithms of the per-round medians of both runs, over the anchor's."""
        first, second = (np.log(round_stats.round_medians(_settled(row))) for row in _both(pair))
        if self.anchor is None or not self.covers(pair):
            return first, second
        base, other = (
            np.log(round_stats.round_medians(_settled(row))) for row in _both(self.anchor)
        )
        return _over(first, base), _over(second, other)

    def ratio(self, pair: Pair) -> Interval:
        """Return after over before, with its 95 % interval."""
        middle, low, high = round_stats.median_shift(*self.logs(pair))
        rest = math.hypot(self.rest(pair), pair.blur)
        low, high = (
            middle - math.hypot(middle - low, rest),
            middle + math.hypot(high - middle, rest),
        )
        return math.exp(middle), math.exp(low), math.exp(high)

    def rest(self, pair: Pair) -> float:
        """Return the half width that the rounds do not show (logarithm).

        Beside an anchor, what the other unchanged files moved; without one `MACHINE`, and for
        files that ran one after the other how far the machine drifted in the course of both runs.
        """
        if not self.covers(pair):
            moved_in = (float(row.facts.get("anchor_spread") or 0.0) for row in _both(pair))
            return math.hypot(MACHINE, *moved_in)
        moved = [abs(by) for name, by in self.still.items() if name != pair.name]
        return _WIDE * float(np.median(moved)) if moved else 0.0

    def method(self) -> str:
        """Say how latencies were compared."""
        how = "Latency: the ratio of the medians of the rounds, drawn apart for its interval"
        if self.anchor is None:
            return (
                f"{how}. What the machine did between the runs is part of it, so intervals reach "
                f"about {MACHINE:.0%} or more to either side."
            )
        moved = times(math.exp(_middle(*Weather().logs(self.anchor))))
        said = (
            f"{how}. Within its run each round was divided by that of the unchanged "
            f"{plain(self.name)}, whose own latency is {moved} of what it was."
        )
        if self.still:
            files = "file" if len(self.still) == 1 else "files"
            return f"{said} Intervals hold how far {len(self.still)} other unchanged {files} moved."
        return f"{said} No other file is unchanged, so what a fresh start moves is not known."

    def warnings(self) -> Iterator[str]:
        """Say what makes the comparison of latencies weak."""
        if self.anchor is None:
            yield (
                "no unchanged file was timed in turns in both runs, so a slower machine looks like "
                "slower files, and only a change beyond it shows: keep one unchanged file, or the "
                "PyTorch row, in every run"
            )
        for name, by in self.still.items():
            if abs(by) > math.log1p(TOLERANCE):
                yield f"{plain(name)} did not change, yet its latency did ({times(math.exp(by))})"


def _as_anchor(pair: Pair) -> tuple[bool, bool]:
    row = pair.after
    return row.facts.get("reference") is not True, row.backend != "torch"


def _both(pair: Pair) -> tuple[Measurement, Measurement]:
    return pair.before, pair.after


def _over(own: Vector, anchor: Vector) -> Vector:
    count = min(own.size, anchor.size)
    return np.asarray(own[:count] - anchor[:count])


def _middle(before: Vector, after: Vector) -> float:
    return float(np.median(after) - np.median(before))
