"""What can be reached from here: this machine, what adb shows, the hosts that ssh knows by name.

Nothing is connected to unless it is asked for: a list must not wake a board up.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torchopt2edge.devices.adb import Adb, Listed, explain, listed
from torchopt2edge.devices.local import Local
from torchopt2edge.devices.remote import Remote
from torchopt2edge.devices.ssh import Ssh
from torchopt2edge.errors import DeviceError
from torchopt2edge.types import Facts

_PATIENCE_S = 5.0
_DEEPEST = 8  # files that include files

# What a device's Python has of what we measure, without importing any of it.
_RUNTIMES = """
{python} -c '
import sys
from importlib.metadata import PackageNotFoundError, version
print("python", sys.version.split()[0])
for name in ("numpy", "onnxruntime", "ai-edge-litert", "tflite-runtime"):
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
' 2>/dev/null; :
"""


def reachable(connect: bool = False, config: Path | None = None) -> list[Facts]:
    """Return one row per device: ``device`` (what to type), ``state``, and what is known of it.

    With ``connect``, every adb device and every host is asked for its facts; one that does not
    answer says why in ``state`` and ``mend``. ``config`` is read in place of ``~/.ssh/config``.
    """
    rows: list[Facts] = [{"device": "device=local", "state": "ready", **Local().facts()}]
    rows += [_phone(one, connect) for one in _phones(rows)]
    for host in hosts(config or Path.home() / ".ssh/config"):
        row: Facts = {"device": f"device=ssh device.host={host}", "state": "not asked"}
        device = Ssh(host, config=None if config is None else str(config))
        rows.append(row | (_asked(device) if connect else {}))
    return rows


def hosts(config: Path) -> list[str]:
    """Return the hosts that an ssh configuration names in full, in order, with what it includes."""
    return list(dict.fromkeys(_hosts(config, 0)))


def _hosts(config: Path, depth: int) -> Iterator[str]:
    try:
        lines = config.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        key, *words = line.replace("=", " ", 1).split() or [""]
        if key.lower() == "host":
            yield from (word for word in words if not set(word) & set("*?!"))
        elif key.lower() == "include" and depth < _DEEPEST:
            for word in words:
                place = Path(word).expanduser()
                root, pattern = (
                    (Path("/"), str(place)[1:])
                    if place.is_absolute()
                    else (Path.home() / ".ssh", word)
                )
                for file in sorted(root.glob(pattern)):
                    yield from _hosts(file, depth + 1)


def _phones(rows: list[Facts]) -> list[Listed]:
    """Return the devices of adb; a machine without adb gets a row that says how to have it."""
    try:
        return listed()
    except DeviceError as error:
        rows.append({"device": "device=adb", "state": error.what, "mend": error.mend})
        return []


def _phone(one: Listed, connect: bool) -> Facts:
    row: Facts = {"device": f"device=adb device.serial={one.serial}", "state": "ready"}
    if one.model:
        row["model"] = one.model
    if one.state != "device":
        error = explain(one)
        return row | {"state": one.state, "mend": error.mend}
    return row | (_asked(Adb(serial=one.serial)) if connect else {})


def _asked(device: Remote) -> Facts:
    brief = replace(device, link_patience_s=_PATIENCE_S)
    try:
        facts = brief.facts()
        return {"state": "ready", **facts, "runtimes": runtimes(brief)}
    except DeviceError as error:
        return {"state": error.what, "mend": error.mend}


def runtimes(device: Remote) -> dict[str, str]:
    """Return the versions of Python and of the runtimes there; {} where there is no Python.

    Raises:
        DeviceError: it cannot be reached.
    """
    found = device.run(_RUNTIMES.format(python=shlex.quote(device.python)))
    pairs = [line.split(" ", 1) for line in found.stdout.decode(errors="replace").splitlines()]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
