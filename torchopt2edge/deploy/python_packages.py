"""The runtimes for a Python elsewhere that lacks them: wheels, brought there and unpacked.

Nothing is installed: they lie in our own folder on the device, and only our runner sees them.
"""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

from torchopt2edge.deploy import wheels
from torchopt2edge.devices import answers
from torchopt2edge.devices.remote import errors as remote_errors
from torchopt2edge.devices.remote.device import Remote
from torchopt2edge.errors import DeviceError

_UNPACK_S = 600.0
_ASK = """
{python} -c '
import importlib.util, os, platform, sys
libc = "CS_GNU_LIBC_VERSION"
libc = os.confstr(libc) if libc in os.confstr_names else None
print(*sys.version_info[:2], sys.maxsize > 2**32, platform.machine(), libc)
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name)))
' {modules}
"""
_UNPACK = """
mkdir -p {parent} && cd {parent} || exit 1
if [ ! -d {name} ]; then
  rm -rf {name}.$$
  mkdir {name}.$$ || exit 1
  for wheel in {wheels}; do
    {python} -m zipfile -e "$wheel" {name}.$$ || {{ rm -rf {name}.$$; exit 1; }}
  done
  mv {name}.$$ {name} && rm -rf {name}/{name}.$$ # it is in there where another was quicker
fi
cd {name} && pwd
"""


def bring(device: Remote, distribution: str) -> str | None:
    """Return the folder there with a runtime for its Python; None where that has its own.

    Raises:
        DeviceError: there is no Python of that name, it lacks what may not be brought, there are
            no wheels for it, or they cannot be downloaded or unpacked.
        StoreError: the cache here cannot be written.
    """
    python = _python(device, distribution)
    if python is None:
        return None
    found = wheels.wheels(distribution, python, device.fetch)
    return _unpacked(device, found)


def _python(device: Remote, distribution: str) -> wheels.Python | None:
    """Ask the Python there what wheels it takes; None when it lacks none of ours."""
    whole, asked = device.known.whole, (device.python, distribution)
    if asked in whole:
        return None
    modules = [name.replace("-", "_") for name in wheels.NEEDS[distribution]]
    words = {"python": shlex.quote(device.python), "modules": shlex.join(modules)}
    found = device.run(_ASK.format(**words))
    told = answers.interpreter(found.stdout, modules)
    if found.code or told is None:
        raise DeviceError(
            f"{device.python} does not run on {device.name}: {found.said}",
            hint="device.python=PATH of a Python there, or device.runner=native, which needs none",
        )
    missing = [name for name in modules if name not in told.modules]
    if not missing:
        whole.add(asked)
        return None
    if not device.fetch:
        raise DeviceError(
            f"the Python {device.python} on {device.name} has no {', '.join(missing)}",
            hint="device.fetch=true brings it, and installs nothing; or there: "
            f"{device.python} -m pip install {distribution}; or device.runner=native",
        )
    if not told.wide or told.glibc is None:
        raise DeviceError(
            f"there are no wheels for the Python on {device.name}: "
            f"{'its system has no glibc' if told.wide else 'it is one of 32 bits'}",
            hint="device.runner=native" if told.wide else "a system of 64 bits on it",
        )
    return wheels.Python(told.arch, told.version, told.glibc)


def _unpacked(device: Remote, found: list[Path]) -> str:
    """Unpack wheels there, once, and return the folder's path there."""
    places = [device.push(file) for file in found]
    name = f"site-{hashlib.sha256(repr(places).encode()).hexdigest()[:16]}"
    script = _UNPACK.format(
        parent=shlex.quote(f"{device.folder}/files"),
        name=name,
        wheels=shlex.join(places),
        python=shlex.quote(device.python),
    )
    said = device.run(script, timeout_s=_UNPACK_S)
    if said.code:
        raise DeviceError(
            f"the wheels cannot be unpacked on {device.name}: {said.said}",
            artifact=name,
            hint=remote_errors.ROOM,
        )
    return answers.path_there(said.stdout)
