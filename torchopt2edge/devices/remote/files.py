"""What was brought to a device: the scripts that put a file there once, and what we know of it.

A file lies under its digest, in ``files`` of the device's folder. What this process saw there is
remembered, so that each file is looked for once in a run and not once per candidate.
"""

from __future__ import annotations

import functools
import hashlib
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from torchopt2edge.errors import DeviceError

_MOST = 64  # of the files used last that the start of a job looks for
SHA256 = r"""
digest() { # of a file; nothing where the device has no program for it
  if command -v sha256sum >/dev/null; then sha256sum <"$1"
  elif command -v openssl >/dev/null; then openssl dgst -sha256 -r <"$1"; fi | cut -c1-64
}
"""

Identity = tuple[str, int, int, int, int]


@dataclass
class Known:
    """What this process knows of one device: files → their paths there.

    A file is known by its identity here, and by its digest with its name.
    ``whole`` are the Pythons there, each with the runtime that it lacks nothing of. ``answers``
    tells whether the device did when it was last spoken to.
    """

    files: dict[Identity, str] = field(default_factory=dict)
    machine: bytes = b""
    whole: set[tuple[str, str]] = field(default_factory=set)
    answers: bool = False

    def use(self, identity: Identity) -> str | None:
        """Return a file's path there, None when it is not known, and count it as used last."""
        found = self.files.pop(identity, None)
        return None if found is None else self.files.setdefault(identity, found)

    @property
    def last(self) -> list[str]:
        """The paths there of the files that were used last."""
        return [*dict.fromkeys(reversed(self.files.values()))][:_MOST]

    def forget(self) -> None:
        """Look anew."""
        self.files.clear()
        self.machine = b""
        self.whole.clear()


@functools.cache
def known(place: tuple[str, ...]) -> Known:
    """Return what this process knows of the device at that place: its name, its folder."""
    return Known()


def identity(file: Path) -> Identity:
    """Return what changes when a file does, without reading it.

    Raises:
        DeviceError: there is none.
    """
    try:
        found = file.stat()
    except OSError as error:
        raise unreadable(file, error) from error
    return str(file.resolve()), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def digest(file: Path) -> tuple[str, int]:
    """Return a file's sha256 and its size in bytes.

    Raises:
        DeviceError: it cannot be read.
    """
    try:
        with file.open("rb") as body:
            found = hashlib.file_digest(body, "sha256").hexdigest()
            return found, body.tell()
    except OSError as error:
        raise unreadable(file, error) from error


def unreadable(file: Path, error: OSError) -> DeviceError:
    """Return the error for a file here that cannot be read."""
    return DeviceError(f"it cannot be read: {error.strerror or error}", artifact=file)


def look(place: str, name: str) -> str:
    """Return the script that prints a folder's full path and what the file in it is.

    Its digest (which reads it into the page cache as well), its size where the device has no
    program for digests, ``none`` where it is not there.
    """
    file = shlex.quote(f"./{name}")
    return f"""{SHA256}
umask 077
mkdir -p {shlex.quote(place)} && cd {shlex.quote(place)} || exit 1
pwd
if [ ! -f {file} ]; then [ -w . ] || {{ echo read-only >&2; exit 1; }}; echo none; exit 0; fi
found=$(digest {file})
echo "${{found:-size $(wc -c <{file})}}"
"""


def keep(part: str, target: str, digest: str, size: int, mode: str) -> str:
    """Return the script that gives a pushed file its name, once it is whole."""
    part, target = shlex.quote(part), shlex.quote(target)
    return f"""{SHA256}
if [ ! -e {part} ] && [ -e {target} ]; then exit 0; fi # done before the link broke
found=$(digest {part})
if [ "$(wc -c <{part})" -ne {size} ] || [ "${{found:-{digest}}}" != {digest} ]; then
  rm -f {part}
  exit 1
fi
chmod {mode} {part} && mv -f {part} {target}
"""
