"""Files on a device: brought once under their digest, and looked for once in a run.

Files that belong together (a program and the libraries that it is started with) lie side by side in
a folder, under their own names; a single file is a folder of one. The folder is named after the
digest of all of it, so that a second run brings nothing.

One look (a command), one transfer and one check bring a folder. A file goes as it is. Of
several one follows the other, and they are cut there by ``tail`` and ``head``, for a device without
Python may have no ``tar`` either; programs and libraries are packed by gzip where it has gunzip.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shlex
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torchopt2edge.devices.answers import place_and_state
from torchopt2edge.devices.remote import errors as remote_errors
from torchopt2edge.devices.remote.transport import Finished, Machine
from torchopt2edge.errors import DeviceError

_MOST = 64  # of the files used last that the start of a job looks for
_LEVEL = 1  # the others save the link a fifteenth and cost the host a second
_LOOK, _NOEXEC = 70, 71  # exit statuses of the scripts
_WRONG = r"""
digest() { # of a file; nothing where the device has no program for it
  if command -v sha256sum >/dev/null; then sha256sum <"$1"
  elif command -v openssl >/dev/null; then openssl dgst -sha256 -r <"$1"; fi | cut -c1-64
}
wrong() { # FILE DIGEST SIZE: whether the file is another, or none
  [ -f "$1" ] || return 0
  found=$(digest "$1")
  [ "$(wc -c <"$1")" -ne "$3" ] || [ "${found:-$2}" != "$2" ]
}
"""


@dataclass
class Known:
    """What a run knows of one device (`remote.Remote.known`).

    ``folders`` are those that were seen there, each with its files, by what names them here: the
    files' identity, and their digest. ``machine`` is what it said of itself; ``whole`` are the
    Pythons there, each with the runtime that it lacks nothing of. ``answers`` tells whether the
    device did when it was last spoken to.
    """

    folders: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    machine: bytes = b""
    whole: set[tuple[str, str]] = field(default_factory=set)
    answers: bool = False

    def use(self, key: str) -> str | None:
        """Return a folder's path there, None when it is not known, and count it as used last."""
        found = self.folders.pop(key, None)
        return None if found is None else self.folders.setdefault(key, found)[0]

    def add(self, key: str, root: str, names: Sequence[str]) -> str:
        """Remember a folder there and its files; return its path."""
        return self.folders.setdefault(key, (root, tuple(f"{root}/{one}" for one in names)))[0]

    @property
    def last(self) -> list[str]:
        """The paths there of the files that were used last."""
        every = (file for _, files in reversed(self.folders.values()) for file in files)
        return [*dict.fromkeys(every)][:_MOST]

    def forget(self) -> None:
        """Look anew."""
        self.folders.clear()


@dataclass
class Memory:
    """What a run knows of devices; a device and its copies share one.

    Each place, a device and a folder there, has its own: a copy with another host, serial or
    folder knows nothing of this one.
    """

    places: dict[tuple[str, ...], Known] = field(default_factory=dict)

    def of(self, place: tuple[str, ...]) -> Known:
        """Return what is known of a place, which may be nothing yet."""
        return self.places.setdefault(place, Known())
        self.machine = b""
        self.whole.clear()


class Holder(Machine, Protocol):
    """What this needs of a device: `remote.Remote` has it."""

    @property
    def folder(self) -> str:
        """Where on it all that is ours lies."""

    @property
    def known(self) -> Known:
        """What was seen there."""


@dataclass(frozen=True)
class Piece:
    """A file on its way: its name there (``lib/libc.so.6``), its digest, size and mode."""

    name: str
    file: Path
    digest: str
    size: int
    mode: str

    @property
    def path(self) -> str:
        """Its path in its folder, quoted for a shell."""
        return shlex.quote(f"./{self.name}")


def bring(device: Holder, files: Mapping[str, Path], runs: bool = False) -> str:
    """Bring files there, unless they are there already, and return the path of their folder there.

    ``files`` maps a name in that folder, which may have folders of its own, to a file here. With
    ``runs`` those that may be executed here are started there.

    Raises:
        DeviceError: one cannot be read here, they cannot be written whole there, or no program
            may run in that folder.
    """
    identity, known = _identity(files), device.known
    found = known.use(identity)
    if found is not None:
        return found
    pieces = _pieces(files)
    place = _place(pieces)
    root = known.use(place) or known.add(place, _brought(device, pieces, place, runs), [*files])
    return known.add(identity, root, [*files])


def place_of(files: Mapping[str, Path]) -> str:
    """Return the name of the folder in which these files lie on any device.

    Raises:
        DeviceError: one cannot be read.
    """
    return _place(_pieces(files))


def _identity(files: Mapping[str, Path]) -> str:
    """Return what changes when a name or a file does, without reading the files."""
    said = []
    for name, file in sorted(files.items()):
        try:
            found = file.stat()
        except OSError as error:
            raise _unreadable(file, error) from error
        stamps = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        said.append((name, str(file.resolve()), *stamps))
    return hashlib.sha256(repr(said).encode()).hexdigest()


def _pieces(files: Mapping[str, Path]) -> list[Piece]:
    return [_piece(name, file) for name, file in sorted(files.items())]


def _piece(name: str, file: Path) -> Piece:
    if name.startswith("/") or {"", ".", ".."} & set(name.split("/")):
        raise DeviceError(f"{name!r} is no name for a file in a folder", artifact=file)
    try:
        with file.open("rb") as body:
            digest, size = hashlib.file_digest(body, "sha256").hexdigest(), body.tell()
    except OSError as error:
        raise _unreadable(file, error) from error
    return Piece(name, file, digest, size, "755" if os.access(file, os.X_OK) else "644")


def _unreadable(file: Path, error: OSError) -> DeviceError:
    return DeviceError(f"it cannot be read: {error.strerror or error}", artifact=file)


def _place(pieces: Sequence[Piece]) -> str:
    said = repr([(one.name, one.digest, one.mode) for one in pieces])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _brought(device: Holder, pieces: list[Piece], name: str, runs: bool) -> str:
    """Look whether the folder is there and whole, and bring it where it is not."""
    place = f"{device.folder}/files/{name}"
    found = device.run(_look(place, pieces, runs))
    if found.code not in (0, _LOOK, _NOEXEC):
        raise remote_errors.unwritable(device.name, place, found)
    root, unpacks = place_and_state(found.stdout)
    if found.code == _LOOK:
        found = _transfer(device, root, pieces, runs and unpacks == "gunzip", runs)
    if found.code == _NOEXEC:
        raise DeviceError(
            f"no program may run in that folder on {device.name}: it is mounted noexec",
            artifact=root,
            hint="device.workdir=FOLDER, one that programs may run in",
        )
    if found.code:
        raise remote_errors.cut_short(
            device.name, pieces[0].file if len(pieces) == 1 else root, found
        )
    return root


def _transfer(device: Holder, root: str, pieces: list[Piece], packed: bool, runs: bool) -> Finished:
    """Send what is missing in one file, and make the folder of it there."""
    part = f"{root}.{uuid.uuid4().hex[:8]}.part"
    with _whole(pieces, packed) as whole:
        try:
            device.retry(lambda: device.link.push(whole, part))
        except DeviceError as error:
            parent = shlex.quote(root.rpartition("/")[0])
            free = device.run(f"rm -f {shlex.quote(part)}; df {parent} | tail -n 1")
            raise remote_errors.unpushed(
                error, whole if len(pieces) == 1 else root, free
            ) from error
    return device.run(_unpack(root, part, pieces, packed, runs))


@contextmanager
def _whole(pieces: list[Piece], packed: bool) -> Iterator[Path]:
    """Give all files as one, which is the file itself where there is one alone."""
    if len(pieces) == 1 and not packed:
        yield pieces[0].file
        return
    with tempfile.TemporaryDirectory(prefix="t2e-") as scratch:
        whole = Path(scratch) / "whole"
        try:
            with gzip.open(whole, "wb", _LEVEL) if packed else whole.open("wb") as out:
                for one in pieces:
                    with one.file.open("rb") as body:
                        shutil.copyfileobj(body, out, 1 << 20)
        except OSError as error:
            raise DeviceError(
                f"the files cannot be packed: {error.strerror or error}", artifact=whole
            ) from error
        yield whole


def _check(pieces: list[Piece], otherwise: str, runs: bool) -> str:
    """Return the test that every file there is the one that is meant, and may run if it is to."""
    found = [f"if wrong {one.path} {one.digest} {one.size}; then {otherwise}; fi" for one in pieces]
    if runs:  # the mode says so, and the mount does too
        found += [f"[ -x {one.path} ] || exit {_NOEXEC}" for one in pieces if one.mode == "755"]
    return "\n".join(found)


def _look(place: str, pieces: list[Piece], runs: bool) -> str:
    """Return the script that prints the folder's full path, and how it can unpack.

    It ends with `_LOOK` where something is missing. To look reads each file into the page cache.
    """
    parent, _, name = place.rpartition("/")
    return f"""{_WRONG}
umask 077
mkdir -p {shlex.quote(parent)} && cd {shlex.quote(parent)} || exit 1
printf '%s/%s\\n' "$PWD" {name}
if command -v gunzip >/dev/null; then echo gunzip; else echo none; fi
if [ ! -d {name} ]; then [ -w . ] || {{ echo read-only >&2; exit 1; }}; exit {_LOOK}; fi
cd {name} || exit 1
{_check(pieces, f"exit {_LOOK}", runs)}
"""


def _unpack(root: str, part: str, pieces: list[Piece], packed: bool, runs: bool) -> str:
    """Return the script that makes the folder of what was sent, once it is whole."""
    folders = sorted({shlex.quote(f"./{one.name}".rpartition("/")[0]) for one in pieces})
    name = shlex.quote(root.rpartition("/")[2])
    unpack = 'all=$PWD/$$.all; gunzip -c <"$part" >"$all"' if packed else "all=$part"
    return f"""{_WRONG}
umask 077
part={shlex.quote(part)}
cd {shlex.quote(root.rpartition("/")[0])} || exit 1
if [ ! -e "$part" ]; then # done before the link broke
  cd {name} || exit 1
  {_check(pieces, "exit 1", runs)}
  exit 0
fi
trap 'cd "$files" && rm -rf $$.all $$.new "$part"' EXIT
files=$PWD
rm -rf $$.new
mkdir $$.new && {{ {unpack}; }} || exit 1
cd $$.new || exit 1
mkdir -p {" ".join(folders)} || exit 1
{_cut(pieces)}
{_check(pieces, "exit 1", runs)}
cd "$files" || exit 1
rm -rf {name}
mv $$.new {name} && rm -rf {name}/$$.new # it is in there where another was quicker
"""


def _cut(pieces: list[Piece]) -> str:
    """Return what makes the files of all of them as one; a single one is renamed."""
    if len(pieces) == 1:
        (one,) = pieces
        return f'mv "$all" {one.path} && chmod {one.mode} {one.path} || exit 1'
    cuts, begin = [], 1
    for one in pieces:
        cuts.append(f'tail -c +{begin} "$all" | head -c {one.size} >{one.path} || exit 1')
        cuts.append(f"chmod {one.mode} {one.path}")
        begin += one.size
    return "\n".join(cuts)
