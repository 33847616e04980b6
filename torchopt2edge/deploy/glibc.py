"""A glibc for a device that has none, or one that is too old: a loader, and what it loads.

A phone's libc is Android's and an Alpine's is musl; the runtimes' wheels are linked against
glibc. With a loader of its own beside it the runner starts on any kernel: ``LOADER --library-path
FOLDER PROGRAM``.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchopt2edge.deploy import elf
from torchopt2edge.errors import DeviceError, StoreError
from torchopt2edge.store import cache_root
from torchopt2edge.types import Facts

OLDEST = "2.17"
"""The glibc that the runner is built against: the oldest of 64-bit ARM that wheels knew."""

LIBRARIES = (
    "libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1",
    "libstdc++.so.6",
)  # fmt: skip
"""What comes along besides the loader, whichever of it a runtime needs: one set for all."""

_FETCH_S = 300.0


@dataclass(frozen=True)
class Target:
    """A kind of machine: its name as ``uname`` has it, as compilers do, and as Debian does."""

    arch: str
    triple: str
    debian: str
    loader: str

    @property
    def compiled(self) -> str:
        """The runner's target, as ziglang names it."""
        return f"{self.triple}.{OLDEST}"

    @property
    def packages(self) -> tuple[str, ...]:
        """Debian's packages of its libraries; they are for every machine (arch "all")."""
        names = ("libc6", "libgcc-s1", "libstdc++6")
        return tuple(f"{name}-{self.debian}-cross" for name in names)

    @property
    def is_here(self) -> bool:
        """Whether this machine is of that kind."""
        return platform.machine() == self.arch and platform.libc_ver()[0] == "glibc"


TARGETS: Mapping[str, Target] = {
    "aarch64": Target("aarch64", "aarch64-linux-gnu", "arm64", "ld-linux-aarch64.so.1"),
    "x86_64": Target("x86_64", "x86_64-linux-gnu", "amd64", "ld-linux-x86-64.so.2"),
}
NARROW: Mapping[str, str] = {
    "armv7l": "arm-linux-gnueabihf.2.17",
    "armv8l": "arm-linux-gnueabihf.2.17",
}
"""Machines of 32 bits → the runner's target. It is built for them; the runtimes are not."""

_NAMES = {"arm64": "aarch64", "amd64": "x86_64"}


def target_of(facts: Facts) -> Target:
    """Return what kind of machine the facts are of.

    Raises:
        DeviceError: the runtimes are not made for it.
    """
    arch = str(facts.get("arch", ""))
    found = TARGETS.get(_NAMES.get(arch, arch))
    if found is None:
        raise DeviceError(
            f"neither runtime is made for a machine of the kind {arch!r}",
            hint="a system of 64 bits on it: the makers of ONNX Runtime and LiteRT publish none "
            "for 32 bits"
            if arch in NARROW or facts.get("bits") == 32
            else f"a machine of one of these kinds: {', '.join(TARGETS)}",
        )
    return found


def version_of(facts: Facts) -> tuple[int, int]:
    """Return the version of the device's glibc; (0, 0) where it has none for 64-bit programs."""
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", str(facts.get("libc", "")))
    if found is None or facts.get("bits") == 32:
        return 0, 0
    return int(found[1]), int(found[2])


def places(target: Target, sysroot: str | None = None, fetch: bool = False) -> list[Path]:
    """Return the folders that hold a glibc for a target, the first that has a name counts.

    ``sysroot`` (the root of such a system, or the folder of its libraries) is taken and nothing
    else; then come Debian's cross packages, this machine's own libraries when it is of that kind,
    and what was fetched earlier or, with ``fetch``, is now.

    Raises:
        DeviceError: there is none.
    """
    if sysroot is not None:
        given = Path(sysroot).expanduser()
        found = _with(target, [given / one for one in ("", *_inside(target))])
        if found:
            return found
        raise DeviceError(
            f"that folder holds no glibc for {target.arch}",
            artifact=given,
            hint=f"one with {target.loader}, {', '.join(LIBRARIES)} in it, or below it in "
            f"lib/{target.triple} or usr/{target.triple}/lib",
        )
    own = [Path("/") / one for one in _inside(target)]
    kept = cache_root() / "glibc" / target.debian
    for some in ([own[0]], own[1:] if target.is_here else [], [kept]):
        found = _with(target, some)
        if found:
            return found
    if fetch:
        return [_fetched(target, kept)]
    packages = " ".join(target.packages)
    raise DeviceError(
        f"the device has no glibc that is new enough, and there is none here for {target.arch}",
        hint=f"device.fetch=true lets apt download Debian's; or apt-get install {packages}; or "
        "device.sysroot=FOLDER, the root of such a system",
    )


def closure(files: Sequence[Path], target: Target, folders: Sequence[Path]) -> dict[str, Path]:
    """Return the loader and `LIBRARIES`, by name, with all else that some files need.

    Raises:
        DeviceError: one is missing, is for another machine, or is older than it must be.
    """
    loader = _find(target.loader, folders, files[0])
    found = {name: _find(name, folders, files[0]) for name in LIBRARIES}
    waiting = [*files, *found.values()]
    found[target.loader] = loader
    known: dict[str, elf.Elf] = {}
    while waiting:
        file = waiting.pop()
        read = known[file.name] = elf.read(file)
        if read.machine != elf.MACHINES[target.arch]:
            raise DeviceError(f"it is not for {target.arch}", artifact=file)
        for name in read.needed:
            if name not in found:
                found[name] = _find(name, folders, file)
                waiting.append(found[name])
    known[target.loader] = elf.read(loader)
    for name, one in known.items():
        for library, versions in (one.wants or {}).items():
            offered = known[found[library].name].offers if library in found else versions
            if versions - offered:
                raise DeviceError(
                    f"{name} needs {', '.join(sorted(versions - offered))} of {library}",
                    artifact=found[library],
                    hint="device.sysroot=FOLDER of a newer system",
                )
    return found


def _inside(target: Target) -> tuple[str, ...]:
    triple = target.triple
    return f"usr/{triple}/lib", f"lib/{triple}", f"usr/lib/{triple}", "lib64", "usr/lib64", "lib"


def _with(target: Target, folders: Iterable[Path]) -> list[Path]:
    """Return those of the folders that are there; [] where they do not hold a glibc together."""
    found = [folder for folder in folders if folder.is_dir()]
    wanted = (target.loader, *LIBRARIES)
    whole = all(any((folder / name).is_file() for folder in found) for name in wanted)
    return found if whole else []


def _find(name: str, folders: Sequence[Path], needer: Path) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise DeviceError(
        f"{needer.name} needs {name}, and it is not in the folders of the glibc",
        artifact=folders[0],
        hint="device.sysroot=FOLDER of a system that has it",
    )


def _fetched(target: Target, kept: Path) -> Path:
    """Download Debian's packages, unpack them and keep their libraries."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".fetch-") as scratch:
            folder = Path(scratch)
            _run(["apt-get", "-q", "download", *target.packages], folder)
            for package in sorted(folder.glob("*.deb")):
                _run(["dpkg-deb", "-x", str(package), "root"], folder)
            unpacked = folder / "root" / "usr" / target.triple / "lib"
            if not _with(target, [unpacked]):
                raise DeviceError(
                    f"Debian's packages hold no glibc for {target.arch}",
                    artifact=" ".join(target.packages),
                    hint="device.sysroot=FOLDER, the root of such a system",
                )
            _keep(unpacked, kept)
    except OSError as error:
        raise StoreError(
            f"the glibc cannot be kept: {error.strerror or error}",
            artifact=kept,
            hint="point TORCHOPT2EDGE_CACHE at a folder you can write",
        ) from error
    return kept


def _keep(unpacked: Path, kept: Path) -> None:
    """Give the libraries their place, unless another process was quicker."""
    whole = unpacked.with_name("whole")
    whole.mkdir()
    for file in sorted(unpacked.glob("*.so*")):  # what a link names is copied
        if file.is_file():
            shutil.copy2(file, whole / file.name)
    if not kept.is_dir():
        whole.rename(kept)


def _run(argv: Sequence[str], folder: Path) -> None:
    hint = "device.sysroot=FOLDER, the root of such a system"
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_FETCH_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise DeviceError(f"this machine has no {argv[0]}", hint=hint) from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{argv[0]} did not come to an end within {_FETCH_S:.0f} s", hint=hint
        ) from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise DeviceError(
            f"{argv[0]} failed: {' | '.join(lines[-2:]) or done.returncode}",
            hint=f"apt-get update, as root; or {hint}",
        )
