"""What the tests of devices share: tiny files to run, and servers that run for one module.

Not for the whole session: other modules hold that no child of ours is alive after a test.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.conftest import brief as brief
from tests.bench.conftest import net as net
from tests.bench.conftest import sample as sample
from tests.bench.conftest import tflite as tflite
from tests.devices.serving import Network, Server, adbd, network, sh, skip, sshd


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this test run's own."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack the runner there."""
    monkeypatch.setenv("TORCHOPT2EDGE_CACHE", str(cache))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder of one megabyte in which nothing may be executed."""
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m,noexec", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(words, capture_output=True).returncode:
        skip("a small file system takes root")
    yield folder
    sh("umount", "-l", folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An sshd on the loopback."""
    with sshd(tmp_path_factory.mktemp("ssh") / "board", "127.0.0.1") as found:
        yield found


@pytest.fixture(scope="module")
def cable() -> Iterator[Network]:
    """A network that can be cut."""
    with network(1) as found:
        yield found


@pytest.fixture(scope="module")
def far_server(tmp_path_factory: pytest.TempPathFactory, cable: Network) -> Iterator[Server]:
    """An sshd at the other end of that network."""
    with sshd(tmp_path_factory.mktemp("far") / "board", cable.address, cable.inside) as found:
        yield found


@pytest.fixture(scope="module")
def phone_cable() -> Iterator[Network]:
    """The network of the phone."""
    with network(2) as found:
        yield found


@pytest.fixture(scope="module")
def phone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the phone's server and our client lie."""
    return tmp_path_factory.mktemp("adb") / "phone"


@pytest.fixture(scope="module")
def phone_serial(phone_folder: Path, phone_cable: Network) -> Iterator[str]:
    """The serial of a real adbd."""
    with adbd(phone_folder, phone_cable) as serial:
        yield serial


@pytest.fixture
def phone(phone_serial: str, phone_folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The serial, with the client that knows it on the PATH."""
    monkeypatch.setenv("PATH", str(phone_folder / "bin"), prepend=":")
    return phone_serial
