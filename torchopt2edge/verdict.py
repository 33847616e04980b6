"""Decides which file to ship from rows alone, or says that nobody can tell.

How it decides:

- A failed row is out, with its error. The torch baseline is out: it is a reference, not a file.
  What a runtime's own tool said is out, with its sentence: it checks another row.
- A row that breaks a constraint is out, with the numbers (`admission`).
- Of what is left (the admissible) the fastest wins, if it is *really* faster than every rival:
  latency is compared by ratios of round medians, paired by round, with a 95 % bootstrap interval
  (`stats.paired_ratio`). Within `MARGIN` (1 %) two files are equal for every practical purpose,
  so a rival ties when its interval reaches down to 1.01.
- A tie names no winner; the reasons point at its smallest file.
- Under a protocol without turns what counts is the second half of every file's time, when it is
  warm, and two files are equal within what the machine itself drifted (the anchor's spread).
- An invalid run names no winner: an admissible row carries a flag of `INVALIDATING`, or the
  admissible rows were not measured in turns in one and the same run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from torchopt2edge import stats
from torchopt2edge.admission import Breach, breaches, doubts, metric_of
from torchopt2edge.advice import MARGIN, advice, unlike
from torchopt2edge.errors import ConfigError
from torchopt2edge.types import BASELINE, Constraints, Measurement, Verdict

INVALIDATING = frozenset({"emulated", "throttled", "too-few-samples"})

_MANY = 3  # names in a sentence
_X86 = ("x86_64", "amd64", "i386", "i686")


def decide(rows: Sequence[Measurement], constraints: Constraints, reference: str | None) -> Verdict:
    """Return the verdict over the rows of one device and protocol.

    ``reference`` is the id of the row that ``max_drop`` is held against, None when there is none.

    Raises:
        ConfigError: two rows share an id, or they come from several devices or protocols.
    """
    _one_setting(rows)
    compared = next((row for row in rows if row.candidate == reference), None)
    live = sorted((row for row in rows if _is_measured(row)), key=_speed)
    broken = {row.candidate: breaches(row, constraints, compared, rows) for row in live}
    admissible = [row for row in live if not broken[row.candidate]]
    rejected = {row.candidate: _refusal(row, broken) for row in rows if row not in admissible}
    verdict = Verdict(
        None,
        pareto=_pareto(admissible),
        rejected=rejected,
        warnings=[
            *doubts(admissible, constraints, compared),
            *_flagged(live),
            *unlike(live),
            *_caution(live),
        ],
    )
    verdict = _race(verdict, admissible) if admissible else _nothing(verdict, live, broken)
    return replace(
        verdict,
        ratios=_ratios(live, verdict.winner or next(iter(verdict.tie), None), admissible),
        reasons=[*verdict.reasons, *advice(live, admissible, compared, _paired)],
    )


def _one_setting(rows: Sequence[Measurement]) -> None:
    ids = [row.candidate for row in rows]
    if len(set(ids)) != len(ids):
        raise ConfigError(f"several rows share an id: {sorted(ids)}", mend="decide run by run")
    settings = {(row.device, row.protocol) for row in rows if _is_measured(row)}
    if len(settings) > 1:
        raise ConfigError(
            f"rows of several devices or protocols cannot be compared: {sorted(settings)}",
            mend="decide them one by one",
        )


def _is_measured(row: Measurement) -> bool:
    return row.err is None and "latency_ms" in row.metrics and bool(row.latency_ns)


def _latency(row: Measurement) -> float:
    return row.metrics["latency_ms"]


def _speed(row: Measurement) -> float:
    """Return what rows are ordered by: the latency of the rounds that count."""
    settled = _settled(row)
    if settled is row.latency_ns:
        return _latency(row)
    return float(np.median(stats.round_medians(settled))) / 1e6


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
    equal = 1.0 + MARGIN + float(fastest.facts.get("anchor_spread") or 0.0)
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
        f"{_several(rows, admissible)} {'is' if len(rows) == 1 else 'are'} {flag}: "
        f"{_sentence(rows[0], flag)}"
        for flag, rows in _by_flag(admissible).items()
        if flag in INVALIDATING
    ]
    few = [row for row in admissible if len(_settled(row)) < stats.LEAST_ROUNDS]
    if few:
        halves = any(_settled(row) is not row.latency_ns for row in few)
        count = min(len(_settled(row)) for row in few)
        rounds = f"{'warm ' if halves else ''}{'round' if count == 1 else 'rounds'}"
        why.append(
            f"{_several(few, admissible)} {'has' if len(few) == 1 else 'have'} {count} {rounds}, "
            "too few for an interval: "
            f"measure {stats.LEAST_ROUNDS * (2 if halves else 1)} or more"
        )
    if len({row.facts.get("run") for row in admissible}) > 1:
        why.append(
            "the files were not timed in turns in one run, so drift could make any difference: "
            "measure them together"
        )
    return why


def _sentence(row: Measurement, flag: str) -> str:
    known: Mapping[str, str] = row.facts.get("warnings") or {}
    return known.get(flag, "run it again")


def _paired(row: Measurement, other: Measurement) -> stats.Interval:
    return stats.paired_ratio(_settled(row), _settled(other))


def _settled(row: Measurement) -> list[list[int]]:
    """Return the rounds that count: all, or the warm half where each file ran on its own."""
    if row.facts.get("order") != "blocks":
        return row.latency_ns
    return row.latency_ns[len(row.latency_ns) // 2 :]


def _winner_reasons(
    winner: Measurement,
    rivals: Sequence[Measurement],
    ratios: Mapping[str, stats.Interval],
) -> list[str]:
    if not rivals:
        return [f"{winner.candidate} is the only admissible file ({_latency(winner):.3g} ms)"]
    return [
        f"{winner.candidate} is {_faster(ratios[row.candidate])} than {row.candidate} "
        f"({_interval(ratios[row.candidate])})"
        for row in rivals
    ]


def _tie_reasons(
    tie: Sequence[Measurement], ratios: Mapping[str, stats.Interval], equal: float
) -> list[str]:
    first = tie[0].candidate
    reasons = [
        f"{row.candidate} and {first} cannot be told apart: {ratios[row.candidate][0]:.3f}× its "
        f"latency ({_interval(ratios[row.candidate], 3)}), and {100 * equal:.2g} % counts as equal"
        for row in tie[1:]
    ]
    if all("size_mb" in row.metrics for row in tie):
        reasons.append(_smallest(tie))
    return [*reasons, "a longer protocol may tell them apart"]


def _smallest(tie: Sequence[Measurement]) -> str:
    least = min(row.metrics["size_mb"] for row in tie)
    small = [row for row in tie if row.metrics["size_mb"] == least]
    if len(small) == len(tie):
        return f"the files of the tie weigh the same ({least:.3g} MB): any of them will do"
    one = len(small) == 1
    return (
        f"{_several(small, tie)} {'is' if one else 'are'} the smallest of the tie "
        f"({least:.3g} MB): the sensible pick{'' if one else 's'}"
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
) -> dict[str, stats.Interval]:
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


@dataclass(frozen=True)
class _Aim:
    metric: str
    sign: float


def _pareto(admissible: Sequence[Measurement]) -> tuple[str, ...]:
    """Return the files that no other beats in everything that all of them have measured."""
    aims = [_Aim("latency_ms", 1.0), _Aim("size_mb", 1.0), _Aim("memory_mb", 1.0)]
    aims.append(_Aim("energy_mj", 1.0))
    if (task := metric_of(admissible)) is not None:
        aims.append(_Aim(task, -1.0))
    aims = [aim for aim in aims if all(aim.metric in row.metrics for row in admissible)]
    points = [tuple(aim.sign * row.metrics[aim.metric] for aim in aims) for row in admissible]
    return tuple(
        row.candidate
        for row, point in zip(admissible, points, strict=True)
        if not any(_dominates(other, point) for other in points)
    )


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _flagged(live: Sequence[Measurement]) -> list[str]:
    """Say every flag once with its rows; the sentence is the first row's."""
    return [
        f"{flag} ({_several(rows, live)}): {_sentence(rows[0], flag)}"
        for flag, rows in _by_flag(live).items()
    ]


def _by_flag(rows: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    found: dict[str, list[Measurement]] = {}
    for row in rows:
        for flag in row.facts.get("flags", ()):
            found.setdefault(flag, []).append(row)
    return dict(sorted(found.items()))


def _several(rows: Sequence[Measurement], of: Sequence[Measurement]) -> str:
    """Name rows; of many that share a lot the first few, since the table marks each."""
    if len(rows) <= _MANY:
        return ", ".join(row.candidate for row in rows)
    if len(rows) == len(of):
        return f"all {len(rows)} rows"
    return f"{', '.join(row.candidate for row in rows[:_MANY])} and {len(rows) - _MANY} more"


def _caution(live: Sequence[Measurement]) -> list[str]:
    if not any(str(row.facts.get("arch", "")).lower() in _X86 for row in live):
        return []
    return [
        "these are desktop or server numbers (x86): a phone or a board ranks files differently; "
        "measure there before you ship"
    ]


def _faster(ratio: stats.Interval) -> str:
    return f"{ratio[0]:.2f}× faster"


def _interval(ratio: stats.Interval, digits: int = 2) -> str:
    return f"95 % {ratio[1]:.{digits}f}–{ratio[2]:.{digits}f}"
