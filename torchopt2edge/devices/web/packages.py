"""The runtimes that a browser runs, as npm packages in the user's cache.

``web/package-lock.json`` pins every file by its hash. They are fetched only when that is asked
for, by npm and from the registry that it is set up for, and none of their scripts is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

from torchopt2edge.errors import DeviceError
from torchopt2edge.store import cache_root

MODULES = "node_modules"
_PINS = ("package.json", "package-lock.json")
_LONGEST_S = 900.0
_COMMAND = ("ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund")


def place() -> Path:
    """Return the folder of these pins in the user's cache."""
    digest = hashlib.sha256(b"".join(_pin(name) for name in _PINS)).hexdigest()
    return cache_root() / "web" / digest[:16]


def installed(fetch: bool) -> Path:
    """Return the folder that holds ``node_modules``; fetch it first when ``fetch`` allows that.

    Raises:
        DeviceError: it is not there and may not be fetched, or npm could not do so.
    """
    folder = place()
    if (folder / MODULES).is_dir():
        return folder
    if not fetch:
        raise DeviceError(
            "the runtimes for the browser (onnxruntime-web, @litertjs/core) are not installed",
            artifact=folder,
            hint="device.fetch=true, which lets npm fetch them once (190 MB on disk)",
        )
    npm = shutil.which("npm")
    if npm is None:
        raise DeviceError(
            "npm, which fetches the runtimes for the browser, is not installed",
            hint="apt-get install npm, or Node.js from nodejs.org",
        )
    _install(npm, folder)
    return folder


def _pin(name: str) -> bytes:
    return (resources.files("torchopt2edge.devices.web") / name).read_bytes()


def _install(npm: str, folder: Path) -> None:
    """Install beside the place, then rename: what is there is whole."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
    except OSError as error:
        raise DeviceError(
            f"the cache cannot be written: {error.strerror or error}",
            artifact=folder.parent,
            hint="TORCHOPT2EDGE_CACHE=FOLDER",
        ) from error
    try:
        for name in _PINS:
            (scratch / name).write_bytes(_pin(name))
        _run(npm, scratch)
        with contextlib.suppress(OSError):  # another process was first: its files are the same
            os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(npm: str, folder: Path) -> None:
    try:
        done = subprocess.run(
            [npm, *_COMMAND],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"npm did not come to an end within {_LONGEST_S:g} s", hint="see that npm ping works"
        ) from error
    if done.returncode:
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        raise DeviceError(
            f"npm could not fetch the runtimes for the browser: {' | '.join(said[:3])}",
            hint="see that npm ping works",
        )
