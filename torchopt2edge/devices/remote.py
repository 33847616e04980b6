"""What every remote device does over its link: say what it is, take files, start jobs.

On the device there is one folder, ``workdir``: ``files`` holds what was pushed, by digest, for
the next run; ``jobs`` holds what runs (`mailbox`) and is empty when nothing does.
"""

from __future__ import annotations

import os
import shlex
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from torchopt2edge.devices import cores as core
from torchopt2edge.devices import mailbox, parcel, program, pushed, recorded
from torchopt2edge.devices.job import RemoteJob
from torchopt2edge.devices.talk import Talk
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
_BUSY = r"""
cd /
for file in proc/loadavg proc/stat sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor; do
  if [ -r "$file" ]; then printf '\036%s\n' "$file"; cat "$file" 2>/dev/null; fi
done
"""  # what of `recorded.SCRIPT` changes while we work


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A machine at the other end of a `Transport`; a device of a kind is a subclass with a link.

    ``threads`` per session, on the cores in ``affinity`` (None: the system's), or all of the class
    ``cores`` (`cores.NAMES`). ``runner`` is
    ``python``, with the interpreter ``python`` there, or ``native``. ``workdir`` is relative to
    the home folder there unless it begins with ``/``. A link that broke is tried again for
    ``link_patience_s`` seconds; a job that hears nothing from us for ``patience_s`` seconds ends.
    With ``fetch`` what the runner needs there and this machine has not is downloaded here, once;
    ``sysroot`` is a folder here with a glibc for it. With ``ndk``, the folder of an Android NDK,
    the native runner is built for Android itself, and ``libraries`` are the runtimes' for it.

    Raises (when used, not when built):
        DeviceError: the device refuses us, or has not what is asked for.
        LinkDown: it cannot be reached.
    """

    threads: int = 1
    affinity: tuple[int, ...] | None = None
    cores: str | None = None
    runner: str = "python"
    python: str = "python3"
    workdir: str = ".cache/torchopt2edge"
    patience_s: float = 600.0
    link_patience_s: float = 60.0
    native_tools: Mapping[str, str | None] = field(default_factory=dict, hash=False)
    fetch: bool = False
    sysroot: str | None = None
    ndk: str | None = None
    libraries: Mapping[str, str | None] = field(default_factory=dict, hash=False)

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
        known = self._known.machine
        said = known + self.run(_BUSY).stdout if known else self._said
        affinity = None if self.affinity is None else list(self.affinity)
        return {
            **recorded.machine(said),
            "device_threads": self.threads,
            "device_affinity": affinity,
            "device_cores": self.cores,
        }

    def machine(self) -> Facts:
        """Say what of `facts` stays as it is: the device is asked once per process."""
        return recorded.machine(self._said)

    @property
    def _said(self) -> bytes:
        found = self._known
        found.machine = found.machine or self.run(recorded.SCRIPT).stdout
        return found.machine

    @property
    def pinned(self) -> tuple[int, ...] | None:
        """The cores that a job there is kept on; None: the system's choice."""
        if self.cores is None:
            return self.affinity
        return core.choose(self.machine()["core_classes"], self.cores, self.name)

    def push(self, file: Path) -> str:
        """Bring a file there, unless its bytes are there already, and return its path there.

        A file that was seen there by this process is not looked for again.

        Raises:
            DeviceError: it cannot be read here, or it cannot be written whole there.
        """
        identity, found = pushed.identity(file), self._known
        return found.use(identity) or found.files.setdefault(identity, self._bring(file))

    def _bring(self, file: Path) -> str:
        digest, size = pushed.digest(file)
        place = f"{self.folder}/files/{digest[:16]}"
        found = self.run(pushed.look(place, file.name))
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
        kept = self.run(pushed.keep(part, target, digest, size, mode))
        if kept.code:
            raise DeviceError(
                f"what arrived on {self.name} is not what was sent: {kept.said or 'it is shorter'}",
                artifact=file,
                mend="free some space there, or device.workdir=FOLDER",
            )
        return target

    def push_all(self, files: Mapping[str, Path]) -> str:
        """Bring files there side by side, and return their folder's path there (`parcel`).

        Files that were seen there by this process are not looked for again.

        Raises:
            DeviceError: one cannot be read here, they cannot be written whole there, or no
                program may run there.
        """
        identity, found = parcel.identity(files), self._known
        return found.use(identity) or found.files.setdefault(identity, parcel.bring(self, files))

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
        pinned = self.pinned
        tools = () if pinned is None else ("taskset",)
        if pinned is not None:
            words = ["taskset", f"{sum(1 << one for one in set(pinned)):x}", *words]
        jobs, job = f"{self.folder}/jobs", f"{RUN}/{uuid.uuid4().hex[:12]}"
        folder = shlex.quote(f"{jobs}/{job}")
        needs = (argv[0], *tools)
        script = mailbox.start(
            shlex.quote(jobs),
            job,
            words,
            self.environment(),
            mailbox.limits(self.patience_s),
            needs,
            self._known.last,
        )
        talk = Talk(self, folder, self.patience_s)
        found = talk.start(script) or self.run(script)
        if found.code:
            self.run(mailbox.close(folder))
            raise self._unstarted(found, argv[0])
        return RemoteJob(self, folder, log, self.patience_s, talk)

    def execute(self, argv: Sequence[str], timeout_s: float) -> Finished:
        """Run a plain program there to its end, or to its time limit; once, as it must be alone.

        Raises:
            LinkDown: the link broke under it.
        """
        self._check()
        limits = (self.pinned, self.folder, timeout_s)
        script = program.script(argv, self.environment(), *limits)
        return self.run(script, timeout_s=timeout_s + 30.0, patience_s=0.0)

    def environment(self) -> str:
        """Return the whole environment of a child, as quoted words for ``env``."""
        kept = [f'${{{name}:+"{name}=${name}"}}' for name in _KEPT]
        pools = [f"{name}_NUM_THREADS={self.threads}" for name in _POOLS]
        ours = ["ORT_DISABLE_TELEMETRY=1", "PYTHONHASHSEED=0", "PYTHONUTF8=1", "PYTHONSAFEPATH=1"]
        return " ".join([*kept, *pools, *ours, '"TMPDIR=$PWD/tmp"'])

    def clean(self) -> None:
        """Remove all that we ever brought there, but for the folders of jobs that run."""
        self._known.forget()
        folder = shlex.quote(self.folder)
        self.run(f"cd {folder} || exit 0; rm -rf files; rmdir jobs; cd; rmdir {folder}")

    @property
    def place(self) -> tuple[str, ...]:
        """What tells it, and the folder on it, from any other."""
        return (self.name, self.folder)

    @property
    def _known(self) -> pushed.Known:
        return pushed.known(self.place)

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
        program.check_tools(self.native_tools)
        core.check(self.cores, self.affinity, self.name)
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
        if found.code == mailbox.NO_FILE:
            self._known.forget()
            return DeviceError(
                f"{found.said} is no more on {self.name}: it was removed while we worked",
                mend="run it again: it is sent anew",
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
