"""What a sweep found, a line per job and device: its overrides and what its verdict names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.errors import ConfigError
from torchopt2edge.report.devices import table as device_table
from torchopt2edge.report.run_folder import read
from torchopt2edge.report.text.numbers import significant
from torchopt2edge.stats.rows import task_metric
from torchopt2edge.types import Measurement, Verdict

if TYPE_CHECKING:
    from rich.console import Console


def collect(
    jobs: Sequence[tuple[str, str]], lost: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Read each job's folder; ``jobs`` are (overrides, folder). A failed job has ``err``.

    ``lost`` is what ended a job, by its folder. A job on several devices has a line, with its
    ``device``, for each.
    """
    found: list[dict[str, Any]] = []
    for overrides, folder in jobs:
        if lost and folder in lost:
            found.append({"overrides": overrides, "folder": folder, "err": lost[folder]})
        else:
            found.extend(_lines(overrides, Path(folder)))
    return found


def _lines(overrides: str, folder: Path) -> Iterator[dict[str, Any]]:
    if not device_table.holds(folder):
        yield _line(overrides, folder)
        return
    for column in device_table.read(folder).columns:
        found = _line(overrides, folder / column.folder) if not column.err else {}
        lost = {"overrides": overrides, "folder": str(folder), "err": column.err}
        yield {"device": column.device, **(found or lost)}


def _line(overrides: str, folder: Path) -> dict[str, Any]:
    line: dict[str, Any] = {"overrides": overrides, "folder": str(folder)}
    try:
        rows, verdict, _ = read(folder)
    except ConfigError as error:
        return {**line, "err": str(error)}
    pick = _pick(rows, verdict)
    if pick is None:
        return {**line, "err": "; ".join(verdict.reasons) or "nothing was measured"}
    metric = task_metric(rows)
    columns = ("latency_ms", "size_mb", *([metric] if metric else []))
    found = {name: pick.metrics[name] for name in columns if name in pick.metrics}
    return {**line, "pick": pick.candidate, "tie": list(verdict.tie), **found}


def _pick(rows: Sequence[Measurement], verdict: Verdict) -> Measurement | None:
    """Return the winner, or the smallest file of a tie."""
    names = {verdict.winner} if verdict.winner else set(verdict.tie)
    named = [row for row in rows if row.candidate in names]
    return min(named, key=lambda row: row.metrics.get("size_mb", 0.0), default=None)


def show(
    console: Console, jobs: Sequence[tuple[str, str]], lost: Mapping[str, str] | None = None
) -> None:
    """Print the table of a sweep and keep it as ``sweep.json`` above the jobs' folders."""
    from rich.table import Table
    from rich.text import Text

    found = collect(jobs, lost)
    if not found:
        return
    (Path(jobs[0][1]).parent / "sweep.json").write_text(json.dumps(found, indent=1))
    metrics = list(dict.fromkeys(key for line in found for key in line if _is_number(line[key])))
    several = any("device" in line for line in found)
    table = Table("overrides", *(["device"] if several else []), "pick", *metrics)
    for line in found:
        pick = line.get("pick", f"✗ {line.get('err', '')}")
        shown = f"{pick} (tie of {len(line['tie'])})" if line.get("tie") else pick
        numbers = [significant(line.get(name)) for name in metrics]
        where = [Text(line.get("device", ""))] if several else []
        table.add_row(Text(line["overrides"] or "(none)"), *where, Text(shown), *numbers)
    console.print(table)


def _is_number(value: object) -> bool:
    return isinstance(value, float)
