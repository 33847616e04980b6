"""The cross-check of a run: the runtimes' own tools on the files that it timed, after the race."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from torchopt2edge.bench.vendor_tools.crosscheck import Tooled, check
from torchopt2edge.interfaces import Device
from torchopt2edge.types import Measurement
from torchopt2edge.workflow.progress import Progress


def checks(rows: Sequence[Measurement], device: Device, progress: Progress) -> list[Measurement]:
    """Return a row of the device's own tool for every file that was timed and has one.

    The tools run one after the other when nothing else does. A run that was interrupted has no
    cross-check, and Ctrl-C ends the cross-check alone: what it would lose is measured already.
    """
    if not isinstance(device, Tooled) or any(row.facts.get("interrupted") for row in rows):
        return []
    asked = [row for row in rows if _is_timed(row) and device.native_tools.get(row.backend)]
    found: list[Measurement] = []
    if not asked:
        return found
    title = f"cross-check {len(asked)} files by their runtimes' own tools"
    with progress.task(title) as tick, contextlib.suppress(KeyboardInterrupt):
        for done, row in enumerate(asked):
            tick(done, len(asked), row.candidate)
            found.append(check(row, _as_set(device, row)))
    return found


def _is_timed(row: Measurement) -> bool:
    return row.err is None and bool(row.latency_ns) and "file" in row.facts


def _as_set(device: Tooled, row: Measurement) -> Tooled:
    """Return the device with the threads and cores that the row was measured with."""
    setting = row.facts.get("setting")
    return replace(device, **setting) if setting else device  # type: ignore[type-var]
