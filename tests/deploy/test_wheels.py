"""The wheels for other machines: asked for in our version, downloaded with consent, kept whole."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import sys
import types
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.devices.arm import ARM
from tests.devices.serving import skip
from tests.hostile import EXAMPLES, damaged
from torchopt2edge.deploy import wheels
from torchopt2edge.errors import DeviceError, StoreError
from torchopt2edge.store import cache_root

NUMBER = version("onnxruntime")
LIBRARY = "onnxruntime/capi/libonnxruntime.so.9"


@pytest.fixture(autouse=True)
def bare_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was downloaded yet, and pip has no index."""
    monkeypatch.setenv("TORCHOPT2EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def make_wheel(folder: Path, body: bytes = b"\x7fELF", digest: bytes | None = None) -> Path:
    """Write a wheel of ONNX Runtime for arm64 that holds a library and its digest."""
    folder.mkdir(exist_ok=True)
    file = folder / f"onnxruntime-{NUMBER}-py3-none-manylinux_2_28_aarch64.whl"
    said = base64.urlsafe_b64encode(digest or hashlib.sha256(body).digest()).decode().rstrip("=")
    info = f"onnxruntime-{NUMBER}.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(LIBRARY, body)
        archive.writestr("onnxruntime/capi/other.so", b"")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-manylinux_2_28_aarch64"
        )
        archive.writestr(f"{info}/METADATA", f"Name: onnxruntime\nVersion: {NUMBER}\n")
        archive.writestr(
            f"{info}/RECORD", f"{LIBRARY},sha256={said},{len(body)}\n{info}/RECORD,,\n"
        )
    return file


def library(fetch: bool = True) -> Path:
    return wheels.library("onnxruntime", "capi/libonnxruntime.so*", "aarch64", fetch)


def test_nothing_is_downloaded_without_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(make_wheel(tmp_path / "links").parent))
    with pytest.raises(
        DeviceError, match=rf"onnxruntime=={NUMBER} for aarch64.*device\.fetch=true"
    ):
        library(fetch=False)
    assert not cache_root().exists()


def test_the_library_is_kept_under_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(tmp_path / "links", b"the library")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    # As where torch was imported: setuptools would warn of whoever looks for pip as a module.
    monkeypatch.setitem(sys.modules, "distutils", types.ModuleType("distutils"))
    found = library()
    assert found.read_bytes() == b"the library"
    assert found.name == "libonnxruntime.so.9"
    assert found.parent.name == hashlib.sha256(b"the library").hexdigest()[:16]
    kept = cache_root() / "wheels"
    assert [one.name for one in kept.iterdir()] == [f"onnxruntime-{NUMBER}-aarch64"]
    assert [one for one in kept.rglob("*") if one.is_file()] == [found]
    wheel.unlink()
    assert library(fetch=False) == found  # no consent is needed for what is here


def test_a_library_that_was_damaged_here_is_fetched_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(make_wheel(tmp_path / "links").parent))
    found = library()
    found.write_bytes(b"damaged")
    with pytest.raises(DeviceError, match="is not here yet"):
        library(fetch=False)
    assert library() == found
    assert found.read_bytes() == b"\x7fELF"


def test_a_wheel_that_lies_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path / "links", digest=hashlib.sha256(b"other").digest())
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with pytest.raises(DeviceError, match="another file than it says"):
        library()
    wheel.write_bytes(wheel.read_bytes()[:200])
    with pytest.raises(DeviceError, match=r"damaged|pip cannot download"):
        library()
    with zipfile.ZipFile(make_wheel(tmp_path / "links"), "w") as archive:
        archive.writestr(f"onnxruntime-{NUMBER}.dist-info/METADATA", "Name: onnxruntime\n")
    with pytest.raises(DeviceError, match=r"has no onnxruntime/capi|pip cannot download"):
        library()
    assert [one for one in (cache_root() / "wheels").rglob("*") if one.is_file()] == []


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_a_damaged_wheel_is_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("wheel")
    wheel = make_wheel(folder)
    wheel.write_bytes(data.draw(damaged(wheel.read_bytes(), (b"PK\1\2", b"PK\3\4", b"RECORD"))))
    with contextlib.suppress(DeviceError):
        found = wheels._extract(wheel, "onnxruntime/capi/libonnxruntime.so*", folder)
        assert found.parent.parent == folder


def test_what_pip_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DeviceError, match=rf"for aarch64: .*No matching.*onnxruntime=={NUMBER}"):
        library()
    with pytest.raises(DeviceError, match=r"no_such is not installed|no-such is not installed"):
        wheels.library("no_such", "lib.so", "aarch64", True)


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(make_wheel(tmp_path / "links").parent))
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StoreError, match="cannot be kept"):
        library()


def test_platforms_are_tried_the_newest_first() -> None:
    found = wheels.Python("aarch64", (3, 11), (2, 31)).platforms
    assert found[0] == "manylinux_2_31_aarch64"
    assert found[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]
    assert len(found) == 16


@pytest.mark.parametrize("distribution", [*wheels.NEEDS])
def test_the_real_wheels_of_a_python_elsewhere(
    distribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (ARM / "complete").is_file() or sys.version_info[:2] != (3, 11):
        skip("there are no wheels for arm64 and Python 3.11")
    monkeypatch.setenv("PIP_FIND_LINKS", str(ARM / "wheels"))
    python = wheels.Python("aarch64", (3, 11), (2, 36))
    with pytest.raises(DeviceError, match=r"aarch64 and Python 3\.11 is not here yet"):
        wheels.wheels(distribution, python)
    found = wheels.wheels(distribution, python, fetch=True)
    names = {one.name.partition("-")[0] for one in found}
    assert names == {name.replace("-", "_") for name in wheels.NEEDS[distribution]}
    assert wheels.wheels(distribution, python) == found
    assert [one.name[:4] for one in (cache_root() / "wheels").iterdir()] == ["set-"]
