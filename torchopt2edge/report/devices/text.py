"""A run on several devices as tables: latencies, the devices, and what failed."""

from __future__ import annotations

from torchopt2edge.report.devices.table import DeviceRun, DeviceTable
from torchopt2edge.report.text.numbers import interval, significant
from torchopt2edge.report.text.row_view import RowView, plain

_FACTS = ("cpu", "arch", "cores", "memory_gb", "os")


def cells(table: DeviceTable, narrow: bool = False) -> list[list[str]]:
    """Return the latencies in milliseconds.

    Args:
        table: The run.
        narrow: Whether to leave out the 95 % intervals.

    Returns:
        Cells, header first, one candidate a row and one device a column. A mark before the number
        is the file's role: ★ wins, = ties, ○ is rejected, ✗ failed.
    """
    known = [run.views if run.verdict else None for run in table.runs]
    head = ["candidate", *(run.title for run in table.runs)]
    body = [
        [
            plain(name),
            *("not used" if views is None else _cell(views.get(name), narrow) for views in known),
        ]
        for name in table.candidates
    ]
    return [head, *body]


def latency_text(view: RowView | None, narrow: bool = False) -> str:
    """Return a row's latency with its interval.

    Args:
        view: The row, or None.
        narrow: Whether to leave out the interval.

    Returns:
        Milliseconds, "" where none was measured.
    """
    if view is None:
        return ""
    value = view.value("latency_ms")
    return significant(value) if narrow else interval(value, *view.ends("latency_ms"))


def _cell(view: RowView | None, narrow: bool) -> str:
    if view is None:
        return ""
    shown = "failed" if view.failed else latency_text(view, narrow)
    return f"{view.mark} {shown}".strip() if shown else ""


def device_cells(table: DeviceTable) -> list[list[str]]:
    """Return the devices: the verdict on each, and its machine.

    Args:
        table: The run.

    Returns:
        Cells, header first, one device a row.
    """
    head = ["device", "verdict", "processor", "arch", "cores", "memory GB", "system", "runner"]
    return [head, *([plain(run.device), outcome(run), *_machine(run)] for run in table.runs)]


def outcome(run: DeviceRun) -> str:
    """Return a device's verdict in few words.

    Args:
        run: The run on it.

    Returns:
        The winner, the tie, or why there is neither.
    """
    if run.verdict is None:
        return "not used"
    if run.verdict.winner:
        return f"★ {plain(run.verdict.winner)}"
    if run.leaders:
        return f"= {', '.join(map(plain, run.leaders))}"
    return f"no winner: {plain(next(iter(run.verdict.reasons), 'nothing was measured'))}"


def _machine(run: DeviceRun) -> list[str]:
    facts = run.facts
    runners = {str(row.facts["runner"]) for row in run.rows if row.facts.get("runner")}
    known = [plain(facts[name]) if name in facts else "" for name in _FACTS]
    return [*known, ", ".join(sorted(runners))]


def failures(table: DeviceTable) -> list[tuple[str, str]]:
    """Return what failed where.

    Args:
        table: The run.

    Returns:
        (a device or a candidate on one, the error) pairs.
    """
    failed = [(plain(run.device), plain(run.error)) for run in table.runs if run.verdict is None]
    return failed + [
        (f"{view.name} on {plain(run.device)}", view.error)
        for run in table.measured
        for view in run.views.values()
        if view.failed
    ]
