"""Keep a library's chatter off the user's terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what is printed on stderr, by Python or by native code, and the warnings in between.

    Exceptions pass through: what matters is raised, not printed. The file descriptor is turned,
    not ``sys.stderr``: a logging handler that a library makes in here would keep the stand-in,
    and write into a closed file for ever after.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
