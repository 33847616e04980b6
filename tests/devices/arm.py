"""Machines of another kind: an arm64 board behind a real sshd, a phone behind a real adbd.

Each is a root that `provide.sh` made, seen through an overlay in memory, in a network, mounts and
processes of its own. What is written there, and every process, is gone with the block that
started it, and with the process of the tests when that is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.devices.serving import (
    Network,
    Server,
    adb_program,
    connected,
    end,
    free_port,
    sh,
    skip,
    sshd,
    wait_for_port,
)

ARM = Path("/opt/torchopt2edge-arm")  # where provide.sh unpacks the roots
CORES = {
    "cortex-a53": ("cortex-a53", "rpi4"),
    "cortex-a72": ("cortex-a72", "rpi4"),
    "cortex-a76": ("cortex-a76", "rpi5"),
    # All that it knows but SME: with that, qemu 7.2 (Debian 12's) has every int8 .tflite answer
    # nonsense (5 dB); qemu 10 has not.
    "max": ("max,sme=off", "rpi5"),
}
"""A core → what qemu calls it, and whose /proc/cpuinfo goes with it: runtimes believe both."""

_TIED = ("setpriv", "--pdeathsig", "KILL")  # what runs behind it dies with us
_ROOT = "/srv/root"  # in the machine's own mounts: nothing is mounted outside
_MOUNT = r"""
set -e
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/upper /srv/work /srv/root
mount -t overlay -o "lowerdir=$1,upperdir=/srv/upper,workdir=/srv/work" overlay /srv/root
mount -t proc proc /srv/root/proc
mount --bind "$2" /srv/root/proc/cpuinfo
mount -t tmpfs -o mode=755 tmpfs /srv/root/dev
cd /srv/root/dev
for node in null zero random urandom tty; do : >$node; mount --bind /dev/$node $node; done
mkdir pts
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts pts
ln -s pts/ptmx ptmx
cd /
shift 2
"""
_BOARD = 'cpu=$1; shift; exec "$@" -o ChrootDirectory=/srv/root -o "SetEnv QEMU_CPU=$cpu PATH=$P"'
_PATH = "P=/usr/local/bin:/usr/bin:/bin"  # the board's own `env` comes first
# A shell stays there to reap what the daemon's jobs leave behind; adbd does not.
_PHONE = """
env -i PATH=/system/bin HOME=/ TMPDIR=/data/local/tmp ANDROID_ROOT=/system ANDROID_DATA=/data \
  ADBD_PORT=5555 /usr/sbin/chroot --userspec=2000:2000 --groups=1004,1007,1011 \
  /srv/root /system/bin/adbd &
wait
"""


@dataclass(frozen=True)
class Machine:
    """A machine that runs: what is in it, seen from here."""

    process: subprocess.Popen[bytes]

    @property
    def root(self) -> Path:
        """Its root folder; what is written there is seen there at once."""
        return Path(f"/proc/{self.process.pid}/root{_ROOT}")

    def processes(self, about: str) -> list[psutil.Process]:
        """Its processes that work in a folder there, or were started with its name."""
        own = os.readlink(f"/proc/{self.process.pid}/ns/pid_for_children")
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.readlink(f"/proc/{one.pid}/ns/pid") == own:
                    place = os.readlink(f"/proc/{one.pid}/cwd")
                    if about in f"{place} {' '.join(one.cmdline())}":
                        found.append(one)
        return found

    def is_idle(self, workdir: str, within_s: float) -> bool:
        """Whether no job is left in a device's folder there, neither a process nor a file."""
        deadline = time.monotonic() + within_s
        jobs = self.root / workdir.lstrip("/") / "jobs"
        while self.processes(workdir) or [*jobs.glob("*/*")]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


@dataclass(frozen=True)
class Board(Machine):
    """An arm64 board; ``server`` is its sshd."""

    server: Server


@dataclass(frozen=True)
class Handset(Machine):
    """A phone; ``serial`` is what adb calls it."""

    serial: str


@contextlib.contextmanager
def board(folder: Path, net: Network, core: str = "max") -> Iterator[Board]:
    """Run a board until the block ends; ``core``, of `CORES`, is what its jobs run on."""
    root = _root("board", "/bin/true")
    cpu, processor = CORES[core]
    inside = [*_alone(net, f"{_PATH}; {_BOARD}", root, processor), cpu]
    with sshd(folder, net.address, inside) as server:
        yield Board(server.process, server)


@contextlib.contextmanager
def handset(folder: Path, net: Network, client: Path) -> Iterator[Handset]:
    """Run a phone until the block ends, connected to an adb client."""
    command = _alone(net, _PHONE, _root("phone", "/system/bin/true"), "phone")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "adbd.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    serial = f"{net.address}:5555"
    try:
        wait_for_port(net.address, 5555, process)
        yield Handset(process, connected(client, serial))
    finally:
        sh(client, "disconnect", serial, check=False)
        end(process)


@contextlib.contextmanager
def adb_client(folder: Path) -> Iterator[Path]:
    """Write a client with a server of its own, which ends with the block; yields ``bin/adb``."""
    if not shutil.which(_TIED[0]):
        skip(f"there is no {_TIED[0]}")
    port = free_port()
    client = adb_program(folder, port)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*_TIED, str(client), "server", "nodaemon"],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for_port("127.0.0.1", port, process)
        yield client
    finally:
        end(process)


def _root(name: str, program: str) -> Path:
    """Return a root whose programs run here; skips where there is none."""
    root = ARM / name
    if not (ARM / "complete").is_file() or not all(map(shutil.which, ("unshare", "setpriv"))):
        skip(f"there is no arm64 {name}")
    if subprocess.run(["chroot", root, program], capture_output=True).returncode:
        skip("this machine runs no arm64 programs")
    return root


def _alone(net: Network, script: str, root: Path, processor: str) -> list[str]:
    """Return what runs a script beside a root of its own, and all of it dies with us.

    Skips where such mounts cannot be made.
    """
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]
    given = ["sh", str(root), str(ARM / "cpuinfo" / processor)]
    tried = subprocess.run([*alone, "sh", "-c", _MOUNT, *given], capture_output=True, text=True)
    if tried.returncode:
        skip(f"this machine mounts no root of its own ({tried.stderr.strip()})")
    return [*_TIED, *net.inside, *alone, "sh", "-c", _MOUNT + script, *given]
