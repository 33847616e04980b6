"""Compares two runs: which files became slower, larger or worse, and what a CI may fail on.

How it compares:

- Latency. The two runs were not measured in turns with each other, so rounds are not paired
  across them: the ratio is that of the medians of the per-round medians, and its interval a
  bootstrap that draws the rounds of either run on their own. Where both hold an unchanged file
  (same bytes, runtime and settings) it is the anchor: within its run every round of a file is
  divided by the anchor's beside it, which cancels what the machine did to both. The interval is
  widened by how far other unchanged files still moved, for a fresh process can shift a file as
  a whole, which its rounds cannot show.
- Another device or runner: nothing is said of latency. Other settings that differ are warnings.
- The task metric: on the same samples where both rows kept their scores (McNemar's test for
  hits), else from the two intervals.
- Size and memory: plain numbers; 1 % counts as equal.

What breaks: latency, file size or task metric are beyond ``max_regression`` and chance is
excluded (the interval excludes 1, p < 0.05), or a file fails that did not. So noise alone cannot
fail a CI; what may be beyond the limit and could not be told is in ``strict``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from torchopt2edge import stats
from torchopt2edge.errors import ConfigError
from torchopt2edge.report.line import is_share, metric_title, plain
from torchopt2edge.report.number import MINUS, fixed, significant, times, times_between
from torchopt2edge.stats import Interval, Vector
from torchopt2edge.types import Measurement, Verdict

Run = tuple[Sequence[Measurement], Verdict, Mapping[str, Any]]
Word = Literal[
    *("slower", "faster", "same", "cannot tell", "new", "gone", "failed", "mended"),
    *("worse", "better", "larger", "smaller"),
]

EQUAL = 0.01
"""Within 1 % two latencies or sizes are equal for every practical purpose."""

TOLERANCE = 0.05
"""What an interval must stay within to be called the same where no limit was given."""

_CLEAR_P = 0.05
_SPOILS = ("emulated", "throttled", "too-few-samples")  # flags with which no latency is compared
_PLACE = ("cpu", "arch", "emulated", "runner")  # facts without which latencies are incomparable
_SETTINGS = (
    *("runtime", "runtime_version", "threads", "affinity", "provider", "delegate", "mode"),
    *("spinning", "graph_optimization", "order", "cores", "governor", "kernel", "python"),
)
_WIDE = 1.96 / 0.6745  # from the median absolute deviation to 95 %
_SHARE = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*(%?)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Change:
    """What became of one metric of one candidate, or, with ``metric`` "", of the candidate itself.

    ``by`` is (value, low, high): after over before when ``kind`` is ``ratio`` (of latencies, with
    the anchor divided out of both, which is why it may differ from the two values' own), after
    minus before when it is ``difference``. ``p`` is how often equal files would differ as much,
    where a test says so; ``note`` what a reader must know.
    """

    candidate: str
    metric: str
    word: Word
    before: float | None = None
    after: float | None = None
    by: Interval | None = None
    kind: Literal["ratio", "difference"] = "ratio"
    p: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Against:
    """Two runs beside each other; ``broken`` is what is beyond the limit, in sentences.

    ``strict`` is what may be beyond it; ``anchor`` the id of the unchanged file that latencies
    were divided by, "" without one; ``winners`` the ids that the runs named, "" for none.
    """

    titles: tuple[str, str]
    winners: tuple[str, str]
    max_regression: float | None
    changes: tuple[Change, ...]
    anchor: str = ""
    method: str = ""
    broken: tuple[str, ...] = ()
    strict: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in ``against.json``."""
        return {"schema": 1, **asdict(self)}

    def of(self, candidate: str, metric: str) -> Change | None:
        """Return one change, None where it was not compared."""
        known = (c for c in self.changes if (c.candidate, c.metric) == (candidate, metric))
        return next(known, None)


def parse_share(text: str | float) -> float:
    """Return a share from "5%", "5 %" or "0.05".

    Raises:
        ConfigError: it is none of these; a number of 1 or more without % is refused, since 5 may
            mean 5 % as well as 500 %.
    """
    found = None if isinstance(text, bool) else _SHARE.fullmatch(str(text))
    value = float(found[1]) if found else math.nan
    if found and (found[2] or value < 1.0) and math.isfinite(value):
        return value / 100.0 if found[2] else value
    raise ConfigError(
        f"{text!r} is no share", artifact="report.max_regression", mend="write 5% or 0.05"
    )


def compare(before: Run, after: Run, max_regression: float | None) -> Against:
    """Compare two runs as `report.read` returns them; ``max_regression`` is a share (0.05).

    Raises:
        ConfigError: they have no candidate in common, or one holds an id twice.
    """
    old, new = _by_id(before[0], "before"), _by_id(after[0], "after")
    pairs = {name: _Pair(old[name], new[name]) for name in new if name in old}
    if not pairs:
        raise ConfigError(
            "the two runs have no candidate in common",
            mend="compare runs of the same models, backends and schemes",
        )
    weather = _Weather.of(list(pairs.values()))
    changes = [
        *(change for pair in pairs.values() for change in _changes(pair, weather, max_regression)),
        *(Change(name, "", "new") for name in new if name not in old),
        *(Change(name, "", "gone") for name in old if name not in new),
    ]
    judged = [] if max_regression is None else [_judge(one, max_regression) for one in changes]
    return Against(
        (str(before[2].get("title", "")), str(after[2].get("title", ""))),
        (before[1].winner or "", after[1].winner or ""),
        max_regression,
        tuple(changes),
        weather.name,
        weather.method(),
        tuple(said for breaks, said in judged if breaks),
        tuple(said for breaks, said in judged if said and not breaks),
        tuple([*_differences(list(pairs.values())), *weather.warnings()]),
    )


def _by_id(rows: Sequence[Measurement], which: str) -> dict[str, Measurement]:
    found = {row.candidate: row for row in rows}
    if len(found) != len(rows):
        raise ConfigError(f"the run {which} holds a candidate twice", mend="compare whole runs")
    return found


@dataclass(frozen=True)
class _Pair:
    """The rows of one candidate in both runs."""

    before: Measurement
    after: Measurement

    @property
    def name(self) -> str:
        return self.after.candidate

    def metric(self, name: str) -> tuple[float, float] | None:
        """Return the values before and after, None unless both were measured."""
        values = self.before.metrics.get(name), self.after.metrics.get(name)
        first, second = values
        if first is None or second is None or not math.isfinite(first + second):
            return None
        return first, second

    def differs(self, key: str) -> tuple[object, object] | None:
        """Return a fact's two values when both are known and differ."""
        first, second = self.before.facts.get(key), self.after.facts.get(key)
        return None if first is None or second is None or first == second else (first, second)

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
                if flag in row.facts.get("flags", ()):
                    return f"{flag} {when}"
            if len(_settled(row)) < stats.LEAST_ROUNDS:
                return f"{len(_settled(row))} rounds {when}, too few for an interval"
        return ""

    @property
    def unchanged(self) -> bool:
        """Whether it can be an anchor: the same bytes, timed in turns in the same way."""
        if self.before.err or self.after.err or self.obstacle:
            return False
        digests = [_digest(row) for row in (self.before, self.after)]
        turns = all(row.facts.get("order") != "blocks" for row in (self.before, self.after))
        settings = any(self.differs(key) for key in _SETTINGS if key not in ("kernel", "governor"))
        return bool(digests[0]) and digests[0] == digests[1] and turns and not settings


def _digest(row: Measurement) -> str:
    return str(row.facts.get("file_sha256") or row.facts.get("digest") or "")


def _settled(row: Measurement) -> list[list[int]]:
    """Return the rounds that count: all, or the warm half where each file ran on its own."""
    skipped = len(row.latency_ns) // 2 if row.facts.get("order") == "blocks" else 0
    return [one for one in row.latency_ns[skipped:] if one]


@dataclass(frozen=True)
class _Weather:
    """What the machine did between the runs, as unchanged files show it.

    ``still`` holds by how much (logarithm) each other unchanged file moved against the anchor.
    """

    anchor: _Pair | None = None
    still: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, pairs: Sequence[_Pair]) -> _Weather:
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

    def covers(self, pair: _Pair) -> bool:
        """Whether a pair was timed in turns with the anchor, in both runs."""
        if self.anchor is None:
            return False
        rows = ((pair.before, self.anchor.before), (pair.after, self.anchor.after))
        return all(
            own.facts.get("run") == its.facts.get("run") and own.facts.get("order") != "blocks"
            for own, its in rows
        )

    def logs(self, pair: _Pair) -> tuple[Vector, Vector]:
        """Return the logarithms of the per-round medians of both runs, over the anchor's."""
        first, second = (np.log(stats.round_medians(_settled(row))) for row in _both(pair))
        if self.anchor is None or not self.covers(pair):
            return first, second
        base, other = (np.log(stats.round_medians(_settled(row))) for row in _both(self.anchor))
        return _over(first, base), _over(second, other)

    def ratio(self, pair: _Pair) -> Interval:
        """Return after over before, with its 95 % interval."""
        middle, low, high = _shift(*self.logs(pair))
        rest = self.rest(pair)
        low, high = middle - math.hypot(middle - low, rest), middle + math.hypot(high - middle, rest)
        return math.exp(middle), math.exp(low), math.exp(high)

    def rest(self, pair: _Pair) -> float:
        """Return the half width that unchanged files show to be chance; its own move is none."""
        moved = [abs(by) for name, by in self.still.items() if name != pair.name]
        return _WIDE * float(np.median(moved)) if moved and self.covers(pair) else 0.0

    def method(self) -> str:
        """Say how latencies were compared."""
        how = "Latency: ratio of the medians of the rounds, which were drawn apart for its interval"
        if self.anchor is None:
            return f"{how}; no file is the same in both runs, so the machine is part of the ratio."
        moved = times(math.exp(_middle(*_Weather().logs(self.anchor))))
        said = f"{how}, each round over that of the unchanged {plain(self.name)} (itself {moved})"
        if self.still:
            return f"{said}; widened by how far {len(self.still)} other unchanged files moved."
        return f"{said}; no other file is unchanged, so what chance does to a process is not known."

    def warnings(self) -> Iterator[str]:
        """Say what makes the comparison of latencies weak."""
        if self.anchor is None:
            yield (
                "no file is the same in both runs, so a slower machine looks like slower files: "
                "keep one unchanged file, or the PyTorch row, in every run"
            )
        for name, by in self.still.items():
            if abs(by) > math.log1p(TOLERANCE):
                yield f"{plain(name)} did not change, yet its latency did ({times(math.exp(by))})"


def _as_anchor(pair: _Pair) -> tuple[bool, bool]:
    row = pair.after
    return row.facts.get("reference") is not True, row.backend != "torch"


def _both(pair: _Pair) -> tuple[Measurement, Measurement]:
    return pair.before, pair.after


def _over(own: Vector, anchor: Vector) -> Vector:
    count = min(own.size, anchor.size)
    return np.asarray(own[:count] - anchor[:count])


def _middle(before: Vector, after: Vector) -> float:
    return float(np.median(after) - np.median(before))


def _shift(before: Vector, after: Vector) -> Interval:
    """Return by how much the median moved, with its 95 % interval; the rounds are not paired.

    As `stats.median_interval`: a percentile bootstrap, expanded for the smaller of the two.
    """
    middle = _middle(before, after)
    if np.ptp(before) == 0.0 and np.ptp(after) == 0.0:
        return middle, middle, middle
    from scipy.stats import bootstrap

    found = bootstrap(
        (before, after),
        lambda one, other, axis: np.median(other, axis=axis) - np.median(one, axis=axis),
        n_resamples=4999,
        confidence_level=stats._expanded(min(before.size, after.size)),
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),  # the same runs give the same answer
    ).confidence_interval
    return middle, float(found.low), float(found.high)
