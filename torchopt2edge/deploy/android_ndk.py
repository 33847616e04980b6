"""The native runner built for Android itself, by the user's NDK, with the libraries that apps ship.

Neither the NDK nor the libraries are ours to bring: the user names both. What is measured then is
another build of a runtime than the one in the wheels, so its rows are not those of a board's.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from torchopt2edge.deploy import elf, glibc, native_build, wheels
from torchopt2edge.deploy.native_bundle import Kit
from torchopt2edge.errors import DeviceError, StoreError
from torchopt2edge.store import cache_root
from torchopt2edge.types import Facts

API = 28
"""The oldest Android whose libc has all that the runner calls (`glob`)."""

_LARGEST = 1 << 30
_ABIS: Mapping[str, str] = {"aarch64": "arm64-v8a", "x86_64": "x86_64"}
_NAMES: Mapping[str, str] = {"ort": "libonnxruntime.so", "litert": "libLiteRt.so"}
# What every Android has for programs that are no apps.
_THEIRS = frozenset(
    {"libc.so", "libm.so", "libdl.so", "liblog.so", "libandroid.so", "libnativewindow.so",
     "libEGL.so", "libGLESv2.so", "libGLESv3.so", "libvulkan.so", "libneuralnetworks.so", "libz.so"}
)  # fmt: skip


def android(facts: Facts, backend: str, ndk: str, libraries: Mapping[str, str | None]) -> Kit:
    """Return what an Android device with these facts needs: a runner, and the library given.

    Raises:
        DeviceError: that is no NDK, no library is given, or it is for another machine.
        StoreError: the cache cannot be written.
    """
    target = glibc.target_of(facts)
    native_build.runtime(backend)  # or there is no such backend
    given = libraries.get(backend)
    if given is None:
        raise DeviceError(
            f"the library of {backend} for Android is not given",
            hint=f"device.libraries.{backend}=FILE, the .aar of the runtime or the .so out of it",
        )
    library = _library(Path(given).expanduser(), backend, _ABIS[target.arch])
    read = elf.read(library)
    if read.machine != elf.MACHINES[target.arch]:
        raise DeviceError(f"it is not for {target.arch}", artifact=library)
    missing = [name for name in read.needed if name not in _THEIRS]
    if missing:
        raise DeviceError(
            f"it needs {', '.join(missing)}, which Android does not have",
            artifact=library,
            hint="a build for Android that holds its C++ library within it (c++_static)",
        )
    runner = native_build.runner_binary(command=compiler(ndk, target.arch))
    name = f"lib/{_NAMES[backend]}"
    return Kit({native_build.NAME: runner}, {name: library}, name)


def compiler(ndk: str, arch: str) -> list[str]:
    """Return the command of an NDK's compiler for a kind of machine.

    Raises:
        DeviceError: it has none that runs here.
    """
    folder = Path(ndk).expanduser()
    for clang in sorted(folder.glob("toolchains/llvm/prebuilt/linux-*/bin/clang")):
        return [str(clang), f"--target={arch}-linux-android{API}"]
    raise DeviceError(
        "that folder is no Android NDK for Linux",
        artifact=folder,
        hint="device.ndk=FOLDER, the one with toolchains/llvm in it",
    )


def _library(given: Path, backend: str, abi: str) -> Path:
    """Return the library: the file that is given, or the one in the .aar, kept in the cache."""
    if given.suffix != ".aar":
        return given
    try:
        with zipfile.ZipFile(given) as archive:
            name = f"jni/{abi}/{_NAMES[backend]}"
            if archive.getinfo(name).file_size > _LARGEST:
                raise DeviceError(f"its {name} is too large", artifact=given)
            body = archive.read(name)
    except KeyError as error:
        raise DeviceError(
            f"it holds no {_NAMES[backend]} for {abi}", artifact=given, hint="another .aar"
        ) from error
    except wheels.DAMAGED as error:
        raise DeviceError(f"it cannot be read: {error}", artifact=given) from error
    digest = hashlib.sha256(body).hexdigest()[:16]
    target = cache_root() / "android" / digest / _NAMES[backend]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as scratch:
            part = Path(scratch) / target.name
            part.write_bytes(body)
            part.replace(target)
    except OSError as error:
        raise StoreError(
            f"the library cannot be kept: {error.strerror or error}",
            artifact=target,
            hint="point TORCHOPT2EDGE_CACHE at a folder you can write",
        ) from error
    return target
