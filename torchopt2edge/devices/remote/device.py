"""What every remote device does over its link: say what it is, take files, start jobs.

On the device there is one folder, ``workdir``: ``files`` holds what was pushed, by digest, for
the next run; ``jobs`` holds what runs (`job_scripts`) and is empty when nothing does.
"""

from __future__ import annotations

import logging
import os
import shlex
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from torchopt2edge.devices import core_classes as core
from torchopt2edge.devices.remote import command as remote_command
from torchopt2edge.devices.remote import errors as remote_errors
from torchopt2edge.devices.remote import facts as remote_facts
from torchopt2edge.devices.remote import files as remote_files
from torchopt2edge.devices.remote import job_scripts, parcel
from torchopt2edge.devices.remote.job import RemoteJob
from torchopt2edge.devices.remote.stream_client import Talk
from torchopt2edge.devices.remote.transport import Finished, LinkDown, Transport
from torchopt2edge.errors import DeviceError
from torchopt2edge.types import Facts

T = TypeVar("T")

RUN = uuid.uuid4().hex[:12]
"""The folder of this process's jobs; a sign of life to one is a sign of life to all."""

_POOLS = ("OMP", "MKL", "OPENBLAS", "BLIS", "NUMEXPR", "VECLIB")
_KEPT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TZ", "USER")
_FIRST_CONTACT_S = 5.0  # how long one may be asked that never answered, or was given up
_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_SILENCE_S = 2.0  # after which whoever watches is told why nothing goes on
_LOG = logging.getLogger("torchopt2edge")


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A machine at the other end of a `Transport`; a device of a kind is a subclass with a link.

    ``threads`` per session, on the cores in ``affinity`` (None: the system's), or all of the class
    ``cores`` (`core_classes.NAMES`). ``runner`` is
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
        """Say what the machine is and how busy it is now, in one round trip.

        How busy one is that answered before, and does not now, is "unavailable".
        """
        self._check()
        affinity = None if self.affinity is None else list(self.affinity)
        return {
            **self._now(),
            "device_threads": self.threads,
            "device_affinity": affinity,
            "device_cores": self.cores,
        }

    def _now(self) -> Facts:
        known, ask = self._known, remote_facts.others(shlex.quote(f"{self.folder}/jobs"), RUN)
        try:
            said = self.run(
                ask + (remote_facts.BUSY if known.machine else remote_facts.SCRIPT)
            ).stdout
        except LinkDown:
            if not known.machine:
                raise
            # What was measured until now is worth more than this.
            return remote_facts.machine(known.machine) | remote_facts.UNTOLD
        known.machine = known.machine or said
        others = remote_facts.count(said)
        if others:
            _LOG.warning("another run measures on %s now: each disturbs the other", self.name)
        return remote_facts.machine(known.machine + said) | {"other_jobs": others}

    def machine(self) -> Facts:
        """Say what of `facts` stays as it is: the device is asked once per process."""
        return remote_facts.machine(self._said)

    @property
    def _said(self) -> bytes:
        found = self._known
        found.machine = found.machine or self.run(remote_facts.SCRIPT).stdout
        return found.machine

    @property
    def pinned(self) -> tuple[int, ...] | None:
        """The cores that a job there is kept on; None: the system's choice."""
        if self.affinity is not None:
            return core.those(self.affinity, self.machine()["core_classes"], self.name)
        if self.cores is None:
            return None
        return core.choose(self.machine()["core_classes"], self.cores, self.name)

    def push(self, file: Path) -> str:
        """Bring a file there, unless its bytes are there already, and return its path there.

        A file that was seen there by this process is not looked for again.

        Raises:
            DeviceError: it cannot be read here, or it cannot be written whole there.
        """
        identity, found = remote_files.identity(file), self._known
        return found.use(identity) or found.files.setdefault(identity, self._seen(file))

    def _seen(self, file: Path) -> str:
        """Return the path there of a file whose bytes may have come by another file of ours."""
        digest, size = remote_files.digest(file)
        alike, found = (f"{digest}/{file.name}", 0, size, 0, 0), self._known
        return found.use(alike) or found.files.setdefault(alike, self._bring(file, digest, size))

    def _bring(self, file: Path, digest: str, size: int) -> str:
        place = f"{self.folder}/files/{digest[:16]}"
        found = self.run(remote_files.look(place, file.name))
        if found.code:
            raise remote_errors.unwritable(self.name, place, found)
        root, there = found.stdout.decode().rstrip("\n").rsplit("\n", 1)
        target = f"{root}/{file.name}"
        if there in (digest, f"size {size}"):
            return target
        part = f"{root}/.{uuid.uuid4().hex[:8]}.part"
        try:
            self.retry(lambda: self.link.push(file, part))
        except DeviceError as error:
            free = self.run(f"rm -f {shlex.quote(part)}; df {shlex.quote(root)} | tail -n 1")
            raise remote_errors.unpushed(error, file, free) from error
        mode = "755" if os.access(file, os.X_OK) else "644"
        kept = self.run(remote_files.keep(part, target, digest, size, mode))
        if kept.code:
            raise remote_errors.cut_short(self.name, file, kept)
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
        pin = core.pin(self.pinned)
        jobs, job = f"{self.folder}/jobs", f"{RUN}/{uuid.uuid4().hex[:12]}"
        folder = shlex.quote(f"{jobs}/{job}")
        needs = (argv[0], *pin[:1])
        script = job_scripts.start(
            shlex.quote(jobs),
            job,
            [*pin, *words],
            self.environment(),
            job_scripts.limits(self.patience_s),
            needs,
            self._known.last,
        )
        talk = Talk(self, folder, self.patience_s)
        found = talk.start(script) or self.run(script)
        if found.code:
            self.run(job_scripts.close(folder))
            if found.code == job_scripts.NO_FILE:
                self._known.forget()
            raise remote_errors.unstarted(self.name, self.folder, found, argv[0], self.runner)
        return RemoteJob(self, folder, log, self.patience_s, talk)

    def execute(self, argv: Sequence[str], timeout_s: float) -> Finished:
        """Run a plain program there to its end, or to its time limit; once, as it must be alone.

        Raises:
            LinkDown: the link broke under it.
        """
        self._check()
        limits = (self.pinned, self.folder, timeout_s)
        script = remote_command.script(argv, self.environment(), *limits)
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
    def answers(self) -> bool:
        """Whether it did when it was last spoken to."""
        return self._known.answers

    @property
    def _known(self) -> remote_files.Known:
        return remote_files.known(self.place)

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
        begin, pause, told = time.monotonic(), _PAUSE_S, False
        while True:
            try:
                found = act()
            except LinkDown as error:
                brief = error.absent and not self._known.answers
                limit = min(_FIRST_CONTACT_S, most) if brief else most
                passed = time.monotonic() - begin
                if passed + pause > limit:
                    self._known.answers = False
                    raise
                if passed >= _SILENCE_S and not told:
                    told = True
                    _LOG.warning("%s; it is tried again for %.0f s", error.what, limit - passed)
            else:
                self._known.answers = True
                if told:
                    _LOG.warning("%s answers again", self.name)
                return found
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            self.link.recover()

    def _check(self) -> None:
        remote_command.check(self.runner, self.native_tools)
        core.check(self.threads, self.cores, self.affinity, self.name)
        if self.affinity is not None and (not self.affinity or min(self.affinity) < 0):
            raise DeviceError(
                f"{list(self.affinity)} names no cores", hint="device.affinity=[0,1], or null"
            )
        if self.patience_s < 3 or self.patience_s <= self.link_patience_s:
            raise DeviceError(
                "a job must wait longer for us than we try to reach it, and 3 s at least",
                hint=f"device.patience_s={max(10.0, 10 * self.link_patience_s):g}",
            )
