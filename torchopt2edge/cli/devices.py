"""The commands of devices: the list of those in reach, and the removal of our files."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.cli.console import console
from torchopt2edge.deploy.launch import NATIVE, launch
from torchopt2edge.devices import answers, discover
from torchopt2edge.devices.remote.device import Remote
from torchopt2edge.devices.remote.files import place_of
from torchopt2edge.devices.remote.transport import Transport
from torchopt2edge.errors import ConfigError, EdgeError
from torchopt2edge.interfaces import Device
from torchopt2edge.report.text.numbers import count, significant
from torchopt2edge.report.text.row_view import plain
from torchopt2edge.runner import system_info
from torchopt2edge.types import Candidate, Facts, Signature

if TYPE_CHECKING:
    from rich.console import Console

# Prints the bytes of our files on a device; then, the size of each.
_USED = "cd {folder} 2>/dev/null || exit 0; find files jobs -type f -exec cat {{}} + | wc -c"
_LISTED = "cd {folder}/files 2>/dev/null || exit 0; find . -type f -exec wc -c {{}} +"


def show(connect: bool, as_json: bool) -> None:
    """Print the devices in reach.

    Args:
        connect: whether the hosts of ``~/.ssh/config`` are asked too.
        as_json: print facts in place of a table.
    """
    rows = [_with_push(device, row) for device, row in discover.found(connect)]
    if as_json:
        sys.stdout.write(f"{json.dumps(rows, indent=1, ensure_ascii=False)}\n")
    else:
        render(console(), rows)


def show_clean(device: Device) -> int:
    """Remove our files from a device, print how many bytes were removed, and return 0."""
    removed, left = clean(device)
    message = f"{device.name}: {_bytes(removed)} removed"
    message += f"; {_bytes(left)} stay, which running jobs use" if left else ""
    console().print(message, markup=False, highlight=False)
    return 0


def clean(device: Device) -> tuple[int, int]:
    """Remove our files from a device.

    Returns:
        The bytes that were removed, and those that stay because running jobs use them.

    Raises:
        ConfigError: the device keeps no files of ours.
        DeviceError: it cannot be reached.
    """
    if not isinstance(device, Remote):
        raise ConfigError(
            f"no files are kept on {device.name}: they are used where they are",
            hint="torchopt2edge devices clean device=ssh device.host=HOST",
        )
    before = _used_bytes(device)
    device.clean()
    after = _used_bytes(device)
    return before - after, after


def _used_bytes(device: Remote) -> int:
    words = device.run(_USED.format(folder=shlex.quote(device.folder))).stdout.split()
    return answers.number(answers.shown(words[-1])) or 0 if words else 0


@dataclass(frozen=True, kw_only=True)
class _DryRun(Remote):
    """Stands in for a device while a run is prepared: it counts files and sends none.

    Args:
        real: the device itself.
        told: its facts, which are not asked for again.
        there: the sizes of the files on the device, by ``DIGEST/name``.
        sizes: the sizes of the files that would be sent, by path.
    """

    real: Remote
    told: Facts
    there: Mapping[str, int]
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name in the rows' ``device``."""
        return self.real.name

    @property
    def link(self) -> Transport:
        """The link to the device itself."""
        return self.real.link

    def facts(self) -> Facts:
        """Return the facts of the real device."""
        return self.told

    def push(self, file: Path) -> str:
        """Count a file's bytes, unless the device has it."""
        return f"{self.push_all({file.name: file})}/{file.name}"

    def push_all(self, files: Mapping[str, Path]) -> str:
        """Count the bytes of files that share a folder, unless the device has them."""
        folder = place_of(files)
        sizes = {f"{folder}/{name}": file.stat().st_size for name, file in files.items()}
        if {name: self.there.get(name) for name in sizes} != sizes:
            self.sizes.update(sizes)
        return folder


def to_push(device: Remote, facts: Facts) -> int:
    """Return the bytes that a first run would send, uncompressed and without the models.

    A run is prepared on a `_DryRun`: the runner, and the runtimes' libraries where the runner
    needs them.

    Raises:
        EdgeError: the device cannot be reached, or its files cannot be prepared here.
    """
    there = answers.sizes(device.run(_LISTED.format(folder=shlex.quote(device.folder))).stdout)
    values = {field.name: getattr(device, field.name) for field in fields(Remote)}
    dry_run = _DryRun(**values | {"fetch": False}, real=device, told=facts, there=there)
    for backend in sorted(NATIVE):
        launch(Candidate("", backend, "fp32", Path(), Signature((), ()), ""), dry_run)
    return sum(dry_run.sizes.values())


def _with_push(device: Device | None, row: Facts) -> Facts:
    """Add to a row the bytes that a first run would send, or the error that hides them."""
    if row["state"] != "ready" or device is None:
        return row
    if not isinstance(device, Remote):
        return {**row, "push_bytes": 0}
    try:
        return {**row, "push_bytes": to_push(device, row)}
    except EdgeError as error:
        return {**row, "push_bytes": None, "push_error": str(error)}


def render(console: Console, rows: Sequence[Facts]) -> None:
    """Print a table of the devices, and hints below it for those that cannot be used."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0), header_style="bold")
    table.add_column("what to type", no_wrap=True)  # so that it can be copied
    for title in ("state", "machine", "runtimes", "sensors", "first push"):
        table.add_column(title, overflow="fold")
    for row in rows:
        overrides = str(row["device"]).replace(" ", "\n")
        state = "unusable" if _broken(row) else str(row["state"])
        cells = (overrides, state, machine(row), _runtimes(row), _sensors(row), _push(row))
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    for row in rows:
        problems = [plain(row["state"]) if _broken(row) else "", plain(row.get("push_error") or "")]
        for problem in filter(None, problems):
            console.print(Text(f"{row['device']}: {problem}", style="yellow"), soft_wrap=True)
        if row.get("hint"):
            # Not wrapped, so that a command can be copied from a narrow terminal.
            console.print(Text(f"  → {plain(row['hint'])}"), soft_wrap=True)


def _broken(row: Facts) -> bool:
    return row["state"] not in ("ready", "not asked")


def machine(row: Facts) -> str:
    """Return a device in lines: model, processor, cores, memory, system, browser."""
    known = {name: row[name] for name in row if row[name] != system_info.UNAVAILABLE}
    arch = known.get("abi") or known.get("arch", "")
    memory = known.get("memory_gb")
    lines = (
        known.get("model", ""),
        known.get("cpu", ""),
        ", ".join(filter(None, (arch, cores(known)))),
        f"{significant(memory)} GB memory" if memory else "",
        known.get("os", ""),
        known.get("browser", ""),
        "emulated" if known.get("emulated") else "",
    )
    return "\n".join(plain(line) for line in lines if line)


def cores(facts: Facts) -> str:
    """Return the number and the classes of the cores: "8 cores: 1 big at 3187 MHz, …"."""
    total, classes = facts.get("cores"), facts.get("core_classes") or ()
    if total is None:
        return ""
    listed = ", ".join(map(_core_class, classes)) if len(classes) > 1 else ""
    return f"{total} core{'' if total == 1 else 's'}{': ' if listed else ''}{listed}"


def _core_class(facts: Mapping[str, Any]) -> str:
    speed = f" at {facts['max_mhz']:.0f} MHz" if "max_mhz" in facts else ""
    return f"{len(facts['cores'])} {facts.get('name', '')}{speed}"


def _runtimes(row: Facts) -> str:
    versions = row.get("runtimes", {}).items()
    return "\n".join(f"{plain(name)} {plain(version)}" for name, version in versions)


def _sensors(row: Facts) -> str:
    if "sensors" not in row:
        return ""
    return "\n".join(map(plain, row["sensors"])) or "none"


def _push(row: Facts) -> str:
    size = row.get("push_bytes")
    if size is None:
        return "unknown" if "push_error" in row else ""
    return _bytes(size) if size else "nothing"


def _bytes(size: int) -> str:
    return f"{count(size)}B" if size >= 1000 else f"{size} B"
