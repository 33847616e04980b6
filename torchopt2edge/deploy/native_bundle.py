"""All that a machine needs to run the native runner with one runtime, whatever machine it is.

A machine with a glibc that is new enough gets two files: the runner, and the library out of the
runtime's wheel. A phone, a musl system or an old one gets a glibc besides, which only the runner
uses: no NDK, no app, nothing installed and no root.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from torchopt2edge.deploy import elf, glibc, native_build, wheels
from torchopt2edge.types import Facts


@dataclass(frozen=True)
class Kit:
    """Files for two folders on a device, name there → file here: a program, and a runtime.

    The program is the same for every runtime, so that it is sent once. ``loader`` starts it with
    the libraries beside it (None: the system's own does); ``library`` is the runtime's. Both are
    names of files.
    """

    program: Mapping[str, Path]
    runtime: Mapping[str, Path]
    library: str
    loader: str | None = None

    def argv(self, folder: str) -> list[str]:
        """Return the command, for a program that lies in that folder."""
        runner = f"{folder}/{native_build.NAME}"
        if self.loader is None:
            return [runner]
        beside = f"{folder}/{self.loader}"
        return [beside, "--library-path", beside.rpartition("/")[0], runner]


def kit(facts: Facts, backend: str, fetch: bool = False, sysroot: str | None = None) -> Kit:
    """Return what a machine with these facts (``arch``, ``bits``, ``libc``, ``libstdc++``) needs.

    With ``fetch`` what is not here is downloaded: the runtime's wheel for that processor, and a
    glibc, which ``sysroot`` names a folder of.

    Raises:
        DeviceError: the runtimes are not made for such a machine, or something is not here and
            may not be fetched or cannot be.
        StoreError: the cache cannot be written.
    """
    target = glibc.target_of(facts)
    package, pattern = native_build.runtime(backend)
    library = (
        native_build.library(backend)
        if target.is_here
        else wheels.library(package, pattern, target.arch, fetch)
    )
    theirs = glibc.version_of(facts)
    runner = runner_for(target, theirs)
    program = {native_build.NAME: runner}
    runtime = {f"lib/{library.name}": library, **_version(package)}
    whole = facts.get("libstdc++") is not False  # which small systems leave out
    if whole and max(elf.read(library).glibc, elf.read(runner).glibc) <= theirs:
        return Kit(program, runtime, f"lib/{library.name}")
    found = glibc.closure([runner, library], target, glibc.places(target, sysroot, fetch))
    program |= {f"lib/{name}": file for name, file in found.items()}
    return Kit(program, runtime, f"lib/{library.name}", f"lib/{target.loader}")


def runner_for(target: glibc.Target, theirs: tuple[int, int] = (0, 0)) -> Path:
    """Return the runner for a kind of machine; this machine's own build where that starts there.

    ``theirs`` is the version of the glibc there.

    Raises:
        DeviceError: there is no compiler for it.
    """
    if target.is_here:
        own = native_build.runner_binary()
        if elf.read(own).glibc <= theirs:
            return own
    return native_build.runner_binary(target.compiled)


def _version(package: str) -> dict[str, Path]:
    """Return the file by whose name the runner knows the runtime's version, as in a wheel."""
    distribution = package.replace("_", "-")
    name = f"{package}-{wheels.version_here(distribution)}.dist-info"
    listed = metadata.files(distribution) or []
    found = [Path(str(one.locate())) for one in listed if one.name == "METADATA"]
    return {name: found[0]} if found else {}
