"""Frames: how a host and a runner hand each other a header and arrays over a pair of pipes.

A frame is one line of JSON (the header). When the header holds ``"arrays"``, a list of
``{name, dtype, shape}``, the raw little-endian C-order bytes of those arrays follow the line, in
that order. Standard library and numpy only, and numpy only when an array goes by: the file lies
beside `types` because the devices (below) and the bench (above) both speak it.
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

Header = dict[str, Any]

_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 28  # a header beyond 256 MB is not ours


def encode(header: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> bytes:
    """Return the bytes of one frame; any strides and byte order are brought to the wire's.

    Raises:
        DeviceError: an array holds objects, which have no bytes of their own.
    """
    if arrays is None:
        return json.dumps(dict(header)).encode() + b"\n"
    import numpy as np

    specs: list[dict[str, Any]] = []
    bodies: list[bytes] = []
    for name, given in arrays.items():
        array = np.asarray(given)
        if array.dtype.hasobject:
            raise DeviceError("an array of Python objects cannot be sent", artifact=name)
        wire = array.astype(array.dtype.newbyteorder("<"), copy=False)
        specs.append({"name": name, "dtype": wire.dtype.name, "shape": list(wire.shape)})
        bodies.append(wire.tobytes(order="C"))
    line = json.dumps({**header, "arrays": specs}).encode() + b"\n"
    return b"".join([line, *bodies])


class FrameReader:
    """Reads frames from a file descriptor, with or without a deadline.

    Bytes that arrived of a frame that is not yet whole are kept, so that a time-out loses
    nothing.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._held = bytearray()

    def read(self, timeout_s: float | None = None) -> tuple[Header, dict[str, Array]]:
        """Return the next header (its ``arrays`` taken off) and the arrays.

        Raises:
            EOFError: the other end is closed.
            TimeoutError: no whole frame came within ``timeout_s`` seconds.
            DeviceError: what came is not a frame.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        searched = 0
        while (end := self._held.find(b"\n", searched)) < 0:
            searched = len(self._held)
            if searched > _LONGEST_LINE:
                raise DeviceError("the stream is not made of frames: a line without an end")
            self._fill(deadline)
        header = _header(bytes(self._held[:end]))
        specs = _specs(header.pop("arrays", []))
        whole = end + 1 + sum(size for *_, size in specs)
        while len(self._held) < whole:
            self._fill(deadline)
        body = bytes(self._held[end + 1 : whole])
        del self._held[:whole]
        return header, _split(specs, body)

    def _fill(self, deadline: float | None) -> None:
        if deadline is not None:
            wait_for(self._fd, select.POLLIN, deadline)
        got = os.read(self._fd, _CHUNK)
        if not got:
            raise EOFError("the other end is closed")
        self._held += got


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
    try:
        header = json.loads(line)
    except ValueError as error:
        raise DeviceError(f"the stream is not made of frames: {line[:80]!r}") from error
    if not isinstance(header, dict):
        raise DeviceError(f"the stream is not made of frames: {line[:80]!r}")
    return header


def _specs(given: list[dict[str, Any]]) -> list[tuple[str, Any, tuple[int, ...], int]]:
    if not given:
        return []
    import numpy as np

    specs = []
    for spec in given:
        dtype = np.dtype(spec["dtype"]).newbyteorder("<")
        shape = tuple(int(n) for n in spec["shape"])
        specs.append((str(spec["name"]), dtype, shape, dtype.itemsize * math.prod(shape)))
    return specs


def _split(specs: list[tuple[str, Any, tuple[int, ...], int]], body: bytes) -> dict[str, Array]:
    if not specs:
        return {}
    import numpy as np

    arrays: dict[str, Array] = {}
    at = 0
    for name, dtype, shape, size in specs:
        wire = np.frombuffer(body[at : at + size], dtype).reshape(shape)
        arrays[name] = wire.astype(dtype.newbyteorder("="))  # a writable copy of our own
        at += size
    return arrays
