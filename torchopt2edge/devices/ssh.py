"""A machine reached by the OpenSSH client: whatever ``ssh HOST`` reaches from a terminal.

The user's configuration decides: ``~/.ssh/config``, agent, jump hosts, known hosts. Host keys are
checked as it says, and an unknown key is refused where it says nothing (nobody is there to ask).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from torchopt2edge.devices import answers
from torchopt2edge.devices.remote.device import Remote
from torchopt2edge.devices.remote.stream import Stream
from torchopt2edge.devices.remote.transport import (
    LARGEST_PULLED,
    Finished,
    LinkDown,
    call,
    patience_for,
    unwrap,
    wrap,
)
from torchopt2edge.errors import ConfigError, DeviceError

# A name of ~/.ssh/config, user@host, an address, or ssh://user@host:port. Nothing that a shell
# (a ProxyCommand with %h) or the client itself (a leading -) would read as more than a name.
_HOST = re.compile(r"(ssh://)?[A-Za-z0-9_\[][A-Za-z0-9_.@:\[\]%+-]*(?<!@)")
_LONGEST_SOCKET = 104 - 18  # sun_path of the narrowest system, less what ssh adds while it binds
_LOCAL_S = 5.0  # what the client does without the network
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "LogLevel": "ERROR",
}
# What the client says of itself → (what it means, what fixes it). The first three are final.
_REFUSED = {
    "HOST IDENTIFICATION HAS CHANGED": (
        "the host key of {host} is not the one that is known: another machine answers, or it was "
        "set up anew",
        "compare the key on its screen, then {forget} and {ssh}",
    ),
    "Host key verification failed": (
        "the host key of {host} is not known here",
        "{ssh}, compare the key, say yes",
    ),
    "Permission denied (": (
        "{host} lets us in with none of our keys",
        "{copy}, or ssh-add",
    ),
}
# What the client says to type. The other end may write there too: names alone, nothing of a shell.
_FORGET = re.compile(
    r"ssh-keygen -f (['\"]?)[\w./~@+-]{1,200}\1 -R (['\"]?)[\w.:\[\]@%+-]{1,200}\2"
)
_ABSENT = ("Could not resolve hostname", "Connection refused", "No route to host", "timed out")


@dataclass(frozen=True)
class SshLink:
    """One host over the OpenSSH client; ``config`` is given to it as ``-F``.

    The connection is kept open for a minute between commands where the client can (a control
    socket in a folder of our own); elsewhere each command makes its own.
    """

    host: str
    config: str | None = None

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Finished:
        """Run a POSIX sh script there, whatever the user's shell there is."""
        return self._judge(call(self._argv(wrap(script)), stdin, timeout_s))

    def open(self, script: str) -> Stream:
        """Start a POSIX sh script there that we talk to."""
        return Stream.start(self._argv(script))

    def push(self, file: Path, to: str) -> None:
        """Copy a file to that path there."""
        try:
            with file.open("rb") as body:
                limit = patience_for(file.stat().st_size)
                found = self._judge(call(self._argv(wrap(f"cat > {shlex.quote(to)}")), body, limit))
        except OSError as error:
            raise DeviceError(f"it cannot be read: {error.strerror}", artifact=file) from error
        if found.code:
            raise DeviceError(f"it cannot be written on {self.host}: {found.said}", artifact=to)

    def pull(self, source: str, file: Path) -> None:
        """Copy a file from there."""
        argv = self._argv(wrap(f"cat < {shlex.quote(source)}"))
        found = self._judge(call(argv, timeout_s=600.0, most=LARGEST_PULLED))
        if found.code:
            raise DeviceError(f"it cannot be read on {self.host}: {found.said}", artifact=source)
        try:
            file.write_bytes(found.stdout)
        except OSError as error:
            raise DeviceError(f"it cannot be written: {error.strerror}", artifact=file) from error

    def recover(self) -> None:
        """Give up the kept connection: a new one may go where the old one hangs."""
        with contextlib.suppress(DeviceError):
            call([*self._client(), "-O", "exit", "--", self.host], timeout_s=_LOCAL_S)

    def _argv(self, script: str) -> list[str]:
        if not _HOST.fullmatch(self.host):
            raise ConfigError(
                f"{self.host!r} is not the name of a host" if self.host else "no host is named",
                hint="device.host=pi, device.host=user@192.168.1.7 or a Host of ~/.ssh/config",
            )
        return [*self._client(), "--", self.host, f"exec sh -c {shlex.quote(script)}"]

    def _client(self) -> list[str]:
        options = {**_OPTIONS, **self._multiplexed()}
        chosen = [] if self.config is None else ["-F", self.config]
        return ["ssh", *chosen, "-T", *(f"-o{name}={value}" for name, value in options.items())]

    def _multiplexed(self) -> dict[str, str]:
        folder = _own_folder()
        of = hashlib.sha256(str(self.config).encode()).hexdigest()[:4]
        socket = "" if folder is None else f"{folder}/{of}-%C"
        if len(socket) - len("%C") + 40 > _LONGEST_SOCKET or not socket:
            return {"ControlMaster": "no", "ControlPath": "none"}
        return {"ControlMaster": "auto", "ControlPath": socket, "ControlPersist": "60"}

    def _judge(self, found: Finished) -> Finished:
        ended = unwrap(found)
        if ended is not None:
            return ended
        text = answers.shown(found.stderr, 2000)
        words = self._words(text)
        for sign, (what, hint) in _REFUSED.items():
            if sign in text:
                raise DeviceError(what.format(host=self.host), hint=hint.format(**words))
        self._check_configuration()
        if found.code != 255 and not text.strip():
            text = f"it ended with status {found.code}; its user has no POSIX shell there?"
        absent = any(sign in text for sign in _ABSENT)
        why = text.strip().removeprefix("ssh: ") or "the connection was closed"
        raise LinkDown(
            f"{self.host} cannot be reached: {why}"
            if absent
            else f"the link to {self.host} broke: {why}",
            hint=f"see that '{words['ssh']} true' works",
            absent=absent,
        )

    def _check_configuration(self) -> None:
        """Tell a configuration that the client cannot read, which stays so, from a broken link."""
        found = call([*self._client(), "-G", "--", self.host], timeout_s=_LOCAL_S)
        if found.code:
            said = answers.shown(found.stderr.strip().partition(b"\n")[0])
            raise DeviceError(
                f"ssh cannot read its configuration: {said}",
                artifact=self.config,
                hint=f"see that '{self._words('')['ssh']} true' works",
            )

    def _words(self, said: str) -> dict[str, str]:
        """Return what to type, each with the configuration that is ours."""
        to = self.host if self.config is None else f"-F {shlex.quote(self.config)} {self.host}"
        forget = _FORGET.search(said)  # where it says so itself: the key may be another name's
        return {
            "ssh": f"ssh {to}",
            "copy": f"ssh-copy-id {to}",
            "forget": forget[0] if forget else f"ssh-keygen -R {self.host}",
        }


@dataclass(frozen=True)
class Ssh(Remote):
    """A board or a machine at ``host``, a name as ``ssh`` takes it; ``config`` as its ``-F``.

    The other fields are those of `Remote`.
    """

    host: str = ""
    config: str | None = None

    @property
    def name(self) -> str:
        """The word in the rows' ``device``."""
        return f"ssh:{self.host}"

    @property
    def place(self) -> tuple[str, ...]:
        """Which machine this is, by the configuration that names it, and which folder of it."""
        return *super().place, str(self.config)

    @property
    def link(self) -> SshLink:
        """The link to it."""
        return SshLink(self.host, self.config)


def _own_folder() -> Path | None:
    """Return a folder that only we can enter; None where there is none to be had.

    The socket in it lets whoever can open it run commands over there.
    """
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    folder = Path(base) / f"torchopt2edge-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
    return folder if private and found.st_uid == os.getuid() else None
