"""What a machine of another kind needs: found, whole, and run where a processor can be played."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.bench.conftest import MakeNet
from tests.hostile import EXAMPLES
from tests.runner.native.emulated import given, needs_ziglang, roots, running
from torchopt2edge.deploy import elf, glibc, native_build
from torchopt2edge.deploy.native_bundle import Kit, kit, runner_for
from torchopt2edge.errors import DeviceError
from torchopt2edge.runner import system_info
from torchopt2edge.types import Candidate

HERE = {"arch": "x86_64", "bits": 64}
BARE = {"arch": "aarch64", "bits": 64, "libc": "none"}
here = pytest.mark.skipif(
    not glibc.TARGETS["x86_64"].is_here, reason="needs an x86-64 machine with a glibc"
)


def glibc_here() -> str:
    """Return this machine's glibc, as a device tells its own."""
    return os.confstr("CS_GNU_LIBC_VERSION") or ""


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> str:
    """A sysroot of arm64, and pip with the wheels that are there and no index."""
    sysroot, wheels = roots()
    monkeypatch.setenv("PIP_FIND_LINKS", wheels)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return sysroot


def readelf(file: Path) -> set[str]:
    """Return what the system's own reader finds NEEDED."""
    said = subprocess.run(["readelf", "-d", file], capture_output=True, text=True, check=True)
    lines = [line for line in said.stdout.splitlines() if "(NEEDED)" in line]
    return {line.partition("[")[2].rstrip("]") for line in lines}


@pytest.mark.parametrize("backend", ["ort", "litert"])
def test_what_a_library_needs_is_read_as_readelf_reads_it(backend: str) -> None:
    file = native_build.library(backend)
    found = elf.read(file)
    assert set(found.needed) == readelf(file)
    said = subprocess.run(["readelf", "-V", file], capture_output=True, text=True, check=True)
    for name, versions in (found.wants or {}).items():
        assert f"File: {name}" in said.stdout
        for one in versions:
            assert f"Name: {one} " in said.stdout
    assert (2, 17) <= found.glibc <= (2, 28)  # as the wheel's platform tag says


@here
def test_what_a_library_offers() -> None:
    (place, *_) = glibc.places(glibc.TARGETS["x86_64"])
    major, minor = glibc_here().split()[1].split(".")
    offers = elf.read(place / "libc.so.6").offers
    assert {"GLIBC_2.2.5", "GLIBC_2.17"} <= offers
    assert max(int(one.rpartition(".")[2]) for one in offers if one.count(".") == 1) <= int(minor)
    assert major == "2"


def test_a_file_that_is_no_library_is_an_error_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = native_build.runner_binary().read_bytes()
    file = tmp_path / "cut"
    for size in (0, 3, 6, 20, 63, 64, 200, 700, len(whole) // 2):
        file.write_bytes(whole[:size])
        if size < len(whole) // 2:
            with pytest.raises(DeviceError, match=r"damaged|no program"):
                elf.read(file)
    file.write_bytes(b"#!/bin/sh\n" * 99)
    with pytest.raises(DeviceError, match="no program or library of 64 bits"):
        elf.read(file)
    with pytest.raises(DeviceError, match="cannot be read"):
        elf.read(tmp_path / "nowhere")


@hypothesis.settings(max_examples=EXAMPLES, deadline=2000)
@hypothesis.given(
    changes=st.lists(
        st.tuples(
            st.integers(0, 900) | st.integers(0, 6000),
            st.sampled_from([0, 1, 0x7FFFFFFF, 1 << 32, (1 << 64) - 1]) | st.integers(0, 1 << 30),
            st.sampled_from([2, 4, 8]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_library_with_damaged_tables_is_read_or_refused(
    changes: list[tuple[int, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    body = bytearray(native_build.runner_binary().read_bytes())
    for at, value, size in changes:
        body[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
    file = tmp_path_factory.mktemp("elf") / "damaged"
    file.write_bytes(body)
    library = None
    with contextlib.suppress(DeviceError):
        library = elf.read(file)
    assert library is None or isinstance(library, elf.Elf)


@here
def test_a_machine_like_this_one_gets_two_files() -> None:
    found = kit({**HERE, "libc": glibc_here()}, "litert")
    assert found.program == {"t2e-runner": native_build.runner_binary()}
    assert set(found.runtime) == {
        "lib/libLiteRt.so",
        f"ai_edge_litert-{version('ai-edge-litert')}.dist-info",
    }
    assert found.runtime["lib/libLiteRt.so"] == native_build.library("litert")
    assert found.argv("/x") == ["/x/t2e-runner"]
    small = {**HERE, "libc": glibc_here(), "libstdc++": False}
    assert "lib/libstdc++.so.6" in kit(small, "litert").program


@here
@pytest.mark.parametrize("theirs", ["none", "musl", "glibc 2.12"])
@pytest.mark.parametrize("backend", ["ort", "litert"])
def test_the_bundle_starts_and_maps_nothing_else(
    theirs: str,
    backend: str,
    net: MakeNet,
    tflite: Candidate,
    sample: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    found = kit({**HERE, "libc": theirs}, backend)
    program, runtime = laid(found, tmp_path)
    candidate = net("a", depth=2) if backend == "ort" else tflite
    with running(found.argv(str(program)), tmp_path) as native:
        opened = native.open(backend, candidate.file, library=f"{runtime}/{found.library}")
        package = {"ort": "onnxruntime", "litert": "ai-edge-litert"}[backend]
        assert opened["receipt"]["runtime_version"] == version(package)
        assert native.call(given(candidate, sample)).keys() == {"y"}
        mapped = Path(f"/proc/{native.job.pid}/maps").read_text().split()
    libraries = {Path(one) for one in mapped if one.startswith("/") and ".so" in one}
    assert libraries
    assert all(one.is_relative_to(tmp_path) for one in libraries)


def test_both_runtimes_come_with_the_same_program(arm: str) -> None:
    needs_ziglang()
    one, other = (kit(BARE, backend, True, arm) for backend in ("ort", "litert"))
    assert one.program == other.program
    assert {f"lib/{name}" for name in glibc.LIBRARIES} < set(one.program)
    for name, file in {**one.program, **one.runtime}.items():
        if not name.endswith(".dist-info"):
            assert elf.read(file).machine == elf.MACHINES["aarch64"]
    assert one.argv("/d") == [
        "/d/lib/ld-linux-aarch64.so.1", "--library-path", "/d/lib", "/d/t2e-runner",
    ]  # fmt: skip


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a72", "max"])
@pytest.mark.parametrize("backend", ["ort", "litert"])
def test_the_arm64_runner_computes_as_this_machine_does(
    core: str,
    backend: str,
    arm: str,
    net: MakeNet,
    tflite: Candidate,
    sample: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    needs_ziglang()
    candidate = net("a", depth=2) if backend == "ort" else tflite
    with running([str(native_build.runner_binary())], tmp_path) as native:
        native.open(backend, candidate.file)
        wanted = native.call(given(candidate, sample))["y"]
    found = kit(BARE, backend, True, arm)
    program, runtime = laid(found, tmp_path / "arm")
    with running(found.argv(str(program)), tmp_path, core) as native:
        opened = native.open(backend, candidate.file, library=f"{runtime}/{found.library}")
        assert opened["receipt"]["emulated"] is True
        np.testing.assert_allclose(native.call(given(candidate, sample))["y"], wanted, atol=1e-5)


def test_a_runtime_that_needs_more_than_the_bundle_has_is_named(arm: str, tmp_path: Path) -> None:
    needs_ziglang()
    target = glibc.TARGETS["aarch64"]
    library = kit(BARE, "ort", True, arm).runtime
    (file,) = [file for name, file in library.items() if ".so" in name]
    folders = glibc.places(target, arm)
    older = tmp_path / "older"
    older.mkdir()
    for name in (target.loader, *glibc.LIBRARIES):
        (place, *_) = [one / name for one in folders if (one / name).is_file()]
        shutil.copy(place, older / name)
    newest = max((elf.read(file).wants or {})["libc.so.6"])
    text = (older / "libc.so.6").read_bytes()
    renamed = text.replace(f"{newest}\0".encode(), f"{newest[:-1]}x\0".encode())
    (older / "libc.so.6").write_bytes(renamed)
    with pytest.raises(DeviceError, match=rf"needs {newest} of libc\.so\.6.*newer system"):
        glibc.closure([file], target, [older])
    (older / "libm.so.6").unlink()
    with pytest.raises(DeviceError, match=r"holds no glibc for aarch64.*libm\.so\.6"):
        glibc.places(target, str(older))


def test_a_machine_of_32_bits_is_told_so() -> None:
    for arch in ("armv7l", "armv8l"):
        with pytest.raises(DeviceError, match=rf"{arch}.*system of 64 bits"):
            kit({"arch": arch, "bits": 32, "libc": "glibc 2.36"}, "ort")
    with pytest.raises(DeviceError, match=r"'riscv64'.*aarch64, x86_64"):
        kit({"arch": "riscv64", "bits": 64, "libc": "glibc 2.36"}, "ort")
    assert glibc.version_of({"libc": "glibc 2.36", "bits": 32}) == (0, 0)  # on a 64-bit kernel
    assert glibc.version_of({"libc": "glibc 2.36", "bits": system_info.UNAVAILABLE}) == (2, 36)


@pytest.mark.slow
def test_the_runner_is_built_for_every_kind_of_machine(tmp_path: Path) -> None:
    needs_ziglang()
    for target in glibc.TARGETS.values():
        found = elf.read(native_build.runner_binary(target.compiled))
        assert found.machine == elf.MACHINES[target.arch]
        assert found.glibc <= (2, 17)
    narrow = native_build.runner_binary(glibc.NARROW["armv7l"]).read_bytes()
    assert narrow[4] == 1  # the class of 32 bits
    assert int.from_bytes(narrow[18:20], "little") == 40  # EM_ARM


@here
def test_this_machines_own_build_goes_where_it_starts() -> None:
    needs_ziglang()
    target = glibc.TARGETS["x86_64"]
    assert runner_for(target, (2, 99)) == native_build.runner_binary()
    old = runner_for(target, (2, 17))
    assert elf.read(old).glibc <= (2, 17)


def test_without_a_glibc_the_three_ways_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHOPT2EDGE_CACHE", str(tmp_path))
    target = glibc.TARGETS["aarch64"]
    if Path(f"/usr/{target.triple}/lib/libc.so.6").is_file():
        pytest.skip("Debian's cross packages are installed here")
    with pytest.raises(DeviceError) as caught:
        glibc.places(target)
    for way in ("device.fetch=true", "apt-get install libc6-arm64-cross", "device.sysroot="):
        assert way in str(caught.value)
    with pytest.raises(DeviceError, match=r"holds no glibc.*ld-linux-aarch64\.so\.1"):
        glibc.places(target, str(tmp_path))


def test_the_glibc_that_apt_brings_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its packages are for every machine: no foreign architecture is added, nothing installed."""
    target = glibc.TARGETS["aarch64"]
    shown = shutil.which("apt-cache") and subprocess.run(
        ["apt-cache", "policy", *target.packages], capture_output=True, text=True
    )
    if not shown or shown.stdout.count("Candidate:") < 3 or "Candidate: (none)" in shown.stdout:
        pytest.skip("apt has no lists of Debian's packages here; as root: apt-get update")
    monkeypatch.setenv("TORCHOPT2EDGE_CACHE", str(tmp_path))
    try:
        (found,) = glibc.places(target, fetch=True)
    except DeviceError as error:
        if any(sign in error.what for sign in ("Failed to fetch", "Unable to fetch")):
            pytest.skip(f"the mirror that apt knows is out of reach: {error.what}")
        raise
    assert found.is_relative_to(tmp_path)
    assert {target.loader, *glibc.LIBRARIES} <= {one.name for one in found.iterdir()}
    assert not any(one.is_symlink() for one in found.iterdir())
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert glibc.places(target) == [found]
    assert [one.name for one in found.parent.iterdir()] == ["arm64"]
    shutil.rmtree(found)
    with pytest.raises(DeviceError, match="no apt-get"):
        glibc.places(target, fetch=True)


def laid(found: Kit, folder: Path) -> tuple[Path, Path]:
    """Lay a kit's files as a device does; return the folders of the program and the runtime."""
    folders = folder / "program", folder / "runtime"
    for place, files in zip(folders, (found.program, found.runtime), strict=True):
        for name, file in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place / name)
    return folders
