"""How the latencies of two runs compare, which were not measured in turns with each other.

Rounds are not paired across the runs: the ratio is that of the medians of the round medians, its
interval a bootstrap that resamples the rounds of each run separately. Where both runs hold an
unchanged file, it is the control: within its run every round of a file is divided by the
control's round beside it, which cancels what the machine did to both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from torchopt2edge.report.text.numbers import times
from torchopt2edge.report.text.row_view import plain
from torchopt2edge.stats import rounds as round_stats
from torchopt2edge.stats.rounds import Interval, Vector
from torchopt2edge.types import BASELINE, Measurement

TOLERANCE = 0.05
"""What an interval must stay within to be called the same where no limit was given."""

MACHINE = 0.15
"""How much a shared machine's speed differs from run to run: half an interval without control."""

# Settings that change a latency without a change of the file.
_SETTINGS = (
    *("runtime", "runtime_version", "threads", "affinity", "provider", "delegate", "mode"),
    *("spinning", "graph_optimization", "order", "cores", "governor", "kernel", "python"),
)
_INVALIDATING = ("emulated", "throttled", "too-few-samples")  # flags that forbid a comparison
_PLACE = ("cpu", "arch", "emulated", "runner")  # latencies are compared only where these are equal
_OF_MACHINE = ("cores", "governor", "kernel", "python")  # these change the control as well
_TO_95 = 1.96 / 0.6745  # from the median absolute deviation to half a 95 % interval


@dataclass(frozen=True)
class Obstacle:
    """Why two latencies cannot be compared: a code and a sentence.

    The code is ``device``, ``cpu``, ``arch``, ``emulated``, ``runner``, a validity flag,
    ``few-rounds`` or ``no-times``.
    """

    code: str
    text: str


@dataclass(frozen=True)
class RowPair:
    """The rows of one candidate in both runs."""

    before: Measurement
    after: Measurement

    @property
    def name(self) -> str:
        """The candidate's id."""
        return self.after.candidate

    @property
    def rows(self) -> tuple[Measurement, Measurement]:
        """Both rows, the earlier first."""
        return self.before, self.after

    def metric(self, name: str) -> tuple[float, float] | None:
        """Return a metric's values.

        Args:
            name: The metric's name.

        Returns:
            (before, after), or None unless both were measured and are finite.
        """
        first, second = self.before.metrics.get(name), self.after.metrics.get(name)
        if first is None or second is None or not math.isfinite(first + second):
            return None
        return first, second

    def differs(self, key: str) -> tuple[object, object] | None:
        """Return a fact's two values.

        Args:
            key: The fact's name.

        Returns:
            (before, after) when both are known and differ, else None.
        """
        first, second = self.before.facts.get(key), self.after.facts.get(key)
        return None if first is None or second is None or first == second else (first, second)

    def differences(self) -> Iterator[tuple[str, tuple[object, object]]]:
        """Yield the name and both values of every setting that is known to differ."""
        for key in ("device", "protocol"):
            first, second = getattr(self.before, key), getattr(self.after, key)
            if first != second:
                yield key, (first, second)
        for key in (*_PLACE, *_SETTINGS):
            if (both := self.differs(key)) is not None:
                yield key, both

    @cached_property
    def obstacle(self) -> Obstacle | None:
        """Why the two latencies cannot be compared, None when they can."""
        if self.before.device != self.after.device:
            return Obstacle("device", "measured on another device")
        for key in _PLACE:
            if self.differs(key):
                runner = key == "runner"
                return Obstacle(key, "measured by another runner" if runner else f"another {key}")
        for row, when in ((self.before, "before"), (self.after, "after")):
            for flag in _INVALIDATING:
                if flag in (row.facts.get("flags") or ()):
                    return Obstacle(flag, f"{flag} {when}")
            count = len(_settled(row))
            if count < round_stats.LEAST_ROUNDS:
                return Obstacle("few-rounds", f"{count} rounds {when}, too few for an interval")
            if not round_stats.has_times(row.latency_ns):
                return Obstacle("no-times", f"rounds without any time {when}")
        return None

    @property
    def clock_error(self) -> float:
        """By how much the clocks' steps alone may move the ratio (logarithm)."""
        return sum(
            round_stats.blur(
                round_stats.clock_step(row.facts), round_stats.round_medians(_settled(row))
            )
            for row in self.rows
        )

    @cached_property
    def unchanged(self) -> bool:
        """Whether it can be the control: the same bytes, timed in turns in the same way.

        PyTorch's row may hold other weights in the same net: the time of float arithmetic does
        not depend on its values, and a model that was trained on has no other control.
        """
        if self.before.err or self.after.err or self.obstacle:
            return False
        identity = _net if self.after.backend == BASELINE else _digest
        first, second = map(identity, self.rows)
        in_turns = all(row.facts.get("order") != "blocks" for row in self.rows)
        settings = any(self.differs(key) for key in _SETTINGS if key not in _OF_MACHINE)
        return bool(first) and first == second and in_turns and not settings


def _digest(row: Measurement) -> str:
    return str(row.facts.get("file_sha256") or row.facts.get("digest") or "")


def _net(row: Measurement) -> str:
    """Return what identifies a PyTorch net apart from its weights' values."""
    known = [row.facts.get(name) for name in ("params", "macs")]
    return _digest(row) if None in known else f"{row.backend} {known}"


def _settled(row: Measurement) -> Sequence[list[int]]:
    return round_stats.settled(row.latency_ns, row.facts.get("order"))


@dataclass(frozen=True)
class MachineShift:
    """How the machine's speed changed between the runs, as unchanged files show it.

    Attributes:
        control: The unchanged file that latencies are divided by.
        unchanged: By how much (logarithm) each other unchanged file moved against the control.
    """

    control: RowPair | None = None
    unchanged: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, pairs: Sequence[RowPair]) -> MachineShift:
        """Choose the control: the reference, else PyTorch, else the first unchanged file.

        Args:
            pairs: The candidates that both runs hold.

        Returns:
            The shift; without a control where no file is unchanged.
        """
        unchanged = sorted((pair for pair in pairs if pair.unchanged), key=_control_order)
        if not unchanged:
            return cls()
        bare = cls(unchanged[0])
        others = [pair for pair in unchanged[1:] if bare.covers(pair)]
        return cls(unchanged[0], {pair.name: _median_change(*bare.logs(pair)) for pair in others})

    @property
    def name(self) -> str:
        """The control's id, "" without one."""
        return self.control.name if self.control else ""

    def covers(self, pair: RowPair) -> bool:
        """Tell whether a pair was timed in turns with the control, in both runs.

        Args:
            pair: The pair.

        Returns:
            Whether its latencies can be divided by the control's.
        """
        if self.control is None:
            return False
        return all(
            own.facts.get("run") == control.facts.get("run") and own.facts.get("order") != "blocks"
            for own, control in zip(pair.rows, self.control.rows, strict=True)
        )

    def logs(self, pair: RowPair) -> tuple[Vector, Vector]:
        """Return the rounds of both runs.

        Args:
            pair: The pair.

        Returns:
            The logarithms of the round medians, over the control's where it covers the pair.
        """
        first, second = (np.log(round_stats.round_medians(_settled(row))) for row in pair.rows)
        if self.control is None or not self.covers(pair):
            return first, second
        rows = self.control.rows
        base, other = (np.log(round_stats.round_medians(_settled(row))) for row in rows)
        return _over(first, base), _over(second, other)

    def ratio(self, pair: RowPair) -> Interval:
        """Return after over before, with its 95 % interval.

        Args:
            pair: The pair.

        Returns:
            (ratio, low, high).
        """
        middle, low, high = round_stats.median_shift(*self.logs(pair))
        extra = math.hypot(self.extra_width(pair), pair.clock_error)
        low = middle - math.hypot(middle - low, extra)
        high = middle + math.hypot(high - middle, extra)
        return math.exp(middle), math.exp(low), math.exp(high)

    def extra_width(self, pair: RowPair) -> float:
        """Return the half width that the rounds cannot show (logarithm).

        Args:
            pair: The pair.

        Returns:
            Beside a control, how much the other unchanged files moved; without one `MACHINE`,
            and for files that ran one after the other the machine's drift within both runs.
        """
        if not self.covers(pair):
            drifts = (float(row.facts.get("anchor_spread") or 0.0) for row in pair.rows)
            return math.hypot(MACHINE, *drifts)
        moved = [abs(by) for name, by in self.unchanged.items() if name != pair.name]
        return _TO_95 * float(np.median(moved)) if moved else 0.0

    @property
    def control_ratio(self) -> float | None:
        """The control's own latency after over before, None without a control."""
        if self.control is None:
            return None
        return math.exp(_median_change(*MachineShift().logs(self.control)))

    def method(self) -> str:
        """Return sentences on how latencies were compared."""
        how = (
            "Latency is the ratio of the medians of the round medians; its interval resamples the "
            "rounds of each run separately."
        )
        if self.control_ratio is None:
            return (
                f"{how} A change of the machine's speed between the runs is part of it, so "
                f"intervals reach about {MACHINE:.0%} or more to either side."
            )
        control = (
            f"Within its run each round was divided by that of the control {plain(self.name)}, an "
            f"unchanged file whose own latency is {times(self.control_ratio)} of what it was."
        )
        if self.unchanged:
            files = "file" if len(self.unchanged) == 1 else "files"
            count = f"{len(self.unchanged)} other unchanged {files}"
            return f"{how} {control} Intervals include how much {count} moved."
        unknown = "No other file is unchanged, so the effect of a fresh start is not known."
        return f"{how} {control} {unknown}"

    def warnings(self) -> Iterator[str]:
        """Yield what makes the comparison of latencies weak."""
        if self.control is None:
            yield (
                "no unchanged file was timed in turns in both runs, so a slower machine looks like "
                "slower files, and only a change beyond it shows: keep one unchanged file, or the "
                "PyTorch row, in every run"
            )
        for name, by in self.unchanged.items():
            if abs(by) > math.log1p(TOLERANCE):
                yield f"{plain(name)} did not change, yet its latency did ({times(math.exp(by))})"


def _control_order(pair: RowPair) -> tuple[bool, bool]:
    row = pair.after
    return row.facts.get("reference") is not True, row.backend != BASELINE


def _over(own: Vector, control: Vector) -> Vector:
    count = min(own.size, control.size)
    return np.asarray(own[:count] - control[:count])


def _median_change(before: Vector, after: Vector) -> float:
    return float(np.median(after) - np.median(before))
