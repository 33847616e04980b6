"""One array on disk that grows sample by sample and is read batch by batch.

Neither the whole array nor a map of it is ever in memory: pages of a mapped file count as
resident, and calibration must not grow with the number of samples.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from torchopt2edge.errors import DataError

Array = np.ndarray[Any, Any]


class Column:
    """Writes one .npy of samples of one shape; ``name`` is the input's, for errors."""

    def __init__(self, path: Path, name: str) -> None:
        self._file = path.open("wb")
        self._name = name
        self._like: Array | None = None
        self._count = 0

    def __enter__(self) -> Column:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._like is not None:
            self._file.seek(0)
            self._file.write(_header(self._count, self._like))
        self._file.close()

    def extend(self, batch: Array) -> None:
        """Append a batch [n, …].

        Raises:
            DataError: its samples have another shape than those before.
        """
        if self._like is None:
            self._like = np.empty((0, *batch.shape[1:]), batch.dtype)
            self._file.write(_header(0, self._like))
        if batch.shape[1:] != self._like.shape[1:]:
            raise DataError(
                f"samples of input {self._name!r} have unequal shapes: "
                f"{batch.shape[1:]} after {self._like.shape[1:]}",
                hint="resize them to one shape",
            )
        self._file.write(np.ascontiguousarray(batch).data)
        self._count += len(batch)


def _header(count: int, like: Array) -> bytes:
    """Return a .npy header, which NumPy pads so that a larger count keeps its length."""
    text = io.BytesIO()
    described = np.lib.format.header_data_from_array_1_0(like)
    np.lib.format.write_array_header_1_0(text, {**described, "shape": (count, *like.shape[1:])})
    return text.getvalue()


def rows(path: Path, size: int, limit: int | None = None) -> Iterator[Array]:
    """Walk the first ``limit`` samples of a .npy in batches of ``size``, as writable arrays."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        count = shape[0] if limit is None else min(shape[0], limit)
        each = int(np.prod(shape[1:], dtype=np.int64))
        for at in range(0, count, size):
            number = min(size, count - at)
            yield np.fromfile(file, dtype, number * each).reshape(number, *shape[1:])
