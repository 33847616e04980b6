"""A comparison of two runs on several devices as text: where a limit is broken, what changed."""

from __future__ import annotations

from torchopt2edge.report.diff import text as diff_text
from torchopt2edge.report.diff.compare import RunDiff
from torchopt2edge.report.diff.devices import DeviceDiff, DevicesDiff
from torchopt2edge.report.text.numbers import times
from torchopt2edge.report.text.row_view import join_names, plain

LIMITS = (
    "Each device is compared with itself alone; devices that were measured under one name are "
    "taken to be the same one.",
    *diff_text.LIMITS,
)


def headline(diff: DevicesDiff) -> str:
    """Return the one sentence to read first.

    Args:
        diff: The comparison.

    Returns:
        On which devices the limit is broken; without a limit, how many candidates changed.
    """
    compared = [device.device for device, _ in diff.compared]
    where = f" on {join_names(compared)}"
    if diff.max_regression is None:
        changes = [change for _, each in diff.compared for change in each.changes]
        return f"{diff_text.outcome_counts(changes, where)}."
    worse = [device.device for device, each in diff.compared if each.broken]
    broken = f" on {join_names(worse)} ({len(worse)} of {len(compared)} devices)"
    counts = len(diff.broken), len(diff.strict)
    return diff_text.limit_sentence(diff.max_regression, *counts, (broken, where))


def cells(diff: DevicesDiff, narrow: bool = False) -> list[list[str]]:
    """Return the latencies, after over before.

    Args:
        diff: The comparison.
        narrow: Whether to leave out the 95 % intervals.

    Returns:
        Cells, header first, one candidate a row and one device a column; behind a ratio stands
        in words what else changed.
    """
    head = ["candidate", *(plain(device.device) for device, _ in diff.compared)]
    return [
        head,
        *(
            [plain(name), *(_cell(each, name, narrow) for _, each in diff.compared)]
            for name in diff.candidates
        ),
    ]


def _cell(diff: RunDiff, name: str, narrow: bool) -> str:
    return f"{ratio(diff, name, narrow)} {diff_text.changed(diff, name)}".strip()


def ratio(diff: RunDiff, name: str, narrow: bool = False) -> str:
    """Return a candidate's latency after over before.

    Args:
        diff: The comparison on one device.
        name: The candidate's id.
        narrow: Whether to leave out the interval.

    Returns:
        The ratio, "" where it was not compared.
    """
    change = diff.change(name, "latency_ms")
    if narrow and change is not None and change.effect is not None:
        return times(change.effect[0])
    return diff_text.ratio(change)


def device_cells(diff: DevicesDiff) -> list[list[str]]:
    """Return what changed on each device.

    Args:
        diff: The comparison.

    Returns:
        Cells, header first, one device a row.
    """
    return [
        ["device", "what changed", "winner"],
        *([plain(device.device), *_outcome(device)] for device in diff.devices),
    ]


def _outcome(device: DeviceDiff) -> tuple[str, str]:
    """Return a device's comparison in a sentence, and its winner before and after."""
    if device.diff is None:
        return f"It {device.note}", ""
    return diff_text.headline(device.diff), diff_text.winners(device.diff)


def other_not_compared(diff: DevicesDiff) -> list[str]:
    """Return the devices that were not compared and that ``strict`` does not name.

    Args:
        diff: The comparison.

    Returns:
        A sentence for each.
    """
    return [sentence for sentence in diff.not_compared if sentence not in diff.strict]
