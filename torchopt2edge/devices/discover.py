"""What can be reached from here: this machine and its browser, what adb shows, the hosts of ssh.

What hangs on a cable is asked what it is; a host is connected to when that is asked for alone: a
list must not wake a board up.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from torchopt2edge.devices import answers
from torchopt2edge.devices.adb import Adb, Listed, explain, listed, quoted
from torchopt2edge.devices.browser import Browser
from torchopt2edge.devices.local import Local
from torchopt2edge.devices.remote.device import Remote
from torchopt2edge.devices.remote.transport import Finished, call
from torchopt2edge.devices.ssh import Ssh
from torchopt2edge.devices.web import packages as web_packages
from torchopt2edge.errors import DeviceError
from torchopt2edge.interfaces import Device
from torchopt2edge.types import Facts

_PATIENCE_S = 5.0
_DEEPEST = 8  # files that include files

# What can be read of temperature, clock, energy and power there, and what a device's Python has of
# what we measure, without importing any of it.
_LOOK = r"""
shows() {{ # NAME FILE…: whether one of the files can be read
  name=$1
  shift
  for file in "$@"; do
    if cat "$file" >/dev/null 2>&1; then echo "sensor $name"; return; fi
  done
}}
cd /sys
shows temperature class/thermal/thermal_zone*/temp class/hwmon/hwmon*/temp*_input
shows clock devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq
shows energy class/powercap/intel-rapl:[0-9]/energy_uj
shows power class/hwmon/hwmon*/power*_input
shows battery class/power_supply/*/capacity
cd "$OLDPWD"
for name in vcgencmd tegrastats dumpsys; do
  if command -v "$name" >/dev/null; then echo "sensor $name"; fi
done
{python} -c '
import sys
from importlib.metadata import PackageNotFoundError, version
print("runtime python", sys.version.split()[0])
for name in ("numpy", "onnxruntime", "ai-edge-litert", "tflite-runtime"):
    try:
        print("runtime", name, version(name))
    except PackageNotFoundError:
        pass
' 2>/dev/null; :
"""


def reachable(connect: bool = False, config: Path | None = None) -> list[Facts]:
    """Return one row per device: ``device`` (what to type), ``state``, and what is known of it.

    Every adb device is asked for its facts, and with ``connect`` every host as well; one that
    does not answer says why in ``state`` and ``hint``. ``config`` is read in place of
    ``~/.ssh/config``.
    """
    return [row for _, row in found(connect, config)]


def found(connect: bool = False, config: Path | None = None) -> list[tuple[Device | None, Facts]]:
    """Return what `reachable` does, each row with its device; None where that is none."""
    rows: list[tuple[Device | None, Facts]] = [(Local(), _here())]
    rows += _phones()
    rows.append((Browser(), _browser()))
    for host in hosts(config or Path.home() / ".ssh/config"):
        row: Facts = {"device": f"device=ssh device.host={host}", "state": "not asked"}
        device = Ssh(host, config=None if config is None else str(config))
        rows.append((device, row | (_asked(device) if connect else {})))
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


def _here() -> Facts:
    """Return the row of this machine."""
    row: Facts = {"device": "device=local", "state": "ready", **Local().facts()}
    return row | look(lambda script: call(["/bin/sh", "-c", script]), sys.executable)


def _browser() -> Facts:
    """Return the row of a browser here; it is ready when its runtimes were fetched."""
    row: Facts = {"device": "device=browser", "state": "ready"}
    try:
        row |= Browser().facts()
        web_packages.installed(fetch=False)
    except DeviceError as error:
        return row | {"state": error.what, "hint": error.hint}
    return row


def _phones() -> Iterator[tuple[Device | None, Facts]]:
    """Walk the devices of adb; a machine without adb gets a row that says how to have it."""
    try:
        every = listed()
    except DeviceError as error:
        yield None, {"device": "device=adb", "state": error.what, "hint": error.hint}
        return
    for one in every:
        yield Adb(serial=one.serial), _phone(one)


def _phone(one: Listed) -> Facts:
    row: Facts = {"device": f"device=adb device.serial={quoted(one.serial)}", "state": "ready"}
    if one.model:
        row["model"] = one.model
    if one.state != "device":
        error = explain(one)
        return row | {"state": one.state, "hint": error.hint}
    return row | _asked(Adb(serial=one.serial))


def _asked(device: Remote) -> Facts:
    brief = replace(device, link_patience_s=_PATIENCE_S)
    try:
        return {"state": "ready", **brief.facts(), **look(brief.run, brief.python)}
    except DeviceError as error:
        return {"state": error.what, "hint": error.hint}


def look(run: Callable[[str], Finished], python: str) -> Facts:
    """Return the ``runtimes`` (package → version) and the ``sensors`` that ``run`` finds.

    Without that Python there are no runtimes. Raises what ``run`` does.
    """
    said = run(_LOOK.format(python=shlex.quote(python))).stdout
    packages, sensors = answers.runtimes_and_sensors(said)
    return {"runtimes": packages, "sensors": sensors}


def runtimes(device: Remote) -> dict[str, str]:
    """Return the versions of Python and of the runtimes there; {} where there is no Python.

    Raises:
        DeviceError: it cannot be reached.
    """
    return dict(look(device.run, device.python)["runtimes"])
