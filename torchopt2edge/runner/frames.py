"""Frames: how a host and a runner hand each other a header and arrays over a pair of pipes.

A frame is one line of JSON (the header). When the header holds ``"arrays"``, a list of
``{name, dtype, shape}``, the raw little-endian C-order bytes of those arrays follow the line, in
that order. Standard library and numpy only, and numpy only when an array goes by: the file lies
beside `types` because the devices (below) and the bench (above) both speak it.
"""

from __future__ import annotations

import json
import math
import operator
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
_KINDS = "biufc"  # of numpy's dtypes those whose name says all of them: numbers and bools


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
        if array.dtype.kind not in _KINDS:
            raise DeviceError(
                f"an array of {array.dtype.name} cannot be sent: only numbers and bools can",
                artifact=name,
            )
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
        self._lost = False

    def read(self, timeout_s: float | None = None) -> tuple[Header, dict[str, Array]]:
        """Return the next header (its ``arrays`` taken off) and the arrays.

        Raises:
            EOFError: the other end is closed, or nobody knows where the next frame begins.
            TimeoutError: no whole frame came within ``timeout_s`` seconds.
            DeviceError: what came is not a frame; a line that is no header is read past.
        """
        if self._lost:
            raise EOFError("behind arrays that are none, no frame can be found")
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        searched = 0
        while (end := self._held.find(b"\n", searched)) < 0:
            searched = len(self._held)
            if searched > _LONGEST_LINE:
                raise DeviceError("the stream is not made of frames: a line without an end")
            self._fill(deadline)
        line = bytes(self._held[:end])
        try:
            header = _header(line)
        except DeviceError:
            del self._held[: end + 1]
            raise
        try:
            specs = _specs(header.pop("arrays", []))
        except DeviceError:
            self._lost = True
            raise
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
    except (ValueError, RecursionError) as error:
        raise DeviceError(f"the stream is not made of frames: {line[:80]!r}") from error
    if not isinstance(header, dict):
        raise DeviceError(f"the stream is not made of frames: {line[:80]!r}")
    return header


def _specs(given: list[dict[str, Any]]) -> list[tuple[str, Any, tuple[int, ...], int]]:
    try:
        return [_spec(one) for one in given or ()]
    except (KeyError, TypeError, ValueError) as error:
        raise DeviceError(
            f"the frame announces an array that is none: {str(given)[:80]}"
        ) from error


def _spec(given: dict[str, Any]) -> tuple[str, Any, tuple[int, ...], int]:
    import numpy as np

    name, shape = given["name"], tuple(operator.index(n) for n in given["shape"])
    dtype = np.dtype(str(given["dtype"])).newbyteorder("<")
    if not isinstance(name, str) or min(shape, default=0) < 0 or dtype.kind not in _KINDS:
        raise ValueError(name)
    return name, dtype, shape, dtype.itemsize * math.prod(shape)


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
