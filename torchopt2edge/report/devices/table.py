"""A run on several devices: what each measured, which file wins where, and where the order flips.

Every device has a run of its own in a folder of its own. What lies above them is computed from
those: a latency of one device is not compared with another's, the order of the files is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torchopt2edge.errors import ConfigError
from torchopt2edge.report.run_folder import VERDICT, damaged, read_text
from torchopt2edge.report.run_folder import read as read_run
from torchopt2edge.report.text.numbers import times_interval
from torchopt2edge.report.text.row_view import RowView, join_names, plain, row_views
from torchopt2edge.types import Facts, Measurement, Verdict

_FOLDER = re.compile(r"(?!\.)[A-Za-z0-9_.-]+")  # a name: no path and no address
LIMITS = (
    "The devices were measured one after the other, not in turns: each column stands alone. "
    "Their latencies are shown beside each other; only the order within a column is tested.",
    "A file of the same name may hold other integer types on another processor: the int8 of ONNX "
    "Runtime is made for the instructions of the device that measures.",
)


@dataclass(frozen=True)
class DeviceRun:
    """The run on one device.

    Attributes:
        device: The device's name.
        folder: Its folder under the run's.
        rows: What it measured.
        verdict: The verdict over its rows, None where it could not be used.
        context: What its own ``context.json`` holds.
        error: Why it could not be used, "" if it could.
    """

    device: str
    folder: str = ""
    rows: Sequence[Measurement] = ()
    verdict: Verdict | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @cached_property
    def views(self) -> dict[str, RowView]:
        """Its rows in reading order, by candidate."""
        if self.verdict is None:
            return {}
        return {view.row.candidate: view for view in row_views(self.rows, self.verdict)}

    @property
    def leaders(self) -> tuple[str, ...]:
        """The winner, the files of the tie, or nothing."""
        if self.verdict is None:
            return ()
        return (self.verdict.winner,) if self.verdict.winner else self.verdict.tie

    @property
    def title(self) -> str:
        """What stands over its latencies."""
        return f"{plain(self.device)} ms" if self.verdict else plain(self.device)

    @property
    def facts(self) -> Facts:
        """What the device tells of itself."""
        facts = self.context.get("environment", {}).get("device", {})
        return dict(facts) if isinstance(facts, Mapping) else {}

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in the ``verdict.json`` above the devices' folders."""
        return {
            "device": self.device,
            "folder": self.folder,
            "err": self.error or None,
            "winner": self.verdict.winner if self.verdict else None,
            "tie": list(self.verdict.tie) if self.verdict else [],
            "candidates": {name: _numbers(view) for name, view in self.views.items()},
        }


def _numbers(view: RowView) -> dict[str, Any]:
    names = ("latency_ms", "latency_low_ms", "latency_high_ms")
    known: dict[str, Any] = {
        name: value for name in names if (value := view.value(name)) is not None
    }
    return {**known, "err": view.row.err, "out": view.rejection or None}


@dataclass(frozen=True)
class DeviceTable:
    """A run on several devices, in the order in which they were asked for."""

    title: str
    runs: tuple[DeviceRun, ...]
    command: str = ""

    @cached_property
    def measured(self) -> list[DeviceRun]:
        """The devices that measured."""
        return [run for run in self.runs if run.verdict is not None]

    @property
    def candidates(self) -> list[str]:
        """Every candidate once, in the order of the first device that has it."""
        return list(dict.fromkeys(name for run in self.measured for name in run.views))

    @property
    def common_winner(self) -> str | None:
        """The file that wins on a device, and wins or ties on every device that measured."""
        leaders = [set(run.leaders) for run in self.measured]
        common = sorted(set.intersection(*leaders)) if leaders else []
        return max((name for name in common if self.wins_on(name)), key=self._wins, default=None)

    def _wins(self, name: str) -> int:
        return len(self.wins_on(name))

    def wins_on(self, name: str) -> list[str]:
        """Return the devices on which a file wins.

        Args:
            name: The candidate's id.

        Returns:
            The devices' names.
        """
        return [r.device for r in self.measured if r.verdict and r.verdict.winner == name]

    @property
    def winner(self) -> str | None:
        """The file that wins on every device that measured."""
        name = self.common_winner
        return name if name and len(self.wins_on(name)) == len(self.measured) else None

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in the ``verdict.json`` above the devices' folders."""
        return {
            "schema": 1,
            "title": self.title,
            "command": self.command,
            "winner": self.winner,
            "headline": headline(self),
            "flips": flips(self),
            "devices": [run.to_json() for run in self.runs],
        }


def headline(table: DeviceTable) -> str:
    """Return the one sentence to read first.

    Args:
        table: The run.

    Returns:
        The file for every device, or that they differ.
    """
    failed = [run.device for run in table.runs if run.verdict is None]
    rest = f"; {join_names(failed)} could not be used" if failed else ""
    if not table.measured:
        return f"No winner: {join_names(failed)} could not be used."
    if table.common_winner is not None:
        return f"{_common_sentence(table, table.common_winner)}{rest}."
    leaders = ", ".join(_leaders(table))
    differ = len({run.leaders for run in table.measured if run.leaders}) > 1
    if differ:
        return f"It depends on the device: {leaders}{rest}."
    return f"{_capital(leaders)}{rest}."


def _leaders(table: DeviceTable) -> Iterator[str]:
    """Yield who is first where, devices with the same outcome together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for run in table.measured:
        groups.setdefault(run.leaders, []).append(run.device)
    for leaders, devices in groups.items():
        verb = "wins" if len(leaders) == 1 else "tie"
        where = join_names(devices)
        yield f"{join_names(leaders)} {verb} on {where}" if leaders else f"no winner on {where}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] if text.startswith("no winner") else text


def _common_sentence(table: DeviceTable, name: str) -> str:
    wins = table.wins_on(name)
    ties = [run.device for run in table.measured if run.device not in wins]
    parts = [f"wins on {join_names(wins)}", f"ties on {join_names(ties)}" if ties else ""]
    return f"Ship {plain(name)}: it {' and '.join(part for part in parts if part)}"


def flips(table: DeviceTable) -> list[str]:
    """Return where the order of the files flips.

    Args:
        table: The run.

    Returns:
        Sentences on how the winner of one device does on the others.
    """
    return [text for run in table.measured if run.leaders for text in _other_winners(run, table)]


def _other_winners(run: DeviceRun, table: DeviceTable) -> Iterator[str]:
    """Yield how far behind the winners of other devices are on this one."""
    assert run.verdict is not None
    verb = "wins" if len(run.leaders) == 1 else "tie"
    for name in dict.fromkeys(r.verdict.winner for r in table.measured if r.verdict):
        if name is None or name in run.leaders:
            continue
        ratio, reason = run.verdict.ratios.get(name), run.verdict.rejected.get(name)
        if reason:
            how = f"is rejected there: {plain(reason)}"
        elif ratio is None:
            how = "was not measured there"
        else:
            how = f"takes {times_interval(ratio)} as long there"
        who = f"{plain(name)}, the winner on {join_names(table.wins_on(name))},"
        yield f"On {run.device} {join_names(run.leaders)} {verb}; {who} {how}."


def notes(table: DeviceTable) -> list[str]:
    """Return which candidates differ between devices, and the devices' warnings.

    Args:
        table: The run.

    Returns:
        Sentences.
    """
    warned = [
        (run.device, warning)
        for run in table.measured
        for warning in (run.verdict.warnings if run.verdict else ())
    ]
    return [*_different_files(table), *by_device(warned)]


def _different_files(table: DeviceTable) -> Iterator[str]:
    """Yield the candidates that are not the same file on every device."""
    for name in table.candidates:
        digests = {
            run.device: run.views[name].row.facts.get("digest")
            for run in table.measured
            if name in run.views
        }
        if len({digest for digest in digests.values() if digest}) > 1:
            yield (
                f"{plain(name)} is not the same file on {join_names(list(digests))}: it is made "
                "for the processor that measures"
            )


def by_device(sentences: Iterable[tuple[str, str]]) -> list[str]:
    """Return sentences behind the devices that they are about.

    Args:
        sentences: (device, sentence) pairs.

    Returns:
        Each sentence once, behind all its devices.
    """
    devices: dict[str, list[str]] = {}
    for device, sentence in sentences:
        devices.setdefault(plain(sentence), []).append(plain(device))
    return [f"{', '.join(names)}: {sentence}" for sentence, names in devices.items()]


def holds(out: Path) -> bool:
    """Tell whether a folder is that of a run on several devices.

    Args:
        out: The folder.

    Returns:
        Whether its ``verdict.json`` lists devices.
    """
    try:
        return isinstance(json.loads(read_text(out / VERDICT)).get("devices"), list)
    except (ConfigError, ValueError, AttributeError):
        return False


def read(out: Path) -> DeviceTable:
    """Read a run on several devices, each device from its own folder.

    Args:
        out: The run's folder.

    Returns:
        The run.

    Raises:
        ConfigError: It is not the folder of such a run, or a file in it is damaged.
    """
    try:
        kept = json.loads(read_text(out / VERDICT))
        runs = tuple(_run(out, each) for each in kept["devices"])
        return DeviceTable(str(kept["title"]), runs, str(kept["command"]))
    except (ValueError, TypeError, KeyError) as error:
        raise damaged(out / VERDICT, "its content") from error


def _run(out: Path, kept: Mapping[str, Any]) -> DeviceRun:
    device, folder = str(kept["device"]), str(kept["folder"])
    if kept["err"]:
        return DeviceRun(device, folder, error=str(kept["err"]))
    if not _FOLDER.fullmatch(folder):  # nothing outside of the run's folder is read
        raise ValueError(folder)
    return DeviceRun(device, folder, *read_run(out / folder))
