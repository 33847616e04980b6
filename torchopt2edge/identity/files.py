"""Source files that compute without being imported: they run in another process or machine."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from torchopt2edge.identity.reader import read_module

_C_TOKENS = re.compile(r'("(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\')|/\*.*?\*/|//[^\n]*', re.S)


@dataclass(frozen=True)
class Files:
    """Files by their content: of Python and C sources without comments and formatting."""

    paths: tuple[Path, ...] = field(metadata={"identity": False})

    def fingerprint(self) -> str:
        """Return a sha256 over the files' names and what they hold."""
        total = hashlib.sha256()
        for path in sorted(self.paths, key=lambda path: path.name):
            stat = path.stat()
            content = _content(path, stat.st_mtime_ns, stat.st_size)
            total.update(f"{path.name}\0{content}\0".encode())
        return total.hexdigest()


@functools.lru_cache(maxsize=256)
def _content(path: Path, changed_ns: int, size: int) -> str:
    data = path.read_bytes()
    if path.suffix == ".py":
        data = json.dumps(
            [[piece.digest, piece.references] for piece in read_module(path).pieces()]
        ).encode()
    if path.suffix in (".c", ".h"):
        text = _C_TOKENS.sub(lambda match: match[1] or " ", data.decode())
        lines = (" ".join(line.split()) for line in text.splitlines())
        data = "\n".join(filter(None, lines)).encode()
    return hashlib.sha256(data).hexdigest()
