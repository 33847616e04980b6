"""What is brought to each kind of machine to run a candidate, and that it runs there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from tests.bench.conftest import MakeNet
from tests.devices.serving import sshd
from tests.devices.shells import Shell
from torchopt2edge.bench.child_session import open_child
from torchopt2edge.deploy import glibc, native_build
from torchopt2edge.deploy.launch import launch
from torchopt2edge.deploy.runner_zip import runner_file
from torchopt2edge.devices.local import Local
from torchopt2edge.devices.ssh import Ssh
from torchopt2edge.errors import DeviceError
from torchopt2edge.types import Candidate, Facts

here = pytest.mark.skipif(
    not glibc.TARGETS["x86_64"].is_here, reason="needs an x86-64 machine with a glibc"
)


@dataclass(frozen=True)
class Told(Shell):
    """A device that tells other facts of itself than are true."""

    told: Facts = field(default_factory=dict, hash=False)

    def facts(self) -> Facts:
        """Say what was to be told, too."""
        return {**super().facts(), **self.told}

    def machine(self) -> Facts:
        """Say the same of what stays."""
        return {**super().machine(), **self.told}


@dataclass(frozen=True)
class Far(Ssh):
    """A machine behind a real ssh that says it has no glibc."""

    def facts(self) -> Facts:
        """Say so."""
        return {**super().facts(), "libc": "musl"}

    def machine(self) -> Facts:
        """Say so here as well."""
        return {**super().machine(), "libc": "musl"}


def test_this_machine_runs_what_is_built_and_installed_here(net: MakeNet) -> None:
    device = Local(runner="native")
    found = launch(net("a"), device)
    assert found.argv == [str(native_build.runner_binary())]
    assert found.library == str(native_build.library("ort").resolve())
    found = launch(net("a"), Local())
    assert found.argv == [device.python, "-P", str(runner_file())]
    assert found.library is None


@here
def test_a_machine_with_a_glibc_gets_a_program_and_a_library(
    tflite: Candidate, tmp_path: Path
) -> None:
    device = Shell(root=tmp_path, runner="native")
    found = launch(tflite, device)
    (program,) = found.argv
    assert Path(program).read_bytes() == native_build.runner_binary().read_bytes()
    assert Path(str(found.library)).read_bytes() == native_build.library("litert").read_bytes()
    sent = device.cuts.sent
    assert launch(tflite, device) == found
    device.known.forget()
    assert launch(tflite, device) == found
    assert device.cuts.sent == sent


@here
@pytest.mark.parametrize("runtime", ["ort", "litert"])
def test_a_machine_without_a_glibc_gets_one(
    runtime: str, net: MakeNet, tflite: Candidate, sample: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Over a real ssh, and what it computes is what this machine computes."""
    candidate = net("a", depth=2) if runtime == "ort" else tflite
    with open_child(candidate, Local(runner="native"), tmp_path / "log") as session:
        wanted = session(sample)
    with sshd(tmp_path / "board", "127.0.0.1") as server:
        work = tmp_path / "it's there"
        device = Far("board", config=str(server.config), workdir=str(work), runner="native")
        with open_child(candidate, device, tmp_path / "log") as session:
            found = session(sample)
            assert session.receipt["runtime_version"] != "unavailable"
        names = {one.name for one in work.rglob("*") if one.is_file()}
        assert {"t2e-runner", "libc.so.6", "ld-linux-x86-64.so.2"} <= names
        device.link.recover()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_machine_of_32_bits_is_refused(net: MakeNet, tmp_path: Path) -> None:
    device = Told(root=tmp_path, runner="native", told={"arch": "armv7l", "bits": 32})
    with pytest.raises(DeviceError, match=r"'armv7l'.*a system of 64 bits"):
        launch(net("a"), device)
    assert device.cuts.sent == 0


def test_another_processor_takes_consent(
    net: MakeNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHOPT2EDGE_CACHE", str(tmp_path / "cache"))
    device = Told(root=tmp_path, runner="native", told={"arch": "aarch64", "libc": "none"})
    if glibc.TARGETS["aarch64"].is_here:
        pytest.skip("this machine is of that kind")
    with pytest.raises(DeviceError, match=r"onnxruntime==.* for aarch64.*device\.fetch=true"):
        launch(net("a"), device)
    assert device.cuts.sent == 0


@here
def test_a_sysroot_that_holds_no_glibc_is_named(net: MakeNet, tmp_path: Path) -> None:
    device = Told(root=tmp_path, runner="native", told={"libc": "musl"})
    with pytest.raises(DeviceError, match=r"holds no glibc for x86_64.*nowhere"):
        launch(net("a"), replace(device, sysroot=str(tmp_path / "nowhere")))


def test_a_small_shell_tells_the_c_library(tmp_path: Path) -> None:
    """The facts that a kit is chosen by, as the smallest of shells tells them."""
    if not shutil.which("busybox"):
        pytest.skip("there is no busybox; as root: tests/devices/provide.sh")
    facts = Shell(kind="busybox", root=tmp_path).facts()
    assert facts["bits"] == 64
    assert glibc.version_of(facts) > (2, 17)
