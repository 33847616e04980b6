"""Frames: how a host and a runner hand each other a header and arrays over a pair of pipes.

A frame is one line of JSON (the header). When the header holds ``"arrays"``, a list of
``{name, dtype, shape}``, the raw little-endian C-order bytes of those arrays follow the line, in
that order. Standard library and numpy only, and numpy only when an array is in the frame: the file
lies beside `types` because the devices (below) and the bench (above) both use it.

What arrives is bounded before memory is taken for it: the line, its nesting, the arrays' number,
types, shapes and bytes. What a header may say is checked where it is used (`bench.answers`).
"""

from __future__ import annotations

import json
import math
import os
import select
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchopt2edge.errors import DeviceError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Frame = tuple[dict[str, Any], dict[str, Array]]

Header = dict[str, Any]

LONGEST_LINE = 1 << 26
"""Bytes of a header: room for the latencies of millions of inferences."""

LARGEST_FRAME = 1 << 30
"""Bytes of all arrays of one frame."""

DTYPES = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
     "float16", "float32", "float64", "complex64", "complex128"}
)  # fmt: skip
"""The types that travel: those whose name says all of them."""

_CHUNK = 1 << 20
_MOST_PARTS, _MOST_QUOTES = 100_000, 1_000_000  # lists and objects of a header; its quotes
_MOST_ARRAYS, _MOST_AXES, _LONGEST_AXIS = 1024, 32, 1 << 31


def encode(header: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> bytes:
    """Return the bytes of one frame; any strides and byte order are brought to the wire's.

    Raises:
        DeviceError: an array holds something else than numbers and bools (texts, objects).
    """
    if arrays is None:
        return json.dumps(dict(header)).encode() + b"\n"
    import numpy as np

    specs: list[dict[str, Any]] = []
    bodies: list[bytes] = []
    for name, given in arrays.items():
        array = np.asarray(given)
        if array.dtype.name not in DTYPES:
            raise DeviceError(
                f"an array of {array.dtype.name} cannot be sent: only numbers and bools can",
                artifact=name,
            )
        wire = array.astype(array.dtype.newbyteorder("<"), copy=False)
        specs.append({"name": name, "dtype": wire.dtype.name, "shape": list(wire.shape)})
        bodies.append(wire.tobytes(order="C"))
    line = json.dumps({**header, "arrays": specs}).encode() + b"\n"
    return b"".join([line, *bodies])


class FrameBuffer:
    """Frames out of bytes that arrive in pieces of any size.

    Bytes of arrays go straight to their places, so that a frame needs no more memory than it holds.
    """

    def __init__(self) -> None:
        self._held = bytearray()  # what no frame has taken yet
        self._searched = 0
        self._header: Header | None = None
        self._arrays: dict[str, Array] = {}
        self._due: list[memoryview] = []
        self._lost = False

    def feed(self, data: bytes) -> None:
        """Add bytes that arrived."""
        self._held += data

    def next(self) -> Frame | None:
        """Return the next header (its ``arrays`` taken off) and the arrays, None until it is whole.

        Raises:
            EOFError: an earlier header was damaged, so that nobody knows where a frame begins.
            DeviceError: what arrived is not a frame; a line that is no header is read past.
        """
        if self._lost:
            raise EOFError("behind arrays that are none, no frame can be found")
        if self._header is None and not self._begin():
            return None
        self._fill()
        if self._due or self._header is None:
            return None
        header, self._header = self._header, None
        arrays, self._arrays = self._arrays, {}
        return header, {name: _native(array) for name, array in arrays.items()}

    def _begin(self) -> bool:
        """Take a header, and make room for its arrays; False as long as its line has no end."""
        end = self._held.find(b"\n", self._searched)
        if max(end, len(self._held) if end < 0 else 0) > LONGEST_LINE:
            self._lost = True
            raise DeviceError(
                f"the stream is not made of frames: a line of more than {LONGEST_LINE} bytes",
                hint="timing.max_samples=1000000 or fewer where a round holds more samples",
            )
        if end < 0:
            self._searched = len(self._held)
            return False
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        self._searched = 0
        header = _header(line)
        try:
            self._arrays = _arrays(header.pop("arrays", None) or [])
        except DeviceError:
            self._lost = True
            raise
        self._due = [_bytes_of(array) for array in self._arrays.values() if array.size]
        self._header = header
        return True

    def _fill(self) -> None:
        """Move bytes that arrived to the arrays that wait for them."""
        at = 0
        with memoryview(self._held) as held:
            while self._due and at < len(held):
                due = self._due[0]
                size = min(len(due), len(held) - at)
                due[:size] = held[at : at + size]
                at += size
                self._due[0] = due[size:]
                if size == len(due):
                    del self._due[0]
        del self._held[:at]


class FrameReader:
    """Reads frames from a file descriptor, with or without a deadline.

    Bytes that arrived of a frame that is not yet whole are kept, so that a time-out loses
    nothing.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = FrameBuffer()

    def read(self, timeout_s: float | None = None) -> Frame:
        """Return the next header (its ``arrays`` taken off) and the arrays.

        Raises:
            EOFError: the other end is closed, or nobody knows where the next frame begins.
            TimeoutError: no whole frame came within ``timeout_s`` seconds.
            DeviceError: what came is not a frame; a line that is no header is read past.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (found := self._buffer.next()) is None:
            if deadline is not None:
                wait_for(self._fd, select.POLLIN, deadline)
            got = os.read(self._fd, _CHUNK)
            if not got:
                raise EOFError("the other end is closed")
            self._buffer.feed(got)
        return found


def wait_for(fd: int, event: int, deadline: float) -> None:
    """Sleep until the descriptor is ready (never spin beside a measurement).

    Raises:
        TimeoutError: ``deadline`` (of ``time.monotonic``) passed first.
    """
    poll = select.poll()
    poll.register(fd, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(math.ceil(left * 1000)):
        raise TimeoutError("the other end did not answer in time")


def _header(line: bytes) -> Header:
    """Read a header; what would take far more memory than its bytes is refused unread."""
    parts = line.count(b"[") + line.count(b"{")
    if parts > _MOST_PARTS or line.count(b'"') > _MOST_QUOTES:
        raise DeviceError(f"the stream is not made of frames: a header of {parts} parts")
    try:
        header = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DeviceError(f"the stream is not made of frames: {line[:80]!r}") from error
    if not isinstance(header, dict):
        raise DeviceError(f"the stream is not made of frames: {line[:80]!r}")
    return header


def _arrays(given: object) -> dict[str, Array]:
    """Make room for the arrays that a header announces."""
    if not isinstance(given, list) or len(given) > _MOST_ARRAYS:
        raise _no_arrays(given)
    specs = [_spec(one) for one in given]
    if len({name for name, *_ in specs}) < len(specs):
        raise _no_arrays(given)
    if not specs:
        return {}
    import numpy as np

    types = {name: np.dtype(dtype).newbyteorder("<") for name, dtype, _ in specs}
    if sum(types[name].itemsize * math.prod(shape) for name, _, shape in specs) > LARGEST_FRAME:
        raise DeviceError(
            f"the frame announces arrays of more than {LARGEST_FRAME >> 20} MB",
            artifact=str(given)[:80],
        )
    return {name: np.empty(shape, types[name]) for name, _, shape in specs}


def _spec(given: object) -> tuple[str, str, tuple[int, ...]]:
    if not isinstance(given, dict):
        raise _no_arrays(given)
    name, dtype, shape = given.get("name"), given.get("dtype"), given.get("shape")
    if (
        not isinstance(name, str)
        or not isinstance(dtype, str)
        or dtype not in DTYPES
        or not isinstance(shape, list)
        or len(shape) > _MOST_AXES
        or not all(type(n) is int and 0 <= n < _LONGEST_AXIS for n in shape)
        or math.prod(n for n in shape if n) > LARGEST_FRAME  # an empty one of a size nobody has
    ):
        raise _no_arrays(given)
    return name, dtype, tuple(shape)


def _no_arrays(given: object) -> DeviceError:
    return DeviceError(f"the frame announces an array that is none: {str(given)[:80]}")


def _bytes_of(array: Array) -> memoryview:
    """Return an array's memory, byte by byte."""
    return array.reshape(-1).view("u1").data


def _native(array: Array) -> Array:
    """Return an array in this machine's byte order; a bool is true where any bit of it is set."""
    if array.dtype.kind == "b":
        bits = array.view("u1")
        bits[...] = bits != 0
    return array.astype(array.dtype.newbyteorder("="), copy=False)
