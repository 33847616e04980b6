"""Several devices side by side: what each measured, which file wins where, and where that flips.

Every device has a run of its own in a folder of its own. What lies above them is computed from
those and never measured: a latency of one device is not compared with another's, the order of
the files is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchopt2edge.report.run_folder import VERDICT, damaged, read_text
from torchopt2edge.report.run_folder import read as read_run
from torchopt2edge.report.text.numbers import times_between
from torchopt2edge.report.text.row_view import Line, lines, plain
from torchopt2edge.types import Facts, Measurement, Verdict

_FOLDER = re.compile(r"(?!\.)[A-Za-z0-9_.-]+")  # a name: no path and no address
LIMITS = (
    "The devices were measured one after the other, not in turns: each column stands alone. "
    "Their latencies are shown beside each other; only the order within a column is tested.",
    "A file of the same name may hold other integer types on another processor: the int8 of ONNX "
    "Runtime is made for the instructions of the device that measures.",
)


@dataclass(frozen=True)
class Column:
    """One device: its name, its folder under the run's, and what it measured.

    ``context`` is that of its own report; ``err`` says why there is nothing else.
    """

    device: str
    folder: str
    rows: Sequence[Measurement] = ()
    verdict: Verdict | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    err: str = ""

    @property
    def lines(self) -> dict[str, Line]:
        """Its rows as a reader sees them, by candidate, the fastest first."""
        if self.verdict is None:
            return {}
        return {line.row.candidate: line for line in lines(self.rows, self.verdict)}

    @property
    def first(self) -> tuple[str, ...]:
        """The winner, the files that tie for it, or nothing."""
        if self.verdict is None:
            return ()
        return (self.verdict.winner,) if self.verdict.winner else self.verdict.tie

    @property
    def title(self) -> str:
        """What stands over its latencies."""
        return f"{plain(self.device)} ms" if self.verdict else plain(self.device)

    @property
    def facts(self) -> Facts:
        """What the device said of itself."""
        found = self.context.get("environment", {}).get("device", {})
        return dict(found) if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class Side:
    """Devices beside each other, in the order in which they were asked for."""

    title: str
    columns: tuple[Column, ...]
    command: str = ""

    @property
    def used(self) -> list[Column]:
        """The devices that measured."""
        return [column for column in self.columns if column.verdict is not None]

    @property
    def candidates(self) -> list[str]:
        """Every candidate once, in the order of the first device that has it."""
        return list(dict.fromkeys(name for column in self.used for name in column.lines))

    @property
    def pick(self) -> str | None:
        """The file that wins somewhere, and wins or ties on every device that measured."""
        places = [set(column.first) for column in self.used]
        common = sorted(set.intersection(*places)) if places else []
        return max((one for one in common if self.where(one)), key=self._wins, default=None)

    def _wins(self, name: str) -> int:
        return len(self.where(name))

    def where(self, name: str) -> list[str]:
        """Name the devices on which a file wins."""
        return [c.device for c in self.used if c.verdict and c.verdict.winner == name]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in the ``verdict.json`` above the devices' folders.

        ``winner`` is the file that wins on every device that measured, else None.
        """
        everywhere = self.pick and len(self.where(self.pick)) == len(self.used)
        return {
            "schema": 1,
            "title": self.title,
            "command": self.command,
            "winner": self.pick if everywhere else None,
            "headline": headline(self),
            "flips": flips(self),
            "devices": [_told(column) for column in self.columns],
        }


def _told(column: Column) -> dict[str, Any]:
    return {
        "device": column.device,
        "folder": column.folder,
        "err": column.err or None,
        "winner": column.verdict.winner if column.verdict else None,
        "tie": list(column.verdict.tie) if column.verdict else [],
        "candidates": {name: _numbers(line) for name, line in column.lines.items()},
    }


def _numbers(line: Line) -> dict[str, Any]:
    names = ("latency_ms", "latency_low_ms", "latency_high_ms")
    found: dict[str, Any] = {name: line.get(name) for name in names if line.get(name) is not None}
    return {**found, "err": line.row.err, "out": line.rejected or None}


def headline(side: Side) -> str:
    """Return the one sentence to read: the file for every device, or that they differ."""
    lost = [column.device for column in side.columns if column.verdict is None]
    beside = f"; {listing(lost)} could not be used" if lost else ""
    if not side.used:
        return f"No winner: {listing(lost)} could not be used."
    if side.pick is not None:
        return f"{_everywhere(side, side.pick)}{beside}."
    said = ", ".join(_places(side))
    differ = len({column.first for column in side.used if column.first}) > 1
    return f"It depends on the device: {said}{beside}." if differ else f"{_up(said)}{beside}."


def _places(side: Side) -> Iterator[str]:
    """Say who is first where, devices with the same outcome together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for column in side.used:
        groups.setdefault(column.first, []).append(column.device)
    for first, devices in groups.items():
        verb = "wins" if len(first) == 1 else "tie"
        yield (
            f"{listing(first)} {verb} on {listing(devices)}"
            if first
            else f"no winner on {listing(devices)}"
        )


def _up(text: str) -> str:
    return text[:1].upper() + text[1:] if text.startswith("no winner") else text


def _everywhere(side: Side, name: str) -> str:
    wins = side.where(name)
    ties = [column.device for column in side.used if column.device not in wins]
    said = [f"wins on {listing(wins)}" if wins else "", f"ties on {listing(ties)}" if ties else ""]
    return f"Ship {plain(name)}: it {' and '.join(one for one in said if one)}"


def flips(side: Side) -> list[str]:
    """Say where the order turns: how the winner of one device does on the others."""
    return [said for column in side.used if column.first for said in _lost(column, side)]


def _lost(column: Column, side: Side) -> Iterator[str]:
    """Say how far behind those are that win elsewhere."""
    assert column.verdict is not None
    verb = "wins" if len(column.first) == 1 else "tie"
    for name in dict.fromkeys(c.verdict.winner for c in side.used if c.verdict):
        if name is None or name in column.first:
            continue
        ratio, out = column.verdict.ratios.get(name), column.verdict.rejected.get(name)
        if out:
            how = f"is out there: {plain(out)}"
        elif ratio is None:
            how = "was not measured there"
        else:
            how = f"takes {times_between(ratio)} as long there"
        who = f"{plain(name)}, the winner on {listing(side.where(name))},"
        yield f"On {column.device} {listing(column.first)} {verb}; {who} {how}."


def notes(side: Side) -> list[str]:
    """Say which candidates are not the same file on every device, and what a device warned of."""
    said = []
    for name in side.candidates:
        held = {
            c.device: c.lines[name].row.facts.get("digest") for c in side.used if name in c.lines
        }
        kinds = {digest for digest in held.values() if digest}
        if len(kinds) > 1:
            said.append(
                f"{plain(name)} is not the same file on {listing(list(held))}: it is made for the "
                "processor that measures"
            )
    warned = [
        (column.device, one)
        for column in side.used
        for one in (column.verdict.warnings if column.verdict else ())
    ]
    return [*said, *by_device(warned)]


def by_device(said: Iterable[tuple[str, str]]) -> list[str]:
    """Return sentences with the devices that they are about before them, each sentence once."""
    found: dict[str, list[str]] = {}
    for device, one in said:
        found.setdefault(plain(one), []).append(plain(device))
    return [f"{', '.join(devices)}: {one}" for one, devices in found.items()]


def listing(names: Sequence[str]) -> str:
    """Return names as a sentence holds them: "a, b and c"."""
    shown = [plain(name) for name in names]
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else "".join(shown)


def holds(out: Path) -> bool:
    """Whether a folder is that of a run on several devices."""
    try:
        return isinstance(json.loads((out / VERDICT).read_text("utf-8")).get("devices"), list)
    except (OSError, ValueError, AttributeError):
        return False


def read(out: Path) -> Side:
    """Return the devices of a run's folder, each read from its own.

    Raises:
        ConfigError: it is not the folder of such a run, or a file in it is damaged.
    """
    try:
        kept = json.loads(read_text(out / VERDICT))
        columns = tuple(_column(out, one) for one in kept["devices"])
        return Side(str(kept["title"]), columns, str(kept["command"]))
    except (ValueError, TypeError, KeyError) as error:
        raise damaged(out / VERDICT, "its content") from error


def _column(out: Path, told: Mapping[str, Any]) -> Column:
    device, folder = str(told["device"]), str(told["folder"])
    if told["err"]:
        return Column(device, folder, err=str(told["err"]))
    if not _FOLDER.fullmatch(folder):  # what lies elsewhere is not of this run
        raise ValueError(folder)
    return Column(device, folder, *read_run(out / folder))
