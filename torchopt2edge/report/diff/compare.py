"""Compares two runs: which files became slower, larger or worse, and what a CI may fail on.

How it compares:

- Latency. The two runs were not measured in turns with each other, so rounds are not paired
  across them: the ratio is that of the medians of the round medians, and its interval a
  bootstrap that resamples the rounds of each run separately. Where both runs hold an unchanged
  file (same bytes, runtime and settings) it is the control: within its run every round of a file
  is divided by the control's round beside it, which cancels what the machine did to both. The
  interval is widened by how much other unchanged files still moved, since a fresh process can
  shift a file as a whole, which its rounds cannot show.
- On another device or with another runner latencies are not compared. Other settings that differ
  are warnings.
- The task metric: on the same samples where both rows kept their scores (McNemar's test for
  hits), else from the two intervals.
- Size and memory: plain numbers; 1 % counts as equal.

A limit breaks where latency, file size or task metric are beyond ``max_regression`` and chance is
excluded (the interval excludes 1, p < 0.05), or where a file fails that did not. So the noise of
the rounds cannot fail a CI, nor, beside a control, a slower machine; without a control a machine
that is slower by more than the limit can. What may be beyond it, with chance not excluded, is in
``strict``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchopt2edge.errors import ConfigError
from torchopt2edge.report.diff.change import EQUAL, FAILED_BEFORE, Change, Outcome, is_clear
from torchopt2edge.report.diff.latency import TOLERANCE, MachineShift, RowPair
from torchopt2edge.report.diff.limits import Finding, judge
from torchopt2edge.report.text.row_view import is_percent, plain
from torchopt2edge.stats.rounds import Interval
from torchopt2edge.stats.rows import half_width, metric_value, task_metric
from torchopt2edge.types import Measurement, Verdict

Run = tuple[Sequence[Measurement], Verdict, Mapping[str, Any]]
"""A run as `report.read` returns it: rows, verdict, context."""

_STEADY_POINTS = 1.0  # an interval within it is called the same: points, or per cent of the value


@dataclass(frozen=True)
class RunDiff:
    """Two runs compared.

    Attributes:
        titles: The runs' titles, the earlier first.
        winners: The ids that the runs named, "" for none.
        max_regression: The limit as a share, None without one.
        changes: What became of every candidate.
        control: The id of the unchanged file that latencies were divided by, "" without one.
        method: How latencies were compared.
        findings: What breaks the limit, and what may.
        warnings: What makes the comparison weak.
    """

    titles: tuple[str, str]
    winners: tuple[str, str]
    max_regression: float | None
    changes: tuple[Change, ...]
    control: str = ""
    method: str = ""
    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[str, ...]:
        """What breaks the limit, as sentences."""
        return tuple(finding.text for finding in self.findings if finding.breaks)

    @property
    def strict(self) -> tuple[str, ...]:
        """What may break it, as sentences; a strict check fails on these too."""
        return tuple(finding.text for finding in self.findings if not finding.breaks)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in ``against.json``."""
        return {
            "schema": 1,
            "titles": self.titles,
            "winners": self.winners,
            "max_regression": self.max_regression,
            "changes": [change.to_json() for change in self.changes],
            "anchor": self.control,
            "method": self.method,
            "broken": self.broken,
            "strict": self.strict,
            "warnings": self.warnings,
        }

    def change(self, candidate: str, metric: str) -> Change | None:
        """Return one change.

        Args:
            candidate: The candidate's id.
            metric: The metric's name, "" for the candidate itself.

        Returns:
            The change, or None where it was not compared.
        """
        known = (c for c in self.changes if (c.candidate, c.metric) == (candidate, metric))
        return next(known, None)


def compare(before: Run, after: Run, max_regression: float | None) -> RunDiff:
    """Compare two runs.

    Args:
        before: The earlier run.
        after: The later run.
        max_regression: The limit as a share (0.05), None without one.

    Returns:
        The comparison.

    Raises:
        ConfigError: They have no candidate in common, or one holds an id twice.
    """
    old, new = _by_id(before[0], "before"), _by_id(after[0], "after")
    pairs = {name: RowPair(old[name], new[name]) for name in new if name in old}
    if not pairs:
        raise ConfigError(
            "the two runs have no candidate in common",
            hint="compare runs of the same models, backends and schemes",
        )
    machine = MachineShift.of(list(pairs.values()))
    changes = [
        *(change for pair in pairs.values() for change in _changes(pair, machine, max_regression)),
        *(Change(name, "", "new", note=_failure(new[name])) for name in new if name not in old),
        *(Change(name, "", "gone", note=_failure(old[name])) for name in old if name not in new),
    ]
    timed = any(change.metric == "latency_ms" and change.effect for change in changes)
    judged = [] if max_regression is None else [judge(each, max_regression) for each in changes]
    return RunDiff(
        (str(before[2].get("title", "")), str(after[2].get("title", ""))),
        (before[1].winner or "", after[1].winner or ""),
        max_regression,
        tuple(changes),
        machine.name,
        machine.method(),
        tuple(finding for finding in judged if finding is not None),
        (*_settings_warnings(list(pairs.values())), *(machine.warnings() if timed else ())),
    )


def _by_id(rows: Sequence[Measurement], which: str) -> dict[str, Measurement]:
    own = [row for row in rows if "checks" not in row.facts]  # a vendor tool's row only checks one
    by_id = {row.candidate: row for row in own}
    if len(by_id) != len(own):
        raise ConfigError(f"the run {which} holds a candidate twice", hint="compare whole runs")
    return by_id


def _changes(pair: RowPair, machine: MachineShift, limit: float | None) -> Iterator[Change]:
    """Yield what became of one candidate: that it fails or works again, else every metric."""
    if pair.after.err is not None:
        note = FAILED_BEFORE if pair.before.err is not None else plain(pair.after.err)
        yield Change(pair.name, "", "failed", note=note)
    elif pair.before.err is not None:
        yield Change(pair.name, "", "fixed", note=f"before: {plain(pair.before.err)}")
    else:
        yield from _latency(pair, machine, limit)
        yield from _quality(pair)
        for metric in ("size_mb", "memory_mb"):
            values = pair.metric(metric)
            if values is not None:
                yield _amount(pair.name, metric, values)


def _failure(row: Measurement) -> str:
    return "" if row.err is None else f"fails: {plain(row.err)}"


def _latency(pair: RowPair, machine: MachineShift, limit: float | None) -> Iterator[Change]:
    name, metric = pair.name, "latency_ms"
    before, after = (row.metrics.get(metric) for row in (pair.before, pair.after))
    if before is None:
        return
    if after is None:
        yield Change(name, metric, "inconclusive", before, note="not timed after")
    elif pair.obstacle:
        yield Change(name, metric, "inconclusive", before, after, note=pair.obstacle.text)
    elif pair is machine.control:
        note = "the control: other latencies are divided by its own"
        yield Change(name, metric, "same", before, after, (1.0, 1.0, 1.0), note=note)
    else:
        covered = machine.covers(pair)
        note = f"divided by {plain(machine.name)}" if covered else "nothing divided out"
        effect = machine.ratio(pair)
        allowed = max(TOLERANCE if limit is None else limit, EQUAL)
        outcome = _latency_outcome(effect, allowed)
        yield Change(name, metric, outcome, before, after, effect, note=note)


def _latency_outcome(effect: Interval, allowed: float) -> Outcome:
    value, low, high = effect
    if low > 1.0 and value > 1.0 + EQUAL:
        return "slower"
    if high < 1.0 and value < 1.0 / (1.0 + EQUAL):
        return "faster"
    return "same" if 1.0 / (1.0 + allowed) <= low and high <= 1.0 + allowed else "inconclusive"


def _quality(pair: RowPair) -> Iterator[Change]:
    """Yield the task metric's change: after minus before, larger is better."""
    metric = task_metric([pair.before])
    before, after = (metric_value(row, metric) for row in (pair.before, pair.after))
    if before is None:
        return
    if after is None or pair.differs("metric"):
        note = "not evaluated after" if after is None else "another task metric after"
        yield Change(pair.name, metric, "inconclusive", before, kind="difference", note=note)
        return
    drop, note = _drop(pair, metric, before - after)
    low, high = -drop.get("drop_high", math.inf), -drop.get("drop_low", -math.inf)
    effect = (after - before, low, high)
    p = drop.get("mcnemar_p")
    outcome = _quality_outcome(effect, p, before if not is_percent(metric) else 100.0)
    yield Change(pair.name, metric, outcome, before, after, effect, "difference", p, note)


def _drop(pair: RowPair, metric: str, lost: float) -> tuple[dict[str, float], str]:
    """Return the loss with its interval, paired where the samples were kept, and its origin."""
    from torchopt2edge.stats.paired import paired

    old, new = pair.before.facts, pair.after.facts
    same = old.get("n_eval") == new.get("n_eval")
    for kept in ("correct", "scores"):
        first, second = old.get(kept) or "", new.get(kept) or ""
        if same and first and len(first) == len(second):
            drop = paired({kept: first}, {kept: second})
            return drop, f"paired on {len(first)} samples, taken to be the same ones"
    halves = [half_width(row, metric) for row in (pair.before, pair.after)]
    if halves[0] is None or halves[1] is None:
        return {}, "no interval is known"
    half = math.hypot(halves[0], halves[1])
    return {"drop_low": lost - half, "drop_high": lost + half}, "not paired: from both intervals"


def _quality_outcome(effect: Interval, p: float | None, whole: float) -> Outcome:
    """Name a difference of the task metric; a point is a hundredth of ``whole``."""
    value, low, high = effect
    if value == 0.0 and p in (None, 1.0):
        return "same"
    if value and is_clear(effect, p):
        return "worse" if value < 0 else "better"
    steady = _STEADY_POINTS * abs(whole) / 100.0
    return "same" if -steady <= low and high <= steady else "inconclusive"


def _amount(name: str, metric: str, values: tuple[float, float]) -> Change:
    before, after = values
    ratio = after / before if before else math.inf if after else 1.0
    equal = 1.0 / (1.0 + EQUAL) <= ratio <= 1.0 + EQUAL
    outcome: Outcome = "same" if equal else "larger" if ratio > 1.0 else "smaller"
    return Change(name, metric, outcome, before, after, (ratio, ratio, ratio))


def _settings_warnings(pairs: Sequence[RowPair]) -> Iterator[str]:
    """Yield each setting that differs between the runs once, with its candidates."""
    names: dict[str, list[str]] = {}
    sound = [pair for pair in pairs if not (pair.before.err or pair.after.err)]
    for pair in sound:
        for key, (old, new) in pair.differences():
            text = f"{key.replace('_', ' ')} differs: {plain(old)} before, {plain(new)} after"
            names.setdefault(text, []).append(plain(pair.name))
    for text, each in names.items():
        yield text if len(each) == len(sound) > 1 else f"{text} ({', '.join(each)})"
