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
excluded (the interval excludes 1, p < 0.05), or a file fails that did not. So the noise of the
rounds cannot fail a CI, nor, beside an anchor, a slower machine; without an anchor a machine that
is slower by more than the limit can. What may be beyond it and could not be told is in ``strict``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torchopt2edge.errors import ConfigError
from torchopt2edge.report.diff.latency import TOLERANCE, Pair, Weather
from torchopt2edge.report.text.numbers import fixed, significant, times, times_between
from torchopt2edge.report.text.row_view import is_share, metric_title, plain
from torchopt2edge.stats.rounds import Interval
from torchopt2edge.types import Measurement, Verdict

Run = tuple[Sequence[Measurement], Verdict, Mapping[str, Any]]
_Pace = Literal["slower", "faster", "same", "cannot tell"]
_Worth = Literal["worse", "better", "larger", "smaller"]
Word = _Pace | _Worth | Literal["new", "gone", "failed", "mended"]

EQUAL = 0.01
"""Within 1 % two latencies or sizes are equal for every practical purpose."""

_STEADY_POINTS = 1.0  # an interval within it is called the same: points, or per cent of the value
_CLEAR_P = 0.05
_STILL = "it failed before too"
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
    pairs = {name: Pair(old[name], new[name]) for name in new if name in old}
    if not pairs:
        raise ConfigError(
            "the two runs have no candidate in common",
            mend="compare runs of the same models, backends and schemes",
        )
    weather = Weather.of(list(pairs.values()))
    changes = [
        *(change for pair in pairs.values() for change in _changes(pair, weather, max_regression)),
        *(Change(name, "", "new", note=_fails(new[name])) for name in new if name not in old),
        *(Change(name, "", "gone", note=_fails(old[name])) for name in old if name not in new),
    ]
    timed = any(one.metric == "latency_ms" and one.by is not None for one in changes)
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
        (*_differences(list(pairs.values())), *(weather.warnings() if timed else ())),
    )


def _by_id(rows: Sequence[Measurement], which: str) -> dict[str, Measurement]:
    own = [row for row in rows if "checks" not in row.facts]  # a tool's row has nothing to compare
    found = {row.candidate: row for row in own}
    if len(found) != len(own):
        raise ConfigError(f"the run {which} holds a candidate twice", mend="compare whole runs")
    return found


def _changes(pair: Pair, weather: Weather, limit: float | None) -> Iterator[Change]:
    """Yield what became of one candidate: that it fails or works again, else every metric."""
    if pair.after.err is not None:
        note = _STILL if pair.before.err is not None else plain(pair.after.err)
        yield Change(pair.name, "", "failed", note=note)
    elif pair.before.err is not None:
        yield Change(pair.name, "", "mended", note=f"before: {plain(pair.before.err)}")
    else:
        yield from _latency(pair, weather, limit)
        yield from _quality(pair)
        yield from (
            _plain(pair, metric) for metric in ("size_mb", "memory_mb") if _has(pair, metric)
        )


def _fails(row: Measurement) -> str:
    return "" if row.err is None else f"fails: {plain(row.err)}"


def _has(pair: Pair, metric: str) -> bool:
    return pair.metric(metric) is not None


def _latency(pair: Pair, weather: Weather, limit: float | None) -> Iterator[Change]:
    name, metric = pair.name, "latency_ms"
    before, after = (row.metrics.get(metric) for row in (pair.before, pair.after))
    if before is None:
        return
    if after is None or pair.obstacle:
        note = pair.obstacle if after is not None else "not timed after"
        yield Change(name, metric, "cannot tell", before, after, note=note)
        return
    if pair is weather.anchor:
        note = "the anchor: other latencies are divided by its own"
        yield Change(name, metric, "same", before, after, (1.0, 1.0, 1.0), note=note)
        return
    note = f"divided by {plain(weather.name)}" if weather.covers(pair) else "nothing divided out"
    by = weather.ratio(pair)
    allowed = max(TOLERANCE if limit is None else limit, EQUAL)
    yield Change(name, metric, _pace(by, allowed), before, after, by, note=note)


def _pace(by: Interval, allowed: float) -> Word:
    value, low, high = by
    if low > 1.0 and value > 1.0 + EQUAL:
        return "slower"
    if high < 1.0 and value < 1.0 / (1.0 + EQUAL):
        return "faster"
    return "same" if 1.0 / (1.0 + allowed) <= low and high <= 1.0 + allowed else "cannot tell"


def _quality(pair: Pair) -> Iterator[Change]:
    """Yield the task metric's change: after minus before, larger is better."""
    metric = pair.before.facts.get("metric")
    if not isinstance(metric, str) or metric not in pair.before.metrics:
        return
    values = pair.metric(metric)
    if values is None or pair.differs("metric"):
        note = "not evaluated after" if values is None else "another task metric after"
        before = pair.before.metrics[metric]
        yield Change(pair.name, metric, "cannot tell", before, kind="difference", note=note)
        return
    before, after = values
    found, note = _drop(pair, metric)
    by = after - before, -found.get("drop_high", math.inf), -found.get("drop_low", -math.inf)
    p = found.get("mcnemar_p")
    word = _worth(by, p, before if not is_share(metric) else 100.0)
    yield Change(pair.name, metric, word, before, after, by, "difference", p, note)


def _drop(pair: Pair, metric: str) -> tuple[dict[str, float], str]:
    """Return the loss with its interval, paired where the samples were kept, and how it was got."""
    from torchopt2edge.stats.paired import paired

    old, new = pair.before.facts, pair.after.facts
    same = old.get("n_eval") == new.get("n_eval")
    for kept in ("correct", "scores"):
        first, second = old.get(kept) or "", new.get(kept) or ""
        if same and first and len(first) == len(second):
            found = paired({kept: first}, {kept: second})
            return found, f"paired on {len(first)} samples, taken to be the same ones"
    halves = [_half_width(row, metric) for row in (pair.before, pair.after)]
    lost = pair.before.metrics[metric] - pair.after.metrics[metric]
    if halves[0] is None or halves[1] is None:
        return {}, "no interval is known"
    half = math.hypot(halves[0], halves[1])
    return {"drop_low": lost - half, "drop_high": lost + half}, "not paired: from both intervals"


def _half_width(row: Measurement, metric: str) -> float | None:
    low, high = row.metrics.get(f"{metric}_low"), row.metrics.get(f"{metric}_high")
    return None if low is None or high is None else (high - low) / 2.0


def _worth(by: Interval, p: float | None, whole: float) -> Word:
    """Name a difference of the task metric; ``whole`` is what a point is a hundredth of."""
    value, low, high = by
    if value == 0.0 and p in (None, 1.0):
        return "same"
    if value and _is_clear(by, p):
        return "worse" if value < 0 else "better"
    steady = _STEADY_POINTS * abs(whole) / 100.0
    return "same" if -steady <= low and high <= steady else "cannot tell"


def _is_clear(by: Interval, p: float | None) -> bool:
    return p < _CLEAR_P if p is not None else by[1] > 0.0 or by[2] < 0.0


def _plain(pair: Pair, metric: str) -> Change:
    before, after = pair.metric(metric) or (math.nan, math.nan)
    ratio = after / before if before else math.inf if after else 1.0
    equal = 1.0 / (1.0 + EQUAL) <= ratio <= 1.0 + EQUAL
    word: Word = "same" if equal else "larger" if ratio > 1.0 else "smaller"
    return Change(pair.name, metric, word, before, after, (ratio, ratio, ratio))


def _judge(one: Change, limit: float) -> tuple[bool, str]:
    """Return whether a change breaks the limit, and a sentence where it does or may."""
    name = plain(one.candidate)
    if one.word == "failed":
        return one.note != _STILL, f"{name} fails now: {one.note}" if one.note != _STILL else ""
    if one.word == "gone":  # of one that failed nothing was known before
        return False, "" if one.note else f"{name} is gone, so nothing is known of it"
    if one.metric in ("", "memory_mb"):
        return False, ""
    title = {"latency_ms": "latency", "size_mb": "file size"}.get(one.metric)
    title = f"{name}: {title or metric_title(one.metric)}"
    if one.by is None:
        return False, f"{title} cannot be compared: {one.note}"
    judge = _judge_ratio if one.kind == "ratio" else _judge_drop
    return judge(one, one.by, limit, title)


def _judge_ratio(one: Change, by: Interval, limit: float, title: str) -> tuple[bool, str]:
    value, low, high = by
    most = 1.0 + limit + 1e-9
    unit = f"ms as measured; {one.note}" if one.metric == "latency_ms" else "MB"
    shown = times_between(by) if low < high else times(value)
    said = f"{title} is {shown} of what it was"
    said += f" ({significant(one.before)} → {significant(one.after)} {unit})"
    if value > most and low > 1.0:
        return True, f"{said}, beyond {share(limit)}"
    if high > most and (value > most or one.word == "cannot tell"):
        return False, f"{said}, which may be beyond {share(limit)}: measure with more rounds"
    return False, ""


def _judge_drop(one: Change, by: Interval, limit: float, title: str) -> tuple[bool, str]:
    """Hold a loss against the limit: points of a metric in per cent, else a share of its value."""
    points = is_share(one.metric)
    most = 100.0 * limit if points else limit * abs(one.before or 0.0)
    lost, least, worst = -by[0], -by[2], -by[1]
    said = f"{title} lost {fixed(lost, 2)}{' points' if points else ''}"
    said += f" ({fixed(least, 2)} to {fixed(worst, 2)})" if math.isfinite(worst) else ""
    said += "" if one.p is None else f", p = {one.p:.2g}"
    edge = f"{fixed(most, 2)} points" if points else fixed(most, 2)
    if lost > most + 1e-9 and _is_clear(by, one.p):
        return True, f"{said}, beyond {edge}"
    if worst > most and (lost > most or one.word == "cannot tell"):
        return False, f"{said}, which may be beyond {edge}: evaluate on more samples"
    return False, ""


def share(value: float) -> str:
    """Return a share in per cent: "5 %"."""
    return f"{100 * value:g} %"


def _differences(pairs: Sequence[Pair]) -> Iterator[str]:
    """Say which settings differ between the runs, each once with the candidates it is about."""
    found: dict[str, list[str]] = {}
    sound = [pair for pair in pairs if not (pair.before.err or pair.after.err)]
    for pair in sound:
        for key, (old, new) in pair.differences():
            said = f"{key.replace('_', ' ')} differs: {plain(old)} before, {plain(new)} after"
            found.setdefault(said, []).append(plain(pair.name))
    for said, names in found.items():
        yield said if len(names) == len(sound) > 1 else f"{said} ({', '.join(names)})"
