"""What every remote device does over its link: say what it is, take files, start jobs.

On the device there is one folder, ``workdir``: ``files`` holds what was pushed, by digest, for
the next run; ``jobs`` holds what runs (`mailbox`) and is empty when nothing does.
"""

from __future__ import annotations

import hashlib
import math
import os
import shlex
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torchopt2edge.devices import mailbox, recorded
from torchopt2edge.devices.job import RemoteJob
from torchopt2edge.devices.transport import Finished, LinkDown, Transport
from torchopt2edge.errors import DeviceError
from torchopt2edge.types import Facts

T = TypeVar("T")

RUN = uuid.uuid4().hex[:12]
"""The folder of this process's jobs; a sign of life to one is a sign of life to all."""

_POOLS = ("OMP", "MKL", "OPENBLAS", "BLIS", "NUMEXPR", "VECLIB")
_KEPT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TZ", "USER")
_FIRST_CONTACT_S = 5.0  # how long a host that nobody answers at may be asked
_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_SHA256 = r"""
digest() { # of a file; nothing where the device has no program for it
  if command -v sha256sum >/dev/null; then sha256sum <"$1"
  elif command -v openssl >/dev/null; then openssl dgst -sha256 -r <"$1"; fi | cut -c1-64
}
"""


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A machine at the other end of a `Transport`; a device of a kind is a subclass with a link.

    ``threads`` per session, on the cores in ``affinity`` (None: the system's). ``runner`` is
    ``python``, with the interpreter ``python`` there, or ``native``. ``workdir`` is relative to
    the home folder there unless it begins with ``/``. A link that broke is tried again for
    ``link_patience_s`` seconds; a job that hears nothing from us for ``patience_s`` seconds ends.

    Raises (when used, not when built):
        DeviceError: the device refuses us, or has not what is asked for.
        LinkDown: it cannot be reached.
    """

    threads: int = 1
    affinity: tuple[int, ...] | None = None
    runner: str = "python"
    python: str = "python3"
    workdir: str = ".cache/torchopt2edge"
    patience_s: float = 600.0
    link_patience_s: float = 60.0

    @property
    def name(self) -> str:
        """The word in the rows' ``device``."""
        raise NotImplementedError

    @property
    def link(self) -> Transport:
        """The link to it."""
        raise NotImplementedError

    def facts(self) -> Facts:
        """Say what the machine is and how busy it is now, in one round trip."""
        self._check()
        found = self.run(recorded.SCRIPT)
        affinity = None if self.affinity is None else list(self.affinity)
        return {
            **recorded.machine(found.stdout),
            "device_threads": self.threads,
            "device_affinity": affinity,
        }

    def push(self, file: Path) -> str:
        """Bring a file there, unless its bytes are there already, and return its path there.

        Raises:
            DeviceError: it cannot be read here, or it cannot be written whole there.
        """
        digest, size = _digest(file)
        place = f"{self.folder}/files/{digest[:16]}"
        found = self.run(_look(place, file.name))
        if found.code:
            raise self._unwritable(found, place)
        root, there = found.stdout.decode().rstrip("\n").rsplit("\n", 1)
        target = f"{root}/{file.name}"
        if there in (digest, f"size {size}"):
            return target
        part = f"{root}/.{uuid.uuid4().hex[:8]}.part"
        try:
            self.retry(lambda: self.link.push(file, part))
        except DeviceError as error:
            said = self.run(f"rm -f {shlex.quote(part)}; df {shlex.quote(root)} | tail -n 1")
            free = said.stdout.decode(errors="replace").strip()
            raise DeviceError(
                f"{error.what} (df: {free})",
                artifact=file,
                mend=error.mend or "free some space there, or device.workdir=FOLDER",
            ) from error
        mode = "755" if os.access(file, os.X_OK) else "644"
        kept = self.run(_keep(part, target, digest, size, mode))
        if kept.code:
            raise DeviceError(
                f"what arrived on {self.name} is not what was sent: {kept.said or 'it is shorter'}",
                artifact=file,
                mend="free some space there, or device.workdir=FOLDER",
            )
        return target

    def pull(self, source: str, file: Path) -> None:
        """Copy a file from there to ``file``."""
        self.retry(lambda: self.link.pull(source, file))

    def start(self, argv: Sequence[str], log: Path) -> RemoteJob:
        """Start a process there that survives a broken link; its stderr goes to ``log``.

        Raises:
            DeviceError: the program, or what starts it, is not there.
        """
        self._check()
        # An environment variable in place of -P, which a Python before 3.11 does not know.
        words = [word for word in argv if word != "-P"] if argv[0] == self.python else [*argv]
        tools = () if self.affinity is None else ("taskset",)
        if self.affinity is not None:
            words = ["taskset", f"{sum(1 << core for core in set(self.affinity)):x}", *words]
        tick = max(1, min(5, int(self.patience_s / 6)))
        limits = (tick, math.ceil(self.patience_s / tick))
        jobs, job = f"{self.folder}/jobs", f"{RUN}/{uuid.uuid4().hex[:12]}"
        folder = shlex.quote(f"{jobs}/{job}")
        needs = (argv[0], *tools)
        script = mailbox.start(shlex.quote(jobs), job, words, self.environment(), limits, needs)
        found = self.run(script, mailbox.MAILBOX.encode())
        if found.code:
            self.run(mailbox.close(folder))
            raise self._unstarted(found, argv[0])
        wait_s = max(1, min(20, int(self.patience_s / 3)))
        return RemoteJob(self, folder, log, wait_s)

    def environment(self) -> str:
        """Return the whole environment of a child, as quoted words for ``env``."""
        kept = [f'${{{name}:+"{name}=${name}"}}' for name in _KEPT]
        pools = [f"{name}_NUM_THREADS={self.threads}" for name in _POOLS]
        ours = ["ORT_DISABLE_TELEMETRY=1", "PYTHONHASHSEED=0", "PYTHONUTF8=1", "PYTHONSAFEPATH=1"]
        return " ".join([*kept, *pools, *ours, '"TMPDIR=$PWD/tmp"'])

    def clean(self) -> None:
        """Remove all that we ever brought there, but for the folders of jobs that run."""
        folder = shlex.quote(self.folder)
        self.run(f"cd {folder} || exit 0; rm -rf files; rmdir jobs; cd; rmdir {folder}")

    @property
    def folder(self) -> str:
        """``workdir`` as the device takes it: a command there begins in the home folder."""
        return self.workdir.removeprefix("~/").rstrip("/") or "/"

    def run(
        self,
        script: str,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
        patience_s: float | None = None,
    ) -> Finished:
        """Run a script there, again when the link breaks: it must bear running twice."""
        return self.retry(lambda: self.link.run(script, stdin, timeout_s), patience_s)

    def retry(self, act: Callable[[], T], patience_s: float | None = None) -> T:
        """Do something over the link until it holds, for ``patience_s`` seconds at most.

        None is the device's ``link_patience_s``.

        Raises:
            LinkDown: it did not hold in that time, or nobody answers there at all.
        """
        most = self.link_patience_s if patience_s is None else patience_s
        begin, pause = time.monotonic(), _PAUSE_S
        while True:
            try:
                return act()
            except LinkDown as error:
                limit = min(_FIRST_CONTACT_S, most) if error.absent else most
                if time.monotonic() - begin + pause > limit:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            self.link.recover()

    def _check(self) -> None:
        if self.threads < 1:
            raise DeviceError(
                f"a session cannot have {self.threads} threads", mend="device.threads=1"
            )
        if self.runner not in ("python", "native"):
            raise DeviceError(f"there is no runner {self.runner!r}", mend="python or native")
        if self.affinity is not None and (not self.affinity or min(self.affinity) < 0):
            raise DeviceError(
                f"{list(self.affinity)} names no cores", mend="device.affinity=[0,1], or null"
            )
        if self.patience_s < 3 or self.patience_s <= self.link_patience_s:
            raise DeviceError(
                "a job must wait longer for us than we try to reach it, and 3 s at least",
                mend=f"device.patience_s={max(10.0, 10 * self.link_patience_s):g}",
            )

    def _unwritable(self, found: Finished, place: str) -> DeviceError:
        return DeviceError(
            f"the folder cannot be written on {self.name}: {found.said}",
            artifact=place,
            mend="device.workdir=FOLDER, one that can be written and holds programs",
        )

    def _unstarted(self, found: Finished, program: str) -> DeviceError:
        if found.code == mailbox.NO_TOOL and found.said != program:
            return DeviceError(
                f"{self.name} has no {found.said}",
                mend="device.affinity=null, or apt-get install util-linux there"
                if found.said == "taskset"
                else "apt-get install util-linux there",
            )
        if found.code in (mailbox.NO_PROGRAM, mailbox.NO_TOOL):
            return DeviceError(
                f"{self.name} has no program {program}, or may not run it",
                mend=f"device.python=PATH of a Python there; runner={self.runner}"
                if self.runner == "python"
                else "device.workdir=FOLDER, one that programs may run in",
            )
        if found.code == mailbox.NO_FOLDER:
            return self._unwritable(found, f"{self.folder}/jobs")
        return DeviceError(
            f"the job cannot be started on {self.name}: status {found.code} {found.said}".rstrip(),
            mend=f"see that {self.folder} has room there, and device.workdir=FOLDER otherwise",
        )


def _digest(file: Path) -> tuple[str, int]:
    try:
        with file.open("rb") as body:
            digest = hashlib.file_digest(body, "sha256").hexdigest()
            return digest, body.tell()
    except OSError as error:
        raise DeviceError(f"it cannot be read: {error.strerror or error}", artifact=file) from error


def _look(place: str, name: str) -> str:
    """Return the script that prints a folder's full path and what the file in it is.

    Its digest (which reads it into the page cache as well), its size where the device has no
    program for digests, ``none`` where it is not there.
    """
    file = shlex.quote(f"./{name}")
    return f"""{_SHA256}
umask 077
mkdir -p {shlex.quote(place)} && cd {shlex.quote(place)} || exit 1
pwd
if [ ! -f {file} ]; then [ -w . ] || {{ echo read-only >&2; exit 1; }}; echo none; exit 0; fi
found=$(digest {file})
echo "${{found:-size $(wc -c <{file})}}"
"""


def _keep(part: str, target: str, digest: str, size: int, mode: str) -> str:
    """Return the script that gives a pushed file its name, once it is whole."""
    part, target = shlex.quote(part), shlex.quote(target)
    return f"""{_SHA256}
if [ ! -e {part} ] && [ -e {target} ]; then exit 0; fi # done before the link broke
found=$(digest {part})
if [ "$(wc -c <{part})" -ne {size} ] || [ "${{found:-{digest}}}" != {digest} ]; then
  rm -f {part}
  exit 1
fi
chmod {mode} {part} && mv -f {part} {target}
"""
