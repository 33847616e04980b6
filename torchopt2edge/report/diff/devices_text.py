"""What is said of two runs on several devices: on which a limit broke, and what changed."""

from __future__ import annotations

from torchopt2edge.report.devices.table import listing
from torchopt2edge.report.diff import text as diff_text
from torchopt2edge.report.diff.compare import Against
from torchopt2edge.report.diff.devices import Across, Beside
from torchopt2edge.report.text.numbers import times
from torchopt2edge.report.text.row_view import plain

LIMITS = (
    "Each device is compared with itself alone; devices that were measured under one name are "
    "taken to be the same one.",
    *diff_text.LIMITS,
)


def headline(across: Across) -> str:
    """Return the one sentence to read: on which devices the limit broke, or what changed."""
    compared = [one.device for one, _ in across.compared]
    where = f" on {listing(compared)}"
    if across.max_regression is None:
        changes = [change for _, found in across.compared for change in found.changes]
        return f"{diff_text.counted(changes, where)}."
    worse = [one.device for one, found in across.compared if found.broken]
    broke = f" on {listing(worse)} ({len(worse)} of {len(compared)} devices)"
    counts = len(across.broken), len(across.strict)
    return diff_text.judged(across.max_regression, *counts, (broke, where))


def cells(across: Across, narrow: bool = False) -> list[list[str]]:
    """Return the ratios of latency, one candidate a row and one device a column; header first.

    Behind a ratio stands in words what else became of the file; ``narrow`` leaves out the 95 %
    intervals.
    """
    head = ["candidate", *(plain(one.device) for one, _ in across.compared)]
    return [
        head,
        *(
            [plain(name), *(_cell(found, name, narrow) for _, found in across.compared)]
            for name in across.candidates
        ),
    ]


def _cell(found: Against, name: str, narrow: bool) -> str:
    return f"{ratio(found, name, narrow)} {diff_text.changed(found, name)}".strip()


def ratio(found: Against, name: str, narrow: bool = False) -> str:
    """Return a candidate's latency after over before, "" where it was not compared."""
    change = found.of(name, "latency_ms")
    if narrow and change is not None and change.by is not None:
        return times(change.by[0])
    return diff_text.ratio(change)


def about(across: Across) -> list[list[str]]:
    """Return one device a row: what became of its files and of its winner; header first."""
    return [
        ["device", "what changed", "winner"],
        *([plain(one.device), *outcome(one)] for one in across.devices),
    ]


def outcome(one: Beside) -> tuple[str, str]:
    """Return a device's comparison in a sentence, and its winner before and after."""
    if one.against is None:
        return f"It {one.note}", ""
    return diff_text.headline(one.against), diff_text.winners(one.against)


def unsaid(across: Across) -> list[str]:
    """Return the devices that were not compared and of which ``strict`` says nothing."""
    return [said for said in across.apart if said not in across.strict]
