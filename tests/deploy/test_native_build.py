"""Building the native runner: once, clean, for this machine and for others."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from torchopt2edge.deploy import native_build
from torchopt2edge.errors import DeviceError, StoreError
from torchopt2edge.store import cache_root


def fake_compiler(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_it_is_built_once_and_nothing_else_is_left() -> None:
    binary = native_build.runner_binary()
    assert binary.is_relative_to(cache_root() / "native")
    assert len(binary.parent.name) == 16
    stamp = binary.stat().st_mtime_ns
    assert native_build.runner_binary() == binary
    assert binary.stat().st_mtime_ns == stamp
    assert [path.name for path in binary.parent.iterdir()] == ["t2e-runner"]
    assert os.access(binary, os.X_OK)


def test_another_source_is_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = native_build.runner_binary(folder=tmp_path / "builds")
    sources = tmp_path / "sources"
    shutil.copytree(native_build.SOURCE.parent, sources)
    (sources / "litert.h").write_text((sources / "litert.h").read_text() + "/* changed */\n")
    monkeypatch.setattr(native_build, "SOURCE", sources / "runner.c")
    assert native_build.runner_binary(folder=tmp_path / "builds") != first


def test_it_needs_nothing_but_libc() -> None:
    shown = subprocess.run(
        ["readelf", "-d", str(native_build.runner_binary())],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in shown.stdout.splitlines() if "(NEEDED)" in line]
    needed = {line.partition("[")[2].partition(".")[0] for line in lines}
    assert needed <= {"libc", "libm", "libdl"}


@pytest.mark.parametrize("flags", [("-O0",), ("-O3",), ("-O2", "-Wconversion", "-Wshadow")])
def test_every_level_compiles_without_a_warning(flags: tuple[str, ...], tmp_path: Path) -> None:
    """Without -Werror, so that it is the compiler's silence that is looked at."""
    lenient = [flag for flag in native_build.FLAGS if flag != "-Werror"]
    command = [*native_build.compiler(), *lenient, *flags, "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, str(native_build.SOURCE), *native_build.LIBRARIES],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(tmp_path / "out", os.X_OK)


def test_a_warning_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "runner.c"
    source.write_text("int main(void) { int unused; return 0; }\n")
    monkeypatch.setattr(native_build, "SOURCE", source)
    with pytest.raises(DeviceError, match="unused"):
        native_build.compile_source(native_build.compiler(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_libraries_lie_in_the_wheels_and_nothing_was_imported() -> None:
    code = (
        "import sys\n"
        "from torchopt2edge.deploy.native_build import library\n"
        "print(library('ort'), library('litert'), sep='\\n')\n"
        "assert not {'onnxruntime', 'ai_edge_litert'} & set(sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ort, litert = map(Path, out.stdout.split())
    assert ort.is_file()
    assert litert.is_file()
    assert ort.name.startswith("libonnxruntime.so")


def test_a_runtime_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="no backend 'tvm'"):
        native_build.library("tvm")
    monkeypatch.setitem(native_build._RUNTIMES, "ort", ("no_such_runtime", "lib.so"))
    with pytest.raises(DeviceError, match="pip install --upgrade no-such-runtime"):
        native_build.library("ort")


def test_without_a_compiler_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("ziglang"):
        pytest.skip("ziglang is a compiler")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"apt-get install gcc, or pip install ziglang"):
        native_build.runner_binary()
    with pytest.raises(DeviceError, match=r"for aarch64-linux-gnu.2.28.*pip install ziglang"):
        native_build.runner_binary("aarch64-linux-gnu.2.28")


def test_the_first_compiler_that_is_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("gcc") or shutil.which("cc")
    fake_compiler(tmp_path / "bin", "clang", f'exec {real} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    assert native_build.compiler() == [str(tmp_path / "bin" / "clang")]


def test_what_the_compiler_says_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_compiler(tmp_path / "bin", "cc", "echo 'runner.c:1: no such luck' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(DeviceError, match="no such luck"):
        native_build.runner_binary(folder=tmp_path / "builds")
    assert [path.name for path in (tmp_path / "builds").rglob("*") if path.is_file()] == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be kept"):
        native_build.runner_binary(folder=tmp_path / "file")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["aarch64-linux-gnu.2.28", "arm-linux-gnueabihf.2.28"])
def test_it_is_built_for_other_machines(target: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")
    binary = native_build.runner_binary(target, tmp_path)
    machine = int.from_bytes(binary.read_bytes()[18:20], "little")
    assert machine == {"aarch64": 183, "arm": 40}[target.partition("-")[0]]
