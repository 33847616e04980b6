"""Two runs on several devices, each device's later run held against its earlier one.

Nothing is compared between devices. What breaks the limit on one device breaks it; a device that
could not be compared is said, and stands in ``strict`` where something was known of it before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchopt2edge.errors import ConfigError
from torchopt2edge.report.devices import table as device_table
from torchopt2edge.report.devices.table import Column, Side
from torchopt2edge.report.diff.compare import Against, compare
from torchopt2edge.report.text.row_view import plain


@dataclass(frozen=True)
class Beside:
    """One device: what became of its files, or in ``note`` why that is not known.

    ``folder`` is that of its later run, under that run's; ``lost`` says that the earlier run
    knew something of it which the later one does not.
    """

    device: str
    folder: str = ""
    against: Against | None = None
    note: str = ""
    lost: bool = False


@dataclass(frozen=True)
class Across:
    """Every device of either run, in the order of the later one."""

    titles: tuple[str, str]
    max_regression: float | None
    devices: tuple[Beside, ...]

    @property
    def compared(self) -> list[tuple[Beside, Against]]:
        """The devices that both runs measured."""
        return [(one, one.against) for one in self.devices if one.against is not None]

    @property
    def candidates(self) -> list[str]:
        """Every candidate once, in the order of the first device that has it."""
        every = (change.candidate for _, found in self.compared for change in found.changes)
        return list(dict.fromkeys(every))

    @property
    def broken(self) -> list[str]:
        """What is beyond the limit, in sentences that begin with the device."""
        return self._each(lambda found: found.broken)

    @property
    def strict(self) -> list[str]:
        """What may be beyond the limit and could not be told."""
        if self.max_regression is None:
            return []
        return [*self._each(lambda found: found.strict), *self._notes(lost=True)]

    @property
    def apart(self) -> list[str]:
        """The devices that were not compared, and why."""
        return [*self._notes(lost=True), *self._notes(lost=False)]

    @property
    def warnings(self) -> list[str]:
        """What makes a comparison weak, each once with its devices."""
        said = ((one.device, word) for one, found in self.compared for word in found.warnings)
        return device_table.by_device(said)

    def _each(self, of: Callable[[Against], tuple[str, ...]]) -> list[str]:
        return [
            f"{plain(one.device)}: {said}" for one, found in self.compared for said in of(found)
        ]

    def _notes(self, lost: bool) -> Iterator[str]:
        for one in self.devices:
            if one.note and one.lost is lost:
                yield f"{plain(one.device)} {one.note}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in the ``against.json`` above the devices' folders."""
        return {
            "schema": 1,
            "titles": self.titles,
            "max_regression": self.max_regression,
            "broken": self.broken,
            "strict": self.strict,
            "devices": [_told(one) for one in self.devices],
        }


def _told(one: Beside) -> dict[str, Any]:
    held = None if one.against is None else one.against.to_json()
    return {"device": one.device, "folder": one.folder, "note": one.note, "against": held}


def holds(before: Path, after: Path) -> bool:
    """Whether two folders are those of runs on several devices.

    Raises:
        ConfigError: one is and the other is not; names the folders that could be compared.
    """
    several = [place for place in (before, after) if device_table.holds(place)]
    if len(several) != 1:
        return bool(several)
    inner = [str(several[0] / one.folder) for one in device_table.read(several[0]).used]
    raise ConfigError(
        "this run is on several devices and the other one is not",
        artifact=several[0],
        mend=f"compare with one of its devices: run={' or run='.join(inner) or 'FOLDER'}",
    )


def read(before: Path, after: Path, max_regression: float | None) -> Across:
    """Compare two runs on several devices, device by device.

    Raises:
        ConfigError: a folder cannot be read, or no device was measured in both runs.
    """
    first, second = device_table.read(before), device_table.read(after)
    return across(first, second, max_regression)


def across(before: Side, after: Side, max_regression: float | None) -> Across:
    """Compare what two runs measured, by the devices' names.

    Raises:
        ConfigError: no device was measured in both.
    """
    old = {column.device: column for column in before.columns}
    new = {column.device: column for column in after.columns}
    found = [
        *(_beside(old.get(name), column, max_regression) for name, column in new.items()),
        *(_gone(column) for name, column in old.items() if name not in new),
    ]
    if not any(one.against for one in found):
        why = "; ".join(f"{plain(one.device)} {one.note}" for one in found)
        raise ConfigError(
            f"no device can be compared: {why}", mend="compare runs on the same devices"
        )
    return Across((before.title, after.title), max_regression, tuple(found))


def _gone(before: Column) -> Beside:
    if before.verdict is None:
        return Beside(before.device, note="could not be used before and is not in the later run")
    note = "is not in the later run, so nothing is known of it"
    return Beside(before.device, note=note, lost=True)


def _beside(before: Column | None, after: Column, max_regression: float | None) -> Beside:
    known = before is not None and before.verdict is not None
    if after.verdict is None:
        note = f"could not be used now: {plain(after.err)}"
        return Beside(after.device, after.folder, note=note, lost=known)
    if before is None or before.verdict is None:
        why = "is not in the earlier run" if before is None else "could not be used before"
        return Beside(after.device, after.folder, note=f"{why}: there is nothing to compare with")
    runs = [(one.rows, one.verdict, one.context) for one in (before, after) if one.verdict]
    try:
        found = compare(runs[0], runs[1], max_regression)
    except ConfigError as error:  # no candidate in common: the other devices may have some
        return Beside(after.device, after.folder, note=f"cannot be compared: {error}", lost=True)
    return Beside(after.device, after.folder, found)
