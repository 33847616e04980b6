"""What a program or a library of 64 bits needs of others, read off its file.

A loader finds a library by the name in NEEDED, and each library says which versions of whose
interfaces it was linked against. Read here, a bundle that cannot start is known before it is sent.
The layout is that of the System V ABI and of the Linux Standard Base (symbol versioning).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torchopt2edge.errors import DeviceError

MACHINES: Mapping[str, int] = {"x86_64": 62, "aarch64": 183}
"""Architecture → e_machine."""

_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRINGS, _SONAME = 1, 5, 14
_OFFERS, _OFFER_COUNT, _WANTS, _WANT_COUNT = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
_GLIBC = re.compile(r"GLIBC_(\d{1,3})\.(\d{1,3})", re.ASCII)
_MOST_ENTRIES, _MOST_BYTES, _LONGEST_NAME = 4096, 1 << 16, 4096  # more, and the file is damaged


@dataclass(frozen=True)
class Elf:
    """``needed`` libraries by name; ``wants``: library → versions of it; ``offers``: versions."""

    machine: int
    needed: tuple[str, ...] = ()
    wants: Mapping[str, frozenset[str]] | None = None
    offers: frozenset[str] = frozenset()

    @property
    def glibc(self) -> tuple[int, int]:
        """The oldest glibc that it starts with; (0, 0) where it needs none."""
        named = [name for wanted in (self.wants or {}).values() for name in wanted]
        found = [_GLIBC.match(name) for name in named]
        return max(((int(one[1]), int(one[2])) for one in found if one), default=(0, 0))


def read(file: Path) -> Elf:
    """Return what an ELF file of 64 bits, little-endian, says of itself.

    Raises:
        DeviceError: it cannot be read, or is none.
    """
    try:
        data = file.read_bytes()
        if data[:6] != b"\x7fELF\x02\x01":
            raise DeviceError("it is no program or library of 64 bits", artifact=file)
        return _read(data)
    except OSError as error:
        raise DeviceError(f"it cannot be read: {error.strerror or error}", artifact=file) from error
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise DeviceError("it is damaged: its tables lead nowhere", artifact=file) from error


def _read(data: bytes) -> Elf:
    (machine,) = struct.unpack_from("<H", data, 18)
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    # Of each segment: type, offset in the file, address, bytes in the file.
    segments: list[tuple[int, int, int, int]] = []
    for at in range(count):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, table + at * size)
        segments.append((kind, offset, address, length))
    entries = [
        pair
        for kind, at, _, length in segments
        if kind == _DYNAMIC
        for pair in struct.iter_unpack("<QQ", data[at : at + min(length, _MOST_BYTES)])
    ]
    values = dict(entries)
    if _STRINGS not in values:
        return Elf(machine)

    def place(address: int) -> int:
        """Return where in the file an address of the running program lies."""
        for kind, offset, begin, length in segments:
            if kind == _LOAD and begin <= address < begin + length:
                return offset + address - begin
        raise ValueError(address)

    strings = place(values[_STRINGS])

    def text(offset: int) -> str:
        begin = strings + offset
        return data[begin : data.index(b"\0", begin, begin + _LONGEST_NAME)].decode()

    needed = tuple(text(value) for tag, value in entries if tag == _NEEDED)
    wants: dict[str, frozenset[str]] = {}
    offers: set[str] = set()
    if _WANTS in values:
        for name, versions in _wants(data, place(values[_WANTS]), values[_WANT_COUNT]):
            wants[text(name)] = frozenset(map(text, versions))
    if _OFFERS in values:
        offers = set(map(text, _offers(data, place(values[_OFFERS]), values[_OFFER_COUNT])))
    return Elf(machine, needed, wants, frozenset(offers))


def _wants(data: bytes, at: int, count: int) -> Iterator[tuple[int, list[int]]]:
    """Yield (a library's name, the names of its versions), names as places among the strings."""
    for _ in range(_bounded(count)):
        _, length, library, first, following = struct.unpack_from("<HHIII", data, at)
        versions, entry = [], at + first
        for _ in range(length):
            _, _, _, name, skip = struct.unpack_from("<IHHII", data, entry)
            versions.append(name)
            entry += skip
        yield library, versions
        at += following


def _offers(data: bytes, at: int, count: int) -> Iterator[int]:
    """Yield the names of the versions that a library defines, as places among the strings."""
    for _ in range(_bounded(count)):
        first, following = struct.unpack_from("<II", data, at + 12)
        yield struct.unpack_from("<I", data, at + first)[0]
        at += following


def _bounded(count: int) -> int:
    """Return a table's number of entries, which no file would walk for hours.

    Raises:
        ValueError: it is of no file.
    """
    if count > _MOST_ENTRIES:
        raise ValueError(count)
    return count
