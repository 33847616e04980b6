"""Decides which file to ship from rows alone, or says that nobody can tell.

How it decides:

- A failed row is out, with its error. The torch baseline is out: it is a reference, not a file.
  What a runtime's own tool said is out, with its sentence: it checks another row.
- A row that breaks a constraint is out, with the numbers (`constraints`).
- Of what is left (the admissible) the fastest wins, if it is *really* faster than every rival:
  latency is compared by ratios of round medians, paired by round, with a 95 % bootstrap interval
  (`stats.rounds.paired_ratio`). Within `MARGIN` (1 %) two files are equal for every practical
  purpose, so a rival ties when its interval reaches down to 1.01. The fastest candidate is
  chosen by paired per-round ratios, because machine noise moves raw medians.
- A tie names no winner; the reasons point at its smallest file.
- Under a protocol without turns what counts is the second half of every file's time, when it is
  warm, and two files are equal within what the machine itself drifted (the control run's spread).
- An invalid run names no winner: an admissible row carries a flag of `INVALIDATING`, or the
  admissible rows were not measured in turns in one and the same run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from torchopt2edge.errors import ConfigError
from torchopt2edge.stats import rounds as round_stats
from torchopt2edge.stats.rows import metric_value, speed_ms, task_metric
from torchopt2edge.types import BASELINE, Constraints, Measurement, Verdict
from torchopt2edge.verdict.constraints import Breach, breaches, doubts, pareto
from torchopt2edge.verdict.remarks import (
    MARGIN,
    accuracy,
    advice,
    by_flag,
    caution,
    flagged,
    flags_of,
    processors,
    sentence,
    several,
    spread_of,
    unlike,
)

INVALIDATING = frozenset({"emulated", "throttled", "too-few-samples"})


def decide(rows: Sequence[Measurement], constraints: Constraints, reference: str | None) -> Verdict:
    """Return the verdict over the rows of one device and protocol.

    ``reference`` is the id of the row that ``max_drop`` is held against, None when there is none.

    Raises:
        ConfigError: two rows share an id, or they come from several devices or protocols.
    """
    _one_setting(rows)
    compared = next((row for row in rows if row.candidate == reference), None)
    live = sorted((row for row in rows if _is_measured(row)), key=speed_ms)
    broken = {row.candidate: breaches(row, constraints, compared, rows) for row in live}
    pace = _paces([row for row in live if not broken[row.candidate]])
    admissible = sorted((row for row in live if row.candidate in pace), key=_by(pace))
    rejected = {row.candidate: _refusal(row, broken) for row in rows if row not in admissible}
    verdict = Verdict(
        None,
        pareto=pareto(admissible, pace),
        rejected=rejected,
        warnings=[
            *doubts(admissible, constraints, compared),
            *flagged(live),
            *unlike(live),
            *processors(live),
            *caution(live),
        ],
    )
    verdict = _race(verdict, admissible) if admissible else _nothing(verdict, live, broken)
    return replace(
        verdict,
        ratios=_ratios(live, verdict.winner or next(iter(verdict.tie), None), admissible),
        reasons=[
            *verdict.reasons,
            *accuracy(admissible, compared),
            *advice(_valid(live), _valid(admissible), verdict, _paired),
        ],
    )


def _one_setting(rows: Sequence[Measurement]) -> None:
    ids = [row.candidate for row in rows]
    if len(set(ids)) != len(ids):
        raise ConfigError(f"several rows share an id: {sorted(ids)}", hint="decide run by run")
    settings = {(row.device, row.protocol) for row in rows if _is_measured(row)}
    if len(settings) > 1:
        raise ConfigError(
            f"rows of several devices or protocols cannot be compared: {sorted(settings)}",
            hint="decide them one by one",
        )


def _is_measured(row: Measurement) -> bool:
    known = row.err is None and math.isfinite(row.metrics.get("latency_ms", math.nan))
    return known and bool(row.latency_ns) and round_stats.has_times(row.latency_ns)


def _paces(rows: Sequence[Measurement]) -> dict[str, float]:
    """Return how slow each row is beside the fastest, round by round.

    The fastest is the one that fewest others are faster than, of such the one of the least
    median. In milliseconds where rows were not timed in one run.
    """
    if not rows or len({row.facts.get("run") for row in rows}) > 1:
        return {row.candidate: speed_ms(row) for row in rows}
    # Once each: a row may hold a million samples.
    logs = {row.candidate: np.log(round_stats.round_medians(_settled(row))) for row in rows}
    beaten = {
        name: sum(_quotient(own, other) > 1.0 for other in logs.values())
        for name, own in logs.items()
    }
    fastest = min(rows, key=lambda row: (beaten[row.candidate], speed_ms(row)))
    return {name: max(1.0, _quotient(own, logs[fastest.candidate])) for name, own in logs.items()}


def _quotient(own: round_stats.Vector, other: round_stats.Vector) -> float:
    count = min(own.size, other.size)
    return math.exp(float(np.median(own[:count] - other[:count])))


def _by(pace: Mapping[str, float]) -> Callable[[Measurement], tuple[float, float]]:
    return lambda row: (pace[row.candidate], speed_ms(row))


def _refusal(row: Measurement, broken: Mapping[str, Sequence[Breach]]) -> str:
    if row.err is not None:
        return row.err
    if row.candidate not in broken:
        return str(row.facts.get("cross_check", "no latency was measured"))
    return "; ".join(breach.sentence for breach in broken[row.candidate])


def _race(verdict: Verdict, admissible: Sequence[Measurement]) -> Verdict:
    """Name the winner among the admissible (fastest first), a tie, or why the run is invalid."""
    invalid = _invalid(admissible)
    if invalid:
        return replace(verdict, reasons=[f"no winner is named: {why}" for why in invalid])
    fastest, *rivals = admissible
    ratios = {row.candidate: _paired(row, fastest) for row in rivals}
    equal = 1.0 + MARGIN + spread_of(fastest)
    tied = [row for row in rivals if ratios[row.candidate][1] <= equal]
    if tied:
        tie = [fastest, *tied]
        reasons = _tie_reasons(tie, ratios, equal - 1.0)
        return replace(verdict, tie=tuple(row.candidate for row in tie), reasons=reasons)
    reasons = _winner_reasons(fastest, rivals, ratios)
    return replace(verdict, winner=fastest.candidate, reasons=reasons)


def _invalid(admissible: Sequence[Measurement]) -> list[str]:
    """Rule 6 of the harness: say why no winner may be named, and what to do."""
    why = [
        f"{several(rows, admissible)} {'is' if len(rows) == 1 else 'are'} {flag}: "
        f"{sentence(rows[0], flag)}"
        for flag, rows in by_flag(admissible).items()
        if flag in INVALIDATING
    ]
    few = [row for row in admissible if len(_settled(row)) < round_stats.LEAST_ROUNDS]
    if few:
        halves = any(_settled(row) is not row.latency_ns for row in few)
        count = min(len(_settled(row)) for row in few)
        rounds = f"{'warm ' if halves else ''}{'round' if count == 1 else 'rounds'}"
        why.append(
            f"{several(few, admissible)} {'has' if len(few) == 1 else 'have'} {count} {rounds}, "
            "too few for an interval: "
            f"measure {round_stats.LEAST_ROUNDS * (2 if halves else 1)} or more"
        )
    if len({row.facts.get("run") for row in admissible}) > 1:
        why.append(
            "the files were not timed in turns in one run, so drift could make any difference: "
            "measure them together"
        )
    return why


def _valid(rows: Sequence[Measurement]) -> list[Measurement]:
    return [row for row in rows if not INVALIDATING & set(flags_of(row))]


def _paired(row: Measurement, other: Measurement) -> round_stats.Interval:
    step_ns = max(round_stats.clock_step(one.facts) for one in (row, other))
    return round_stats.paired_ratio(_settled(row), _settled(other), step_ns)


def _settled(row: Measurement) -> Sequence[list[int]]:
    return round_stats.settled(row.latency_ns, row.facts.get("order"))


def _winner_reasons(
    winner: Measurement,
    rivals: Sequence[Measurement],
    ratios: Mapping[str, round_stats.Interval],
) -> list[str]:
    if not rivals:
        return [f"{winner.candidate} is the only admissible file ({speed_ms(winner):.3g} ms)"]
    return [
        f"{winner.candidate} is {_faster(ratios[row.candidate])} than {row.candidate} "
        f"({_interval(ratios[row.candidate])})"
        for row in rivals
    ]


def _tie_reasons(
    tie: Sequence[Measurement], ratios: Mapping[str, round_stats.Interval], equal: float
) -> list[str]:
    first = tie[0].candidate
    reasons = [_tied(row.candidate, first, ratios[row.candidate], equal) for row in tie[1:]]
    if all(math.isfinite(row.metrics.get("size_mb", math.nan)) for row in tie):
        reasons.append(_smallest(tie))
    if any(ratios[row.candidate][2] > 1.0 + equal for row in tie[1:]):
        reasons.append("a longer protocol may tell them apart")
    return reasons


def _tied(name: str, first: str, ratio: round_stats.Interval, equal: float) -> str:
    """Say whether two files are equal, or only not known to differ: more rounds help the latter."""
    shown = f"{ratio[0]:.3f}× its latency ({_interval(ratio, 3)})"
    if 1.0 / (1.0 + equal) <= ratio[1] and ratio[2] <= 1.0 + equal:
        return f"{name} and {first} are equally fast: {shown}, within {100 * equal:.3g} %"
    return (
        f"{name} and {first} cannot be told apart: {shown}, and {100 * equal:.3g} % counts as equal"
    )


def _smallest(tie: Sequence[Measurement]) -> str:
    least = min(row.metrics["size_mb"] for row in tie)
    small = [row for row in tie if row.metrics["size_mb"] == least]
    if len(small) == len(tie):
        return f"the files of the tie weigh the same ({least:.3g} MB)" + (
            _better(small, tie) or ": any of them will do"
        )
    one = len(small) == 1
    said = (
        f"{several(small, tie)} {'is' if one else 'are'} the smallest of the tie ({least:.3g} MB)"
    )
    return said + (_better(small, tie) or f": the sensible pick{'' if one else 's'}")


def _better(small: Sequence[Measurement], tie: Sequence[Measurement]) -> str:
    """Say that another of the tie is clearly better by the task metric, "" when none is."""
    metric = task_metric(tie)
    known = [row for row in tie if metric_value(row, metric) is not None]
    if not any(row in known for row in small):
        return ""
    best = max(known, key=lambda row: row.metrics[metric])
    worst = min((row for row in small if row in known), key=lambda row: row.metrics[metric])
    low, high = best.metrics[metric], worst.metrics[metric]
    if worst.metrics.get(f"{metric}_high", high) >= best.metrics.get(f"{metric}_low", low):
        return ""
    return (
        f", though {best.candidate} has a {metric} of {low:.4g} and {worst.candidate} one of "
        f"{high:.4g}"
    )


def _nothing(
    verdict: Verdict, live: Sequence[Measurement], broken: Mapping[str, Sequence[Breach]]
) -> Verdict:
    """Say that nothing is admissible, and what came closest."""
    near = [row for row in live if row.backend != BASELINE]
    if not near:
        return replace(verdict, reasons=["nothing is admissible: no file could be measured"])
    closest = min(near, key=lambda row: sum(one.excess for one in broken[row.candidate]))
    why = verdict.rejected[closest.candidate]
    return replace(
        verdict,
        reasons=[f"nothing is admissible; the closest is {closest.candidate}: {why}"],
    )


def _ratios(
    live: Sequence[Measurement], base: str | None, admissible: Sequence[Measurement]
) -> dict[str, round_stats.Interval]:
    """Compare all measured rows with one; a pair without an interval is left out.

    Without winner or tie the base is the fastest admissible file, or the fastest file.
    """
    files = [row for row in live if row.backend != BASELINE]
    order = [row for row in live if row.candidate == base] or [*admissible, *files, *live]
    if not order:
        return {}
    found = {}
    for row in live:
        if row is order[0]:
            found[row.candidate] = (1.0, 1.0, 1.0)
        elif row.facts.get("run") == order[0].facts.get("run"):
            ratio = _paired(row, order[0])
            if math.isfinite(ratio[2]):
                found[row.candidate] = ratio
    return found


def _faster(ratio: round_stats.Interval) -> str:
    return f"{ratio[0]:.2f}× faster"


def _interval(ratio: round_stats.Interval, digits: int = 2) -> str:
    return f"95 % {ratio[1]:.{digits}f}–{ratio[2]:.{digits}f}"
