"""Keeps the identity of code on disk, so that a process reads no source that did not change."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torchopt2edge.identity.closure import Closure, Code, Node
from torchopt2edge.identity.reader import content_digest


@dataclass(frozen=True)
class CodeCache:
    """A folder of identities, or none. Any two caches are equal: none of them changes a result."""

    folder: Path | None = field(default=None, compare=False)

    def code_of(self, closure: Closure, roots: Callable[[], list[Node]], name: str) -> Code:
        """Return the code of some roots, from the cache where none of its files changed.

        Args:
            closure: follows the references.
            roots: gives the roots, when they are needed.
            name: what the roots are, and where.
        """
        if self.folder is None:
            return closure.of(roots())
        file = self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"
        # A damaged file, or a cache that cannot be written, costs time alone.
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            data = json.loads(file.read_bytes())
            files = {Path(path): digest for path, digest in data["files"].items()}
            current = all(content_digest(path) == digest for path, digest in files.items())
            if current and data["algorithm"] == _algorithm():
                return Code(str(data["digest"]), frozenset(data["packages"]), tuple(data["parts"]))
        code = closure.of(roots())
        sources = {str(path): content_digest(path) for path in closure.sources()}
        data = {"algorithm": _algorithm(), "files": sources, "digest": code.digest}
        data |= {"packages": sorted(code.packages), "parts": code.parts}
        with contextlib.suppress(OSError):
            _write(file, json.dumps(data))
        return code


@functools.cache
def _algorithm() -> str:
    """Return the sha256 of this package's own sources: an edit of them makes the cache invalid."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=".", dir=file.parent)
    try:
        with os.fdopen(handle, "w") as out:
            out.write(text)
        Path(part).replace(file)
    except OSError:
        Path(part).unlink(missing_ok=True)
        raise
