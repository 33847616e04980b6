"""Builds the native runner with the compiler at hand, once, and finds the runtimes' libraries.

The libraries are those inside the installed wheels: the native runner loads them by their paths,
so that both runners measure the same build of a runtime.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from torchopt2edge.errors import DeviceError, StoreError
from torchopt2edge.store import cache_root

SOURCE = Path(__file__).parents[1] / "runner" / "native" / "runner.c"
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")
LIBRARIES = ("-ldl", "-lm")
NAME = "t2e-runner"
_COMPILERS = ("cc", "gcc", "clang")
_BUILD_S = 600.0  # ziglang builds a libc for a new target first
_LAST_LINES = 6

# Backend → package and where in it the library with the C interface lies.
_RUNTIMES = {
    "ort": ("onnxruntime", "capi/libonnxruntime.so*"),
    "litert": ("ai_edge_litert", "libLiteRt.so"),
}


def library(backend: str) -> Path:
    """Return the shared library of a backend's runtime, found without importing it.

    Raises:
        DeviceError: the runtime is not installed, or the native runner knows no such backend.
    """
    package, pattern = runtime(backend)
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec is not None else None
    for place in places or ():
        for file in sorted(Path(place).glob(pattern)):
            return file
    raise DeviceError(
        f"the library of {package} is not installed",
        artifact=pattern,
        hint=f"pip install --upgrade {package.replace('_', '-')}",
    )


def runtime(backend: str) -> tuple[str, str]:
    """Return a backend's package, and where in its folder the library with the C interface lies.

    Raises:
        DeviceError: the native runner knows no such backend.
    """
    if backend not in _RUNTIMES:
        raise DeviceError(
            f"the native runner has no backend {backend!r}", hint=" or ".join(_RUNTIMES)
        )
    return _RUNTIMES[backend]


def runner_binary(
    target: str | None = None, folder: Path | None = None, command: Sequence[str] | None = None
) -> Path:
    """Return the native runner, built now unless it is there.

    ``target`` is another machine's, as ziglang names it (``aarch64-linux-gnu.2.28``); ``folder``
    holds the builds in place of the user's cache; ``command`` is a compiler of another kind.

    Raises:
        DeviceError: there is no compiler, or it refuses the program.
        StoreError: the cache cannot be written.
    """
    command = list(command or compiler(target))
    place = (folder or cache_root() / "native") / _identity(command)
    binary = place / NAME
    if binary.is_file():
        return binary
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, prefix=".build-") as scratch:
            made = Path(scratch) / NAME
            compile_source(command, made)
            made.replace(binary)
    except OSError as error:
        raise StoreError(
            f"the native runner cannot be kept: {error.strerror or error}",
            artifact=place,
            hint="point TORCHOPT2EDGE_CACHE at a folder you can write",
        ) from error
    return binary


def compiler(target: str | None = None) -> list[str]:
    """Return the command of a C compiler for this machine, or for a target.

    Raises:
        DeviceError: there is none.
    """
    found = None if target else next(filter(None, map(shutil.which, _COMPILERS)), None)
    if found:
        return [found]
    if importlib.util.find_spec("ziglang") is None:
        raise DeviceError(
            f"the native runner needs ziglang to be built for {target}"
            if target
            else "the native runner needs a C compiler to be built",
            hint="pip install ziglang" if target else "apt-get install gcc, or pip install ziglang",
        )
    zig = [sys.executable, "-m", "ziglang", "cc"]
    return [*zig, "-target", target] if target else zig


def compile_source(command: Sequence[str], out: Path, flags: Sequence[str] = FLAGS) -> None:
    """Compile the runner into ``out``.

    Raises:
        DeviceError: the compiler refuses the program, or does not come to an end.
    """
    said = _run([*command, *flags, "-o", str(out), str(SOURCE), *LIBRARIES])
    if said.returncode:
        lines = " | ".join(said.stderr.strip().splitlines()[-_LAST_LINES:])
        raise DeviceError(f"the native runner cannot be built: {lines}", artifact=command[0])


def _identity(command: Sequence[str]) -> str:
    """Return what a build is kept under: what it is made of, by what, and for what."""
    version = _run([*command, "--version"]).stdout
    parts = [*command, version, *FLAGS, *LIBRARIES]
    digest = hashlib.sha256("\0".join(parts).encode())
    for source in sorted(SOURCE.parent.glob("*.[ch]")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=_BUILD_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"the compiler cannot be run: {error}", artifact=argv[0]) from error
