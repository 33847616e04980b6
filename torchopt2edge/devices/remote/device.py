"""What every remote device does over its link: say what it is, take files, start jobs.

On the device there is one folder, ``workdir``: ``files`` holds what was pushed, by digest, for
the next run; ``jobs`` holds what runs (`job_scripts`) and is empty when nothing does.
"""

from __future__ import annotations

import logging
import shlex
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from torchopt2edge.devices import core_classes as core
from torchopt2edge.devices.remote import command as remote_command
from torchopt2edge.devices.remote import errors as remote_errors
from torchopt2edge.devices.remote import facts as remote_facts
from torchopt2edge.devices.remote import files as remote_files
from torchopt2edge.devices.remote import job_scripts
from torchopt2edge.devices.remote.files import Known, Memory
from torchopt2edge.devices.remote.job import RemoteJob
from torchopt2edge.devices.remote.stream_client import StreamClient
from torchopt2edge.devices.remote.transport import Finished, LinkDown, Transport
from torchopt2edge.errors import DeviceError
from torchopt2edge.types import Facts

T = TypeVar("T")

RUN = uuid.uuid4().hex[:12]
"""The folder of this process's jobs; a sign of life to one is a sign of life to all."""

_FIRST_CONTACT_S = 5.0  # how long one may be asked that never answered, or was given up
_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_SILENCE_S = 2.0  # after which whoever watches is told why nothing goes on
_LOG = logging.getLogger("torchopt2edge")


@dataclass(frozen=True, kw_only=True)
class Remote(ABC):
    """A machine at the other end of a `Transport`; a device of a kind is a subclass with a link.

    ``threads`` per session, on the cores in ``affinity`` (None: the system's), or all of the class
    ``cores`` (`core_classes.NAMES`). ``runner`` is
    ``python``, with the interpreter ``python`` there, or ``native``. ``workdir`` is relative to
    the home folder there unless it begins with ``/``. A link that broke is tried again for
    ``link_patience_s`` seconds; a job that hears nothing from us for ``patience_s`` seconds ends.
    With ``fetch`` what the runner needs there and this machine has not is downloaded here, once;
    ``sysroot`` is a folder here with a glibc for it. With ``ndk``, the folder of an Android NDK,
    the native runner is built for Android itself, and ``libraries`` are the runtimes' for it.
    ``memory`` is no setting: what was seen there, which copies of the device share.

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
    memory: Memory = field(
        default_factory=Memory, compare=False, repr=False, metadata={"identity": False}
    )

    @property
    def place(self) -> tuple[str, ...]:
        """Which machine this is, and which folder of it."""
        return self.name, self.folder

    @property
    def known(self) -> Known:
        """What this run knows of the device."""
        return self.memory.of(self.place)

    @property
    @abstractmethod
    def name(self) -> str:
        """The word in the rows' ``device``."""

    @property
    @abstractmethod
    def link(self) -> Transport:
        """The link to it."""

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
        known, ask = self.known, remote_facts.others(shlex.quote(f"{self.folder}/jobs"), RUN)
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
        known = self.known
        known.machine = known.machine or self.run(remote_facts.SCRIPT).stdout
        return remote_facts.machine(known.machine)

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

        A file that was seen there in this run is not looked for again.

        Raises:
            DeviceError: it cannot be read here, or it cannot be written whole there.
        """
        return f"{remote_files.bring(self, {file.name: file})}/{file.name}"

    def push_all(self, files: Mapping[str, Path]) -> str:
        """Bring a program there with what lies beside it, and return their folder's path there.

        ``files`` maps a name in that folder to a file here (`files`).

        Raises:
            DeviceError: one cannot be read here, they cannot be written whole there, or no
                program may run there.
        """
        return remote_files.bring(self, files, runs=True)

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
        folder = f"{jobs}/{job}"
        needs = (argv[0], *pin[:1])
        script = job_scripts.start(
            shlex.quote(jobs),
            job,
            [*pin, *words],
            remote_command.environment(self.threads),
            job_scripts.limits(self.patience_s),
            needs,
            self.known.last,
        )
        client = StreamClient(self, folder, self.patience_s)
        found = client.start(script)
        if found.code:
            self.run(job_scripts.close(shlex.quote(folder)))
            if found.code == job_scripts.NO_FILE:
                self.known.forget()
            raise remote_errors.unstarted(self.name, self.folder, found, argv[0], self.runner)
        return RemoteJob(self, client, self.patience_s, log)

    def execute(self, argv: Sequence[str], timeout_s: float) -> Finished:
        """Run a plain program there to its end, or to its time limit; once, as it must be alone.

        Raises:
            LinkDown: the link broke under it.
        """
        self._check()
        limits = (self.pinned, self.folder, timeout_s)
        script = remote_command.script(argv, remote_command.environment(self.threads), *limits)
        return self.run(script, timeout_s=timeout_s + 30.0, patience_s=0.0)

    def clean(self) -> None:
        """Remove all that we ever brought there, but for the folders of jobs that run."""
        self.known.forget()
        folder = shlex.quote(self.folder)
        self.run(f"cd {folder} || exit 0; rm -rf files; rmdir jobs; cd; rmdir {folder}")

    @property
    def answers(self) -> bool:
        """Whether it did when it was last spoken to."""
        return self.known.answers

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
                brief = error.absent and not self.known.answers
                limit = min(_FIRST_CONTACT_S, most) if brief else most
                passed = time.monotonic() - begin
                if passed + pause > limit:
                    self.known.answers = False
                    raise
                if passed >= _SILENCE_S and not told:
                    told = True
                    _LOG.warning("%s; it is tried again for %.0f s", error.what, limit - passed)
            else:
                self.known.answers = True
                if told:
                    _LOG.warning("%s answers again", self.name)
                return found
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            self.link.recover()

    def _check(self) -> None:
        if not isinstance(self.memory, Memory):
            raise DeviceError("memory is no setting", hint="leave device.memory out")
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
