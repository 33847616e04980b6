"""The figure of a run on several devices: every file's latency over that of the device's winner."""

from __future__ import annotations

import math

from torchopt2edge.report.devices.table import DeviceRun, DeviceTable
from torchopt2edge.report.figure.device_lanes import DeviceLanes, DeviceMark
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.text.numbers import times
from torchopt2edge.stats.rounds import Interval

RATIO = "ratio"
"""The key of the figure."""

RATIO_TITLE = "Latency against each device's winner"


def devices_figures(table: DeviceTable) -> dict[str, Figure]:
    """Draw the figure of a run on several devices.

    Args:
        table: The run.

    Returns:
        The figure by its key; nothing where no ratio is known.
    """
    figure = DeviceLanes(
        RATIO,
        RATIO_TITLE,
        [run.device for run in table.measured],
        {name: _marks(table, name) for name in table.candidates},
        "latency over that of the device's winner",
        "Marks are the ratios, bars their 95 % intervals. The dashed line at "
        f"{times(1.0)} is the device's winner, or the first of its tie. A hollow mark is rejected "
        "there.",
    ).figure()
    return {} if figure is None else {figure.key: figure}


def _marks(table: DeviceTable, name: str) -> list[DeviceMark]:
    return [
        DeviceMark(at, ratio, name in (run.verdict.rejected if run.verdict else ()))
        for at, run in enumerate(table.measured)
        if (ratio := _ratio(run, name)) is not None
    ]


def _ratio(run: DeviceRun, name: str) -> Interval | None:
    """Return a ratio that can be drawn."""
    ratio = run.verdict.ratios.get(name) if run.verdict else None
    return ratio if ratio and all(math.isfinite(end) and end > 0 for end in ratio) else None
