"""Compares two runs on several devices, each device's later run with its earlier one.

Devices are not compared with each other. What breaks the limit on one device breaks it; a device
that could not be compared is listed, and is in ``strict`` where the earlier run knew it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchopt2edge.errors import ConfigError
from torchopt2edge.report.devices.table import DeviceRun, DeviceTable, by_device
from torchopt2edge.report.devices.table import holds as is_device_table
from torchopt2edge.report.devices.table import read as read_table
from torchopt2edge.report.diff.compare import RunDiff, compare
from torchopt2edge.report.text.row_view import plain


@dataclass(frozen=True)
class DeviceDiff:
    """One device of two runs.

    Attributes:
        device: Its name.
        folder: The folder of its later run, under that run's.
        diff: The comparison, None where there is none.
        note: Why there is none.
        lost: Whether the earlier run measured it and the later one does not.
    """

    device: str
    folder: str = ""
    diff: RunDiff | None = None
    note: str = ""
    lost: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in ``against.json``."""
        against = None if self.diff is None else self.diff.to_json()
        return {
            "device": self.device,
            "folder": self.folder,
            "note": self.note,
            "against": against,
        }


@dataclass(frozen=True)
class DevicesDiff:
    """Two runs on several devices.

    Attributes:
        titles: The runs' titles, the earlier first.
        max_regression: The limit as a share, None without one.
        devices: Every device of either run, in the order of the later one.
    """

    titles: tuple[str, str]
    max_regression: float | None
    devices: tuple[DeviceDiff, ...]

    @property
    def compared(self) -> list[tuple[DeviceDiff, RunDiff]]:
        """The devices that both runs measured, with their comparisons."""
        return [(device, device.diff) for device in self.devices if device.diff is not None]

    @property
    def candidates(self) -> list[str]:
        """Every candidate once, in the order of the first device that has it."""
        names = (change.candidate for _, diff in self.compared for change in diff.changes)
        return list(dict.fromkeys(names))

    @property
    def broken(self) -> list[str]:
        """What breaks the limit, as sentences that begin with the device."""
        return self._each(lambda diff: diff.broken)

    @property
    def strict(self) -> list[str]:
        """What may break the limit, as sentences; a strict check fails on these too."""
        if self.max_regression is None:
            return []
        return [*self._each(lambda diff: diff.strict), *self._notes(lost=True)]

    @property
    def not_compared(self) -> list[str]:
        """The devices that were not compared, and why."""
        return [*self._notes(lost=True), *self._notes(lost=False)]

    @property
    def warnings(self) -> list[str]:
        """What makes a comparison weak, each once with its devices."""
        pairs = [(device.device, text) for device, diff in self.compared for text in diff.warnings]
        return by_device(pairs)

    def _each(self, of: Callable[[RunDiff], tuple[str, ...]]) -> list[str]:
        return [
            f"{plain(device.device)}: {sentence}"
            for device, diff in self.compared
            for sentence in of(diff)
        ]

    def _notes(self, lost: bool) -> Iterator[str]:
        for device in self.devices:
            if device.note and device.lost is lost:
                yield f"{plain(device.device)} {device.note}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in the ``against.json`` above the devices' folders."""
        return {
            "schema": 1,
            "titles": self.titles,
            "max_regression": self.max_regression,
            "broken": self.broken,
            "strict": self.strict,
            "devices": [device.to_json() for device in self.devices],
        }


def holds(before: Path, after: Path) -> bool:
    """Tell whether two folders are those of runs on several devices.

    Args:
        before: The earlier run's folder.
        after: The later run's folder.

    Returns:
        Whether both are; False where neither is.

    Raises:
        ConfigError: One is and the other is not; the hint names folders that can be compared.
    """
    several = [place for place in (before, after) if is_device_table(place)]
    if len(several) != 1:
        return bool(several)
    inner = [str(several[0] / run.folder) for run in read_table(several[0]).measured]
    raise ConfigError(
        "this run is on several devices and the other one is not",
        artifact=several[0],
        hint=f"compare with one of its devices: run={' or run='.join(inner) or 'FOLDER'}",
    )


def read(before: Path, after: Path, max_regression: float | None) -> DevicesDiff:
    """Read two runs on several devices and compare them.

    Args:
        before: The earlier run's folder.
        after: The later run's folder.
        max_regression: The limit as a share (0.05), None without one.

    Returns:
        The comparison.

    Raises:
        ConfigError: A folder cannot be read, or no device was measured in both runs.
    """
    return compare_devices(read_table(before), read_table(after), max_regression)


def compare_devices(
    before: DeviceTable, after: DeviceTable, max_regression: float | None
) -> DevicesDiff:
    """Compare two runs on several devices, by the devices' names.

    Args:
        before: The earlier run.
        after: The later run.
        max_regression: The limit as a share (0.05), None without one.

    Returns:
        The comparison.

    Raises:
        ConfigError: No device was measured in both.
    """
    old = {run.device: run for run in before.runs}
    new = {run.device: run for run in after.runs}
    devices = [
        *(_compared(old.get(name), run, max_regression) for name, run in new.items()),
        *(_gone(run) for name, run in old.items() if name not in new),
    ]
    if not any(device.diff for device in devices):
        why = "; ".join(f"{plain(device.device)} {device.note}" for device in devices)
        raise ConfigError(
            f"no device can be compared: {why}", hint="compare runs on the same devices"
        )
    return DevicesDiff((before.title, after.title), max_regression, tuple(devices))


def _gone(before: DeviceRun) -> DeviceDiff:
    if before.verdict is None:
        return DeviceDiff(
            before.device, note="could not be used before and is not in the later run"
        )
    note = "is not in the later run, so its change is not known"
    return DeviceDiff(before.device, note=note, lost=True)


def _compared(
    before: DeviceRun | None, after: DeviceRun, max_regression: float | None
) -> DeviceDiff:
    device, folder = after.device, after.folder
    known = before is not None and before.verdict is not None
    if after.verdict is None:
        return DeviceDiff(
            device, folder, note=f"could not be used now: {plain(after.error)}", lost=known
        )
    if before is None or before.verdict is None:
        why = "is not in the earlier run" if before is None else "could not be used before"
        return DeviceDiff(device, folder, note=f"{why}: there is nothing to compare with")
    first = (before.rows, before.verdict, before.context)
    second = (after.rows, after.verdict, after.context)
    try:
        diff = compare(first, second, max_regression)
    except ConfigError as error:  # no candidate in common: the other devices may have some
        return DeviceDiff(device, folder, note=f"cannot be compared: {error}", lost=True)
    return DeviceDiff(device, folder, diff)
