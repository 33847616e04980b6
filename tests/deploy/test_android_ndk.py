"""What is built by an Android NDK: the command that it is given, and what it is built for.

There is no NDK here: in its place is a compiler for arm64 with another libc.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from tests.runner.native.emulated import needs_ziglang
from torchopt2edge.deploy import elf, glibc, native_build
from torchopt2edge.deploy.android_ndk import android, compiler
from torchopt2edge.errors import DeviceError

PHONE = {"arch": "aarch64", "bits": 64, "libc": "none"}


@pytest.fixture
def ndk(tmp_path: Path) -> Path:
    """A folder like that of an NDK; its clang writes down what it was given."""
    needs_ziglang()
    clang = tmp_path / "ndk/toolchains/llvm/prebuilt/linux-x86_64/bin/clang"
    clang.parent.mkdir(parents=True)
    clang.write_text(f"""#!/bin/sh
echo "$@" >>{tmp_path}/given
shift
exec {sys.executable} -m ziglang cc -target {glibc.TARGETS["aarch64"].compiled} "$@"
""")
    clang.chmod(0o755)
    return tmp_path / "ndk"


@pytest.fixture
def library(ndk: Path, tmp_path: Path) -> Path:
    """A library of arm64 that needs nothing."""
    (tmp_path / "empty.c").write_text("int nothing;\n")
    command = [*compiler(str(ndk), "aarch64"), "-shared", "-nostdlib"]
    file = tmp_path / "libonnxruntime.so"
    done = native_build._run([*command, "-o", str(file), str(tmp_path / "empty.c")])
    assert done.returncode == 0, done.stderr
    return file


def test_the_runner_is_built_for_android(ndk: Path, library: Path, tmp_path: Path) -> None:
    found = android(PHONE, "ort", str(ndk), {"ort": str(library), "litert": None})
    assert found.runtime == {"lib/libonnxruntime.so": library}
    assert found.argv("/d") == ["/d/t2e-runner"]
    runner = elf.read(found.program["t2e-runner"])
    assert runner.machine == elf.MACHINES["aarch64"]
    lines = (tmp_path / "given").read_text().splitlines()
    assert all(line.startswith("--target=aarch64-linux-android28 ") for line in lines)
    assert str(native_build.SOURCE) in lines[-1]


def test_the_library_comes_out_of_an_aar(ndk: Path, library: Path, tmp_path: Path) -> None:
    file = tmp_path / "onnxruntime-android.aar"
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(library, "jni/arm64-v8a/libonnxruntime.so")
    found = android(PHONE, "ort", str(ndk), {"ort": str(file)}).runtime["lib/libonnxruntime.so"]
    assert found.read_bytes() == library.read_bytes()
    assert [one.name for one in found.parent.iterdir()] == ["libonnxruntime.so"]
    with pytest.raises(DeviceError, match=r"no libLiteRt\.so for arm64-v8a"):
        android(PHONE, "litert", str(ndk), {"litert": str(file)})
    file.write_bytes(b"PK")
    with pytest.raises(DeviceError, match="cannot be read"):
        android(PHONE, "ort", str(ndk), {"ort": str(file)})


def test_what_is_missing_is_named(ndk: Path, library: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"ort for Android is not given.*device\.libraries\.ort="):
        android(PHONE, "ort", str(ndk), {})
    with pytest.raises(DeviceError, match=r"no Android NDK.*device\.ndk="):
        android(PHONE, "ort", str(tmp_path), {"ort": str(library)})
    with pytest.raises(DeviceError, match="is not for x86_64"):
        android({"arch": "x86_64", "bits": 64}, "ort", str(ndk), {"ort": str(library)})


def test_a_library_for_another_system_is_refused(ndk: Path) -> None:
    """The one of the wheel that is installed here needs a glibc."""
    here = {"arch": "x86_64", "bits": 64}
    with pytest.raises(DeviceError, match=r"needs .*libc\.so\.6.*Android does not have|not for"):
        android(here, "litert", str(ndk), {"litert": str(native_build.library("litert"))})
