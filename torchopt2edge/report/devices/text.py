"""What is said of several devices side by side: who won where, and what failed."""

from __future__ import annotations

from torchopt2edge.report.devices.table import Column, Side
from torchopt2edge.report.text.numbers import interval, significant
from torchopt2edge.report.text.row_view import Line, plain

_SHOWN = ("cpu", "arch", "cores", "memory_gb", "os")


def cells(side: Side, narrow: bool = False) -> list[list[str]]:
    """Return the latencies in milliseconds, one candidate a row and one device a column.

    Header first; ``narrow`` leaves out the 95 % intervals. A mark before the number says how a
    file stands: ★ wins, = ties, ○ is out, ✗ failed.
    """
    known = [column.lines if column.verdict else None for column in side.columns]
    head = ["candidate", *(column.title for column in side.columns)]
    body = [
        [
            plain(name),
            *("not used" if one is None else _cell(one.get(name), narrow) for one in known),
        ]
        for name in side.candidates
    ]
    return [head, *body]


def latency(line: Line | None, narrow: bool = False) -> str:
    """Return a line's latency with its interval, "" where none was measured."""
    if line is None:
        return ""
    ends = line.get("latency_low_ms"), line.get("latency_high_ms")
    value = line.get("latency_ms")
    return significant(value) if narrow else interval(value, *ends)


def _cell(line: Line | None, narrow: bool) -> str:
    if line is None:
        return ""
    shown = "failed" if line.failed else latency(line, narrow)
    return f"{line.mark} {shown}".strip() if shown else ""


def about(side: Side) -> list[list[str]]:
    """Return one device a row: what won there, and what the machine is; header first."""
    head = ["device", "verdict", "processor", "arch", "cores", "memory GB", "system", "runner"]
    return [head, *([plain(c.device), outcome(c), *_machine(c)] for c in side.columns)]


def outcome(column: Column) -> str:
    """Return a device's verdict in few words, or why it has none."""
    if column.verdict is None:
        return "not used"
    if column.verdict.winner:
        return f"★ {plain(column.verdict.winner)}"
    if column.first:
        return f"= {', '.join(map(plain, column.first))}"
    return f"no winner: {plain(next(iter(column.verdict.reasons), 'nothing was measured'))}"


def _machine(column: Column) -> list[str]:
    facts = column.facts
    runners = {str(row.facts["runner"]) for row in column.rows if row.facts.get("runner")}
    known = [plain(facts[name]) if name in facts else "" for name in _SHOWN]
    return [*known, ", ".join(sorted(runners))]


def failures(side: Side) -> list[tuple[str, str]]:
    """Return what failed where: a device, or a candidate on one, and the error."""
    lost = [(plain(c.device), plain(c.err)) for c in side.columns if c.verdict is None]
    return lost + [
        (f"{line.name} on {plain(column.device)}", line.err)
        for column in side.used
        for line in column.lines.values()
        if line.failed
    ]
