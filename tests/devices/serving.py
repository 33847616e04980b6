"""Real servers for the tests: an sshd and an adbd of our own, and a network to cut."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

PROVIDE = "tests/devices/provide.sh"
ADB = Path("/opt/torchopt2edge-adb")  # where provide.sh unpacks it
_TOOLS = ADB / "usr/lib/android-sdk/platform-tools"
_LIBRARIES = ":".join(
    f"{ADB}/{place}"
    for place in (
        "usr/lib/x86_64-linux-gnu/android",
        "usr/lib/x86_64-linux-gnu",
        "lib/x86_64-linux-gnu",
    )
)
_WAIT_S = 30.0


def skip(what: str) -> None:
    """Skip, with the command that would have brought what is missing."""
    pytest.skip(f"{what}; as root: {PROVIDE}")


def sh(*words: object, check: bool = True) -> str:
    """Run a program here and return what it said."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"{words}: {done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Network:
    """A namespace behind a pair of virtual cables; ``near`` is our end, ``address`` theirs."""

    name: str
    near: str
    address: str

    @property
    def inside(self) -> list[str]:
        """What runs a command in there."""
        return ["ip", "netns", "exec", self.name]

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Pull the cable for as long as the block runs."""
        sh("ip", "link", "set", self.near, "down")
        try:
            yield
        finally:
            sh("ip", "link", "set", self.near, "up")


@contextlib.contextmanager
def network(number: int) -> Iterator[Network]:
    """Make a namespace of our own, and remove it afterwards."""
    if os.getuid() or not shutil.which("ip"):
        skip("a network namespace takes root and ip")
    tag = f"t2e{os.getpid() % 100000}{number}"
    net = Network(tag, f"{tag}a", f"10.2{10 + number}.{os.getpid() % 250}.2")
    near = net.address[:-1] + "1"
    if subprocess.run(["ip", "netns", "add", tag], capture_output=True).returncode:
        skip("this machine makes no network namespaces")
    try:
        sh("ip", "link", "add", net.near, "type", "veth", "peer", "name", f"{tag}b")
        sh("ip", "link", "set", f"{tag}b", "netns", tag)
        sh("ip", "addr", "add", f"{near}/24", "dev", net.near)
        sh("ip", "link", "set", net.near, "up")
        for words in (
            ("ip", "addr", "add", f"{net.address}/24", "dev", f"{tag}b"),
            ("ip", "link", "set", f"{tag}b", "up"),
            ("ip", "link", "set", "lo", "up"),
        ):
            sh(*net.inside, *words)
        yield net
    finally:
        sh("ip", "link", "del", net.near, check=False)
        sh("ip", "netns", "del", tag, check=False)


@dataclass(frozen=True)
class Server:
    """A running sshd; ``config`` is the client's, in which ``board`` is its name."""

    folder: Path
    config: Path
    address: str
    port: int
    process: subprocess.Popen[bytes]

    def config_with(self, file: Path, **settings: object) -> str:
        """Write another client's configuration, with some settings in place of these."""
        base = dict(line.strip().split(" ", 1) for line in self.config.read_text().splitlines())
        base |= {key: str(value) for key, value in settings.items()}
        file.write_text("".join(f"{key} {value}\n" for key, value in base.items()))
        return str(file)

    def connections(self) -> list[psutil.Process]:
        """The processes that serve a client each."""
        return psutil.Process(self.process.pid).children(recursive=False)


@contextlib.contextmanager
def sshd(folder: Path, address: str, inside: Sequence[str] = ()) -> Iterator[Server]:
    """Run an sshd with keys of its own until the block ends; nothing of it outlives that."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).is_file() or not shutil.which("ssh"):
        skip("there is no sshd")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    folder.mkdir(parents=True)
    port = free_port()
    for name in ("host", "id", "other"):
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
    (folder / "authorized").write_bytes((folder / "id.pub").read_bytes())
    key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known").write_text(f"[{address}]:{port} {key}\n")
    (folder / "sshd_config").write_text(f"""Port {port}
ListenAddress {address}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
MaxStartups 100
""")
    config = folder / "config"
    config.write_text(f"""Host board
HostName {address}
Port {port}
User {getpass.getuser()}
IdentityFile {folder}/id
IdentitiesOnly yes
UserKnownHostsFile {folder}/known
GlobalKnownHostsFile none
StrictHostKeyChecking yes
""")
    command = [*inside, program, "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, start_new_session=True)
    try:
        wait_for_port(address, port, process)
        yield Server(folder, config, address, port, process)
    finally:
        end(process)


@contextlib.contextmanager
def adbd(folder: Path, net: Network, port: int | None = None) -> Iterator[str]:
    """Run a real adbd inside a namespace (it asks nobody who they are); yields its serial.

    ``folder/bin/adb`` is the client, with a server of its own at ``port`` (None: any) that ends
    with the block.
    """
    client = adb_program(folder, port or free_port())
    environment = {**os.environ, "ADBD_PORT": "5555", "LD_LIBRARY_PATH": _LIBRARIES}
    command = [*net.inside, str(_TOOLS / "adbd")]
    with (folder / "adbd.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for_port(net.address, 5555, process)
        yield connected(client, f"{net.address}:5555")
    finally:
        sh(client, "kill-server", check=False)
        end(process)


def adb_program(folder: Path, port: int) -> Path:
    """Write ``bin/adb`` there, a client whose server at ``port`` is nobody else's."""
    if not (ADB / "complete").is_file():
        skip("there is no adbd")
    client = folder / "bin/adb"
    client.parent.mkdir(parents=True)
    client.write_text(f"""#!/bin/sh
export ANDROID_ADB_SERVER_PORT={port} HOME={folder} LD_LIBRARY_PATH={_LIBRARIES}
exec {_TOOLS}/adb "$@"
""")
    client.chmod(0o755)
    return client


def connected(client: Path, serial: str) -> str:
    """Connect a client to a device of the network, and return its serial once it can be used."""
    sh(client, "connect", serial)
    deadline = time.monotonic() + _WAIT_S
    while "device" not in sh(client, "-s", serial, "get-state", check=False):
        assert time.monotonic() < deadline, "adb does not see the device"
        time.sleep(0.1)
    return serial


@contextlib.contextmanager
def stopped(port: int) -> Iterator[None]:
    """Let the adb server at a port hang for as long as the block runs."""
    (server,) = [
        one
        for one in psutil.process_iter(["cmdline"])
        if {f"tcp:{port}", "fork-server"} <= set(one.info["cmdline"] or [])
    ]
    server.suspend()
    try:
        yield
    finally:
        server.resume()


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(address: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server listens."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection((address, port), 1.0):
            return
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not listen"
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server and all that it started."""
    family = [*psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    process.wait()
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def supervisors(folder: Path) -> list[psutil.Process]:
    """Return the processes that work in a device's folder, or were started from it."""
    found = []
    for one in psutil.process_iter(["cwd", "cmdline"]):
        place = f"{one.info['cwd']} {' '.join(one.info['cmdline'] or [])}"
        if str(folder) in place and one.pid != os.getpid() and one.is_running():
            found.append(one)
    return found


def kill_all(folder: Path) -> None:
    """Kill whatever works in a device's folder at once, with its group, as a power cut would.

    One that ends between the look and the blow is as gone as the others.
    """
    for one in supervisors(folder):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(os.getpgid(one.pid), signal.SIGKILL)


def all_gone(folder: Path, within_s: float) -> bool:
    """Whether no process is left in a device's folder, and no job either."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not supervisors(folder) and not [*folder.glob("jobs/*/*")]:
            return True
        time.sleep(0.1)
    return False
