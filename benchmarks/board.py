"""A board that is this machine: an sshd on the loopback, and a device that counts its commands."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from torchopt2edge.devices.remote.stream import Stream
from torchopt2edge.devices.remote.transport import Finished
from torchopt2edge.devices.ssh import Ssh, SshLink

_WAIT_S = 20.0


@dataclass
class Count:
    """What went over a link: runs of the client, by what for, and bytes of pushed files."""

    commands: dict[str, int] = field(default_factory=dict)
    pushed: int = 0

    def add(self, what: str) -> None:
        """Count one run of the client."""
        self.commands[what] = self.commands.get(what, 0) + 1

    @property
    def whole(self) -> int:
        """All of them."""
        return sum(self.commands.values())


@dataclass(frozen=True)
class CountedLink:
    """An ssh link that counts what goes over it."""

    link: SshLink
    count: Count

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Finished:
        """Run a script there."""
        self.count.add("run")
        return self.link.run(script, stdin, timeout_s)

    def open(self, script: str) -> Stream:
        """Start a script there that we talk to."""
        self.count.add("open")
        return self.link.open(script)

    def push(self, file: Path, to: str) -> None:
        """Copy a file there."""
        self.count.add("push")
        self.count.pushed += file.stat().st_size
        self.link.push(file, to)

    def pull(self, source: str, file: Path) -> None:
        """Copy a file from there."""
        self.count.add("pull")
        self.link.pull(source, file)

    def recover(self) -> None:
        """Give up the kept connection."""
        self.count.add("recover")
        self.link.recover()


@dataclass(frozen=True)
class Counted(Ssh):
    """A board over ssh whose commands are counted."""

    count: Count = field(default_factory=Count, compare=False)

    @property
    def link(self) -> CountedLink:  # type: ignore[override]
        """The counting link."""
        return CountedLink(SshLink(self.host, self.config), self.count)


@contextlib.contextmanager
def sshd(folder: Path) -> Iterator[tuple[Path, psutil.Process]]:
    """Serve the loopback until the block ends; yields the client's configuration and the server."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).is_file() or not shutil.which("ssh"):
        raise SystemExit("there is no sshd; as root: apt-get install openssh-server")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("host", "id"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known").write_text(f"[127.0.0.1]:{port} {key}\n")
    shutil.copyfile(folder / "id.pub", folder / "authorized")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized\nPasswordAuthentication no\nUsePAM no\n"
        "KbdInteractiveAuthentication no\nStrictModes no\nPermitRootLogin prohibit-password\n"
        "MaxStartups 100\n"
    )
    (folder / "config").write_text(
        f"Host board\nHostName 127.0.0.1\nPort {port}\nUser {getpass.getuser()}\n"
        f"IdentityFile {folder}/id\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known\n"
        "GlobalKnownHostsFile none\nStrictHostKeyChecking yes\n"
    )
    with (folder / "sshd.log").open("wb") as log:
        words = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
        process = subprocess.Popen(words, stderr=log, start_new_session=True)
    try:
        _wait_for(port)
        yield folder / "config", psutil.Process(process.pid)
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        for one in (process, *family):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _WAIT_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        if time.monotonic() > deadline:
            raise SystemExit("the sshd does not listen")
        time.sleep(0.05)
