"""The runtimes' wheels for machines of another kind, in the versions that are installed here.

The same version there and here, so that a comparison of two machines compares nothing else.
Nothing is downloaded unless the user said so (``device.fetch=true``); what was lies in the user's
cache, each file under its digest, and is looked at again before it is used.
"""

from __future__ import annotations

import base64
import csv
import fnmatch
import hashlib
import lzma
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from torchopt2edge.errors import DeviceError, StoreError
from torchopt2edge.store import cache_root

_NEWEST_LIBC = (2, 36)  # of the glibc that can be brought along, and so the newest to ask for
_OLDEST_MINOR = 17
_PATIENCE_S = 900.0
_LARGEST = 1 << 30  # bytes of a library in a wheel
DAMAGED = (OSError, EOFError, KeyError, ValueError, RuntimeError, NotImplementedError, csv.Error,
           lzma.LZMAError, struct.error, zipfile.BadZipFile, zlib.error)  # fmt: skip
"""What a damaged archive makes Python's own reader raise."""

# What a runtime imports at its own import, so that the Python runner can run with it.
NEEDS = {
    "onnxruntime": ("numpy", "onnxruntime"),
    "ai-edge-litert": ("numpy", "ai-edge-litert", "flatbuffers"),
}


@dataclass(frozen=True)
class Python:
    """What wheels are chosen by: a processor, a version of Python and one of glibc."""

    arch: str
    version: tuple[int, int] = sys.version_info[:2]
    libc: tuple[int, int] = _NEWEST_LIBC

    @property
    def platforms(self) -> list[str]:
        """The platform tags it takes, the newest first."""
        minors = range(self.libc[1], _OLDEST_MINOR - 1, -1)
        return [*(f"manylinux_2_{one}_{self.arch}" for one in minors), f"manylinux2014_{self.arch}"]


def version_here(distribution: str) -> str:
    """Return the version of a package that is installed here, found without importing it.

    Raises:
        DeviceError: it is not installed.
    """
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError as error:
        raise DeviceError(
            f"{distribution} is not installed here, so that no version of it can be chosen",
            hint=f"pip install {distribution}",
        ) from error


def library(package: str, pattern: str, arch: str, fetch: bool = False) -> Path:
    """Return a shared library out of a package's wheel for another processor.

    ``pattern`` is its place in the package's folder (``capi/libonnxruntime.so*``).

    Raises:
        DeviceError: it is not in the cache and may not be fetched, or cannot be.
        StoreError: the cache cannot be written.
    """
    distribution = package.replace("_", "-")
    wanted = f"{distribution}=={version_here(distribution)}"
    place = cache_root() / "wheels" / f"{wanted.replace('==', '-')}-{arch}"
    found = _kept(place, pattern.rpartition("/")[2])
    if found is not None:
        return found
    _consented(fetch, [wanted], arch)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, prefix=".fetch-") as scratch:
            (wheel,) = download([wanted], Python(arch), Path(scratch))
            return _extract(wheel, f"{package}/{pattern}", place)
    except OSError as error:
        raise _unkept(place, error) from error


def wheels(distribution: str, python: Python, fetch: bool = False) -> list[Path]:
    """Return the wheels with which a Python elsewhere runs a runtime, numpy among them.

    Raises:
        DeviceError: they are not in the cache and may not be fetched, or cannot be.
        StoreError: the cache cannot be written.
    """
    wanted = [f"{name}=={version_here(name)}" for name in NEEDS[distribution]]
    said = f"{wanted} {python}"
    place = cache_root() / "wheels" / f"set-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
    if place.is_dir():
        return sorted(place.glob("*.whl"))
    _consented(fetch, wanted, f"{python.arch} and Python {'.'.join(map(str, python.version))}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetch-") as scratch:
            folder = Path(scratch) / "wheels"
            folder.mkdir()
            download(wanted, python, folder)
            if not place.is_dir():
                folder.rename(place)
    except OSError as error:
        raise _unkept(place, error) from error
    return sorted(place.glob("*.whl"))


def download(requirements: Sequence[str], python: Python, folder: Path) -> list[Path]:
    """Download wheels, and nothing that they need, by this environment's pip; return them.

    Raises:
        DeviceError: there is no pip, or it does not find them.
    """
    # By its metadata: setuptools makes of a mere look for the module a swap of distutils.
    if not any(metadata.distributions(name="pip")):
        raise DeviceError("this environment has no pip", hint="python -m ensurepip")
    done = _pip(
        "download",
        "--only-binary=:all:",
        "--no-deps",
        "--implementation=cp",
        f"--python-version={'.'.join(map(str, python.version))}",
        *(f"--platform={tag}" for tag in python.platforms),
        f"--dest={folder}",
        *requirements,
    )
    found = sorted(folder.glob("*.whl"))
    if done.returncode or len(found) != len(requirements):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise DeviceError(
            f"pip cannot download {' '.join(requirements)} for {python.arch}: "
            f"{' | '.join(lines[-2:]) or done.returncode}",
            hint="see that pip reaches its index and that it has that version for that machine",
        )
    return found


def _consented(fetch: bool, wanted: Sequence[str], what_for: str) -> None:
    if not fetch:
        raise DeviceError(
            f"{' '.join(wanted)} for {what_for} is not here yet",
            hint="device.fetch=true lets pip download it, once",
        )


def _pip(*words: str) -> subprocess.CompletedProcess[str]:
    quiet = ("--quiet", "--no-input", "--disable-pip-version-check")
    try:
        return subprocess.run(
            [sys.executable, "-m", "pip", *words, *quiet],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"pip did not come to an end within {_PATIENCE_S:.0f} s", artifact=words[-1]
        ) from error


def _kept(place: Path, pattern: str) -> Path | None:
    """Return the file of the cache whose bytes are still those that its folder is named after."""
    for file in sorted(place.glob(f"[0-9a-f]*/{pattern}")):
        with file.open("rb") as body:
            if hashlib.file_digest(body, "sha256").hexdigest()[:16] == file.parent.name:
                return file
    return None


def _extract(wheel: Path, pattern: str, place: Path) -> Path:
    """Keep one file of a wheel under its digest, which is the one that the wheel says it has."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = fnmatch.filter(archive.namelist(), pattern)
            if not names:
                raise DeviceError(f"the wheel has no {pattern}", artifact=wheel.name)
            if archive.getinfo(names[0]).file_size > _LARGEST:
                raise DeviceError(f"the wheel's {names[0]} is too large", artifact=wheel.name)
            body = archive.read(names[0])
            said = _recorded(archive, names[0])
    except DAMAGED as error:
        raise DeviceError(f"the wheel is damaged: {error}", artifact=wheel.name) from error
    digest = hashlib.sha256(body)
    if said != base64.urlsafe_b64encode(digest.digest()).decode().rstrip("="):
        raise DeviceError(
            "the wheel holds another file than it says it does", artifact=f"{wheel.name}/{names[0]}"
        )
    target = place / digest.hexdigest()[:16] / names[0].rpartition("/")[2]
    target.parent.mkdir(exist_ok=True)
    part = wheel.with_suffix(".part")  # in a folder that goes when we are done
    part.write_bytes(body)
    part.replace(target)
    return target


def _recorded(archive: zipfile.ZipFile, name: str) -> str:
    """Return the digest that a wheel's RECORD has of one of its files."""
    (record,) = [one for one in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", one)]
    rows = csv.reader(archive.read(record).decode().splitlines())
    digests = {row[0]: row[1].removeprefix("sha256=") for row in rows if len(row) > 1}
    return digests[name]


def _unkept(place: Path, error: OSError) -> StoreError:
    return StoreError(
        f"the wheels cannot be kept: {error.strerror or error}",
        artifact=place,
        hint="point TORCHOPT2EDGE_CACHE at a folder you can write",
    )
