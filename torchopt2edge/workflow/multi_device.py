"""One comparison on several devices: a whole run on each, and one report above them.

What a candidate is lowered from and calibrated on is decided once; what is lowered for one
device is found in the store by the next.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from torchopt2edge.bench import harness
from torchopt2edge.errors import DeviceError
from torchopt2edge.interfaces import Device
from torchopt2edge.report import run_folder
from torchopt2edge.report.devices import table as device_table
from torchopt2edge.report.devices import write as device_write
from torchopt2edge.report.devices.table import DeviceRun, DeviceTable
from torchopt2edge.types import Measurement, Verdict
from torchopt2edge.workflow.progress import Progress, Tick
from torchopt2edge.workflow.result import Result
from torchopt2edge.workflow.settings import Settings

Act = Callable[[Settings], tuple[list[Measurement], Verdict]]
"""What is done on one device, by its settings."""

_UNFIT = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class _Named:
    """A progress that says of every task which device it is for."""

    inner: Progress
    device: str

    def task(self, title: str) -> AbstractContextManager[Tick]:
        """Open a task."""
        return self.inner.task(f"{self.device}: {title}")


def run(settings: Settings, act: Act) -> Result:
    """Do something by the settings, on each of the devices where there are several.

    A device that cannot be reached or used is a column with its error, and the others go on.

    Raises:
        DeviceError: none of the devices could be used; the report says why of each.
        EdgeError: what ends a run on one device.
    """
    if not settings.devices:
        own = settings.on()
        return Result(*act(own), own.out)
    out, columns = settings.out, list[DeviceRun]()
    try:
        for device, name, place in _places(settings.devices):
            logging.getLogger("torchopt2edge").info("device %s", name)
            try:
                own = settings.on(device, out / place)
                act(replace(own, progress=_Named(own.progress, name)))
            except harness.Interrupted:  # its rows are in its folder, as far as they came
                columns.append(DeviceRun(name, place, *run_folder.read(out / place)))
                raise
            except DeviceError as error:
                columns.append(DeviceRun(name, place, error=str(error)))
            else:
                columns.append(DeviceRun(name, place, *run_folder.read(out / place)))
    finally:  # also after Ctrl-C: what was measured until then is shown
        command = str(settings.environment.get("command", ""))
        table = DeviceTable(settings.title, tuple(columns), command)
        if columns:
            device_write.write(out, table)
    if not table.measured:
        each = " ".join(f"{column.device}: {column.error}" for column in columns)
        raise DeviceError(f"none of the {len(columns)} devices could be used. {each.rstrip('.')}")
    return _result(table, out)


def render(out: Path) -> Result:
    """Read the folder of a run on several devices and write every report of it again.

    Raises:
        ConfigError: it is not the folder of such a run.
    """
    found = device_table.read(out)
    for column in found.measured:
        assert column.verdict is not None
        run_folder.write(out / column.folder, column.rows, column.verdict, **column.context)
    device_write.write(out, found)
    return _result(found, out)


def _result(found: DeviceTable, out: Path) -> Result:
    rows = [row for run in found.runs for row in run.rows]
    verdict = Verdict(
        found.winner, reasons=[device_table.headline(found), *device_table.flips(found)]
    )
    each = {
        run.device: Result(
            list(run.rows),
            run.verdict or Verdict(None, reasons=[run.error]),
            out / run.folder,
        )
        for run in found.runs
    }
    return Result(rows, verdict, out, each)


def _places(devices: Sequence[Device]) -> list[tuple[Device, str, str]]:
    """Give every device a name of its own and a folder; the second of a name is ``local 2``."""
    found: list[tuple[Device, str, str]] = []
    for device in devices:
        again = sum(one.name == device.name for one, _, _ in found)
        name = f"{device.name} {again + 1}" if again else device.name
        place = _UNFIT.sub("-", name).strip("-.") or "device"
        taken = {one for _, _, one in found}
        place = place if place not in taken else f"{place}-{len(found) + 1}"
        found.append((device, name, place))
    return found
