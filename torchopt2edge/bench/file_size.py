"""What a file weighs: on disk, and as a download."""

from __future__ import annotations

import functools
import gzip
from pathlib import Path

from torchopt2edge.errors import BenchError
from torchopt2edge.types import Candidate

MB = 1e6
PACKED = "gzip_mb"
"""The fact of a candidate, and the metric of its row, that holds its size under gzip."""


def sizes(candidate: Candidate) -> dict[str, float]:
    """Return the size of a candidate's file and what a download of it takes, in 1e6 bytes.

    To pack a file is a row's dearest number, 25 ms per MB: what was lowered brings it along.

    Raises:
        BenchError: the file cannot be read any more.
    """
    file, known = candidate.file, candidate.facts.get(PACKED)
    try:
        found = file.stat()
        packed = float(known) if known is not None else _once(file, found.st_mtime_ns)
    except OSError as error:
        raise BenchError(
            f"the file cannot be read any more: {error.strerror or error}",
            artifact=file,
            hint="leave the file where it is until the run has ended",
        ) from error
    return {"size_mb": found.st_size / MB, PACKED: packed}


def packed_mb(file: Path) -> float:
    """Return a file's size under gzip, in 1e6 bytes."""
    return len(gzip.compress(file.read_bytes(), 6, mtime=0)) / MB


@functools.lru_cache(maxsize=64)
def _once(file: Path, changed_ns: int) -> float:
    """Pack once what has a row for every setting."""
    return packed_mb(file)
