"""The verdict in words, computed from the rows each time and never stored."""

from __future__ import annotations

from collections.abc import Sequence

from torchopt2edge.report.line import Line, is_share, lines, metric_title, plain
from torchopt2edge.report.number import fixed, signed, significant, times, times_between
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
    said = f"Tie: {listed} cannot be told apart by latency"
    ratios = [line.ratio[0] for line in tied if line.ratio]
    if len(ratios) > 1:
        said += f" (within {times(max(ratios) / min(ratios))})"
    smallest = min((x for x in tied if x.get("size_mb") is not None), key=_size, default=None)
    if smallest is not None and len(tied) > 1:
        said += f"; the smallest file is {smallest.name}, {significant(smallest.get('size_mb'))} MB"
    return f"{said}."


def _size(line: Line) -> float:
    return line.get("size_mb") or 0.0


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
