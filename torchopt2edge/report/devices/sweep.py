"""The results of a sweep, a line per job and device: its overrides and its verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.errors import ConfigError
from torchopt2edge.report.devices.table import holds as is_device_table
from torchopt2edge.report.devices.table import read as read_table
from torchopt2edge.report.run_folder import read as read_run
from torchopt2edge.report.text.numbers import significant
from torchopt2edge.stats.rows import metric_value, task_metric
from torchopt2edge.types import Measurement, Verdict

if TYPE_CHECKING:
    from rich.console import Console

DATA = "sweep.json"


def collect(
    jobs: Sequence[tuple[str, str]], failed: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Read the folder of each job.

    Args:
        jobs: (overrides, folder) of each job.
        failed: The error that ended a job, by its folder.

    Returns:
        A line per job, or per device of a job on several: ``overrides``, ``folder``, ``device``
        where there are several, and either ``err`` or ``pick``, ``tie`` and the pick's metrics.
    """
    lines: list[dict[str, Any]] = []
    for overrides, folder in jobs:
        if failed and folder in failed:
            lines.append({"overrides": overrides, "folder": folder, "err": failed[folder]})
        else:
            lines.extend(_lines(overrides, Path(folder)))
    return lines


def _lines(overrides: str, folder: Path) -> Iterator[dict[str, Any]]:
    if not is_device_table(folder):
        yield _line(overrides, folder)
        return
    for run in read_table(folder).runs:
        if run.error:
            line = {"overrides": overrides, "folder": str(folder), "err": run.error}
        else:
            line = _line(overrides, folder / run.folder)
        yield {"device": run.device, **line}


def _line(overrides: str, folder: Path) -> dict[str, Any]:
    line: dict[str, Any] = {"overrides": overrides, "folder": str(folder)}
    try:
        rows, verdict, _ = read_run(folder)
    except ConfigError as error:
        return {**line, "err": str(error)}
    pick = _pick(rows, verdict)
    if pick is None:
        return {**line, "err": "; ".join(verdict.reasons) or "nothing was measured"}
    names = ("latency_ms", "size_mb", task_metric(rows))
    metrics = {n: value for n in names if (value := metric_value(pick, n)) is not None}
    return {**line, "pick": pick.candidate, "tie": list(verdict.tie), **metrics}


def _pick(rows: Sequence[Measurement], verdict: Verdict) -> Measurement | None:
    """Return the winner, or the smallest file of a tie."""
    names = {verdict.winner} if verdict.winner else set(verdict.tie)
    chosen = [row for row in rows if row.candidate in names]
    return min(chosen, key=lambda row: row.metrics.get("size_mb", 0.0), default=None)


def show(
    console: Console, jobs: Sequence[tuple[str, str]], failed: Mapping[str, str] | None = None
) -> None:
    """Print the table of a sweep and write it as ``sweep.json`` above the jobs' folders.

    Args:
        console: Where to print.
        jobs: (overrides, folder) of each job.
        failed: The error that ended a job, by its folder.
    """
    from rich.table import Table
    from rich.text import Text

    lines = collect(jobs, failed)
    if not lines:
        return
    (Path(jobs[0][1]).parent / DATA).write_text(json.dumps(lines, indent=1))
    metrics = list(dict.fromkeys(key for line in lines for key in line if _is_number(line[key])))
    several = any("device" in line for line in lines)
    table = Table("overrides", *(["device"] if several else []), "pick", *metrics)
    for line in lines:
        pick = line.get("pick", f"✗ {line.get('err', '')}")
        shown = f"{pick} (tie of {len(line['tie'])})" if line.get("tie") else pick
        numbers = [significant(line.get(name)) for name in metrics]
        device = [Text(line.get("device", ""))] if several else []
        table.add_row(Text(line["overrides"] or "(none)"), *device, Text(shown), *numbers)
    console.print(table)


def _is_number(value: object) -> bool:
    return isinstance(value, float)
