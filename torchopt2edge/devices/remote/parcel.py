"""Many files for a device as one: one look, one transfer, one check, and then a folder there.

A program and the libraries that it is started with must lie side by side under their own names.
The folder is kept under the digest of all of it, like a single file (`device.Remote.push`), so
that a second run brings nothing.

The transfer is the files one after the other, packed by gzip where the device can unpack it, and
cut there by ``tail`` and ``head``: a device without Python may have no ``tar`` either.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shlex
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torchopt2edge.devices.remote import errors as remote_errors
from torchopt2edge.devices.remote import files as remote_files
from torchopt2edge.devices.remote.transport import Finished, Machine
from torchopt2edge.errors import DeviceError

_LEVEL = 1  # the others save the link a fifteenth and cost the host a second
_LOOK, _NOEXEC = 70, 71  # exit statuses of the scripts
_WRONG = rf"""{remote_files.SHA256}
wrong() {{ # FILE DIGEST SIZE: whether the file is another, or none
  [ -f "$1" ] || return 0
  found=$(digest "$1")
  [ "$(wc -c <"$1")" -ne "$3" ] || [ "${{found:-$2}}" != "$2" ]
}}
"""


class Holder(Machine, Protocol):
    """What this needs of a device: `device.Remote` has it."""

    @property
    def folder(self) -> str:
        """Where on it all that is ours lies."""


@dataclass(frozen=True)
class Piece:
    """A file on its way: its name there (``lib/libc.so.6``), its digest, size and mode."""

    name: str
    file: Path
    digest: str
    size: int
    mode: str


def identity(files: Mapping[str, Path]) -> remote_files.Identity:
    """Return what changes when a name or a file does, without reading the files."""
    said = repr([(name, remote_files.identity(file)) for name, file in sorted(files.items())])
    return hashlib.sha256(said.encode()).hexdigest(), len(files), 0, 0, 0


def bring(device: Holder, files: Mapping[str, Path]) -> str:
    """Bring files there, unless they are there already, and return the path of their folder there.

    ``files`` maps a name in that folder, which may have folders of its own, to a file here.

    Raises:
        DeviceError: one cannot be read here, they cannot be written whole there, or no program
            may run in that folder.
    """
    pieces = [_piece(name, file) for name, file in sorted(files.items())]
    said = "\n".join(f"{one.name} {one.digest} {one.mode}" for one in pieces)
    place = f"{device.folder}/files/{hashlib.sha256(said.encode()).hexdigest()[:16]}"
    found = device.run(_look(place, pieces))
    if found.code not in (0, _LOOK, _NOEXEC):
        raise remote_errors.unwritable(device.name, place, found)
    root, unpacks = found.stdout.decode().rstrip("\n").rsplit("\n", 1)
    if found.code == _LOOK:
        found = _transfer(device, root, pieces, unpacks == "gunzip")
    if found.code == _NOEXEC:
        raise DeviceError(
            f"no program may run in that folder on {device.name}: it is mounted noexec",
            artifact=root,
            hint="device.workdir=FOLDER, one that programs may run in",
        )
    if found.code:
        raise remote_errors.cut_short(device.name, root, found)
    return root


def _transfer(device: Holder, root: str, pieces: list[Piece], packed: bool) -> Finished:
    """Send all that is missing in one file, and unpack it there."""
    part = f"{root}.{uuid.uuid4().hex[:8]}.part"
    with tempfile.TemporaryDirectory(prefix="t2e-") as scratch:
        whole = Path(scratch) / "whole"
        _pack(pieces, whole, packed)
        try:
            device.retry(lambda: device.link.push(whole, part))
        except DeviceError as error:
            parent = shlex.quote(root.rpartition("/")[0])
            free = device.run(f"rm -f {shlex.quote(part)}; df {parent} | tail -n 1")
            raise remote_errors.unpushed(error, root, free) from error
    return device.run(_unpack(root, part, pieces, packed))


def _piece(name: str, file: Path) -> Piece:
    if name.startswith("/") or {"", ".", ".."} & set(name.split("/")) or "\n" in name:
        raise DeviceError(f"{name!r} is no name for a file in a folder", artifact=file)
    digest, size = remote_files.digest(file)
    return Piece(name, file, digest, size, "755" if os.access(file, os.X_OK) else "644")


def _pack(pieces: list[Piece], whole: Path, packed: bool) -> None:
    """Write the files one after the other; two of the same bytes are two."""
    try:
        with gzip.open(whole, "wb", _LEVEL) if packed else whole.open("wb") as out:
            for one in pieces:
                with one.file.open("rb") as body:
                    shutil.copyfileobj(body, out, 1 << 20)
    except OSError as error:
        raise DeviceError(
            f"the files cannot be packed: {error.strerror or error}", artifact=whole
        ) from error


def _runs(pieces: list[Piece]) -> str:
    """Return the test that a program may run there: the mode says so, and the mount does too."""
    programs = [shlex.quote(f"./{one.name}") for one in pieces if one.mode == "755"]
    return "\n".join(f"[ -x {one} ] || exit {_NOEXEC}" for one in programs)


def _check(pieces: list[Piece], otherwise: str) -> str:
    """Return the test that every file there is the one that is meant."""
    return "\n".join(
        f"if wrong {shlex.quote(f'./{one.name}')} {one.digest} {one.size}; then {otherwise}; fi"
        for one in pieces
    )


def _look(place: str, pieces: list[Piece]) -> str:
    """Return the script that prints the folder's full path, and how it can unpack.

    It ends with `_LOOK` where something is missing.
    """
    parent, _, name = place.rpartition("/")
    return f"""{_WRONG}
umask 077
mkdir -p {shlex.quote(parent)} && cd {shlex.quote(parent)} || exit 1
printf '%s/%s\\n' "$PWD" {name}
if command -v gunzip >/dev/null; then echo gunzip; else echo none; fi
if [ ! -d {name} ]; then [ -w . ] || {{ echo read-only >&2; exit 1; }}; exit {_LOOK}; fi
cd {name} || exit 1
{_check(pieces, f"exit {_LOOK}")}
{_runs(pieces)}
"""


def _unpack(root: str, part: str, pieces: list[Piece], packed: bool) -> str:
    """Return the script that makes the folder of what was sent, once it is whole."""
    cuts, begin, folders = [], 1, {"."}
    for one in pieces:
        target = shlex.quote(f"./{one.name}")
        folders.add(shlex.quote(f"./{one.name}".rpartition("/")[0]))
        cuts.append(f'tail -c +{begin} "$all" | head -c {one.size} >{target} || exit 1')
        cuts.append(f"chmod {one.mode} {target}")
        begin += one.size
    name = shlex.quote(root.rpartition("/")[2])
    unpack = 'all=$PWD/$$.all; gunzip -c <"$part" >"$all"' if packed else "all=$part"
    cut = "\n".join(cuts)
    return f"""{_WRONG}
umask 077
part={shlex.quote(part)}
cd {shlex.quote(root.rpartition("/")[0])} || exit 1
if [ ! -e "$part" ]; then # done before the link broke
  cd {name} || exit 1
  {_check(pieces, "exit 1")}
  exit 0
fi
trap 'cd "$files" && rm -rf $$.all $$.new "$part"' EXIT
files=$PWD
rm -rf $$.new
mkdir $$.new && {{ {unpack}; }} || exit 1
cd $$.new || exit 1
mkdir -p {" ".join(sorted(folders))} || exit 1
{cut}
{_check(pieces, "exit 1")}
{_runs(pieces)}
cd "$files" || exit 1
rm -rf {name}
mv $$.new {name} && rm -rf {name}/$$.new # it is in there where another was quicker
"""
