"""The verdict in words, computed from the rows each time and never stored."""

from __future__ import annotations

from collections.abc import Sequence

from torchopt2edge.report.text.numbers import fixed, signed, significant, times, times_between
from torchopt2edge.report.text.row_view import Line, is_share, lines, metric_title, plain
from torchopt2edge.types import Measurement, Verdict

_INVALID = "no winner is named: "


def headline(rows: Sequence[Measurement], verdict: Verdict) -> str:
    """Return the one sentence to read: what to ship and by how much, a tie, or no winner."""
    table = lines(rows, verdict)
    winner = next((line for line in table if line.winner), None)
    if winner is not None:
        parts = [_lead(winner, table), *_worth(winner, table)]
        said = ", ".join(part for part in parts if part)
        return f"Ship {winner.name}: {said}." if said else f"Ship {winner.name}."
    tied = [line for line in table if line.tied]
    if tied:
        return _tie(tied)
    return f"No winner: {_why_none(table, verdict)}."


def reasons(said: str, verdict: Verdict) -> list[str]:
    """Return the verdict's reasons without the one that the headline ``said`` already holds."""
    return [one for one in verdict.reasons if _bare(one) not in said]


def warnings(table: Sequence[Line], verdict: Verdict) -> list[str]:
    """Return the verdict's warnings, then every other flag once with the rows that carry it.

    The harness gives a sentence for a flag in the row's facts; the rows' sentences differ in
    their numbers only, so the first row's stands for all.
    """
    flagged: dict[str, list[Line]] = {}
    for line in table:
        for flag in line.flags:
            flagged.setdefault(flag, []).append(line)
    said = list(verdict.warnings)
    for flag, found in flagged.items():
        if any(warning.startswith(flag) for warning in verdict.warnings):
            continue
        sentence = (found[0].row.facts.get("warnings") or {}).get(flag)
        names = ", ".join(line.name for line in found)
        of = f" (of {found[0].name})" if sentence and len(found) > 1 else ""
        said.append(f"{flag}: {names}" + (f". {sentence}{of}" if sentence else ""))
    return said


def _bare(reason: str) -> str:
    return plain(reason).rstrip(".").removeprefix(_INVALID)


def _lead(winner: Line, table: Sequence[Line]) -> str:
    """Say how far ahead of the next one it is, or of the reference when it ran alone."""
    others = [x for x in table if x.ratio and not (x.winner or x.rejected or x.failed)]
    rivals = [line for line in others if not (line.reference and line.row.backend == "torch")]
    references = [line for line in table if line.reference and line.ratio and not line.winner]
    if rivals:
        return _ahead(min(rivals, key=_by_ratio), "the next, ")
    return _ahead(references[0], "") if references else ""


def _ahead(other: Line, prefix: str) -> str:
    assert other.ratio is not None
    who = f"{prefix}{_called(other)}"
    if other.ratio[1] > 1:
        return f"{times_between(other.ratio)} faster than {who}"
    return f"about as fast as {who} at {times_between(other.ratio)}"


def _by_ratio(line: Line) -> float:
    return line.ratio[0] if line.ratio else float("inf")


def _called(line: Line) -> str:
    return "PyTorch" if line.reference and line.row.backend == "torch" else line.name


def _worth(line: Line, table: Sequence[Line]) -> list[str]:
    """Say the task metric, against which reference, and the size of the file."""
    said = []
    value = line.get(line.metric)
    if value is not None:
        unit = " %" if is_share(line.metric) else ""
        shown = f"{fixed(value, line.places)}{unit} {metric_title(line.metric)}"
        said.append(f"{shown}{_against(line, table)}")
    size = line.get("size_mb")
    if size is not None:
        said.append(f"{significant(size)} MB")
    return said


def _against(line: Line, table: Sequence[Line]) -> str:
    base = next((other for other in table if other.reference), None)
    if base is None or line.change is None:
        return ""
    unit = " points" if is_share(line.metric) else ""
    return f" ({signed(line.change, line.places)}{unit} against {_called(base)})"


def _tie(tied: Sequence[Line]) -> str:
    names = [line.name for line in tied]
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    said = f"Tie: no real difference in latency between {listed}"
    ratios = [line.ratio[0] for line in tied if line.ratio]
    if len(ratios) > 1:
        said += f" (within {times(max(ratios) / min(ratios))})"
    sizes = {line.name: size for line in tied if (size := line.get("size_mb")) is not None}
    if len(tied) > 1 and len(set(sizes.values())) > 1:
        smallest = min(sizes, key=sizes.__getitem__)
        said += f"; the smallest file is {smallest}, {significant(sizes[smallest])} MB"
    return f"{said}."


def _why_none(table: Sequence[Line], verdict: Verdict) -> str:
    if not table:
        return "nothing was measured"
    runners = [line for line in table if not (line.reference or line.checks)]
    if runners and all(line.failed for line in runners):
        if any(line.row.facts.get("interrupted") for line in runners):
            return "the run was interrupted before a candidate was measured"
        return "every candidate failed" if len(runners) > 1 else "the only candidate failed"
    sound = [line for line in runners if not line.failed]
    if sound and all(line.rejected for line in sound):
        return "no candidate holds the constraints"
    if verdict.reasons:
        return _bare(verdict.reasons[0])
    return "the measurements name none"
