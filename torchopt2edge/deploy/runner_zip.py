"""Packs the runner into one small file that runs wherever Python, numpy and a runtime are.

The file holds the modules of ours that the runner and the backends import, at their top or in a
function, found by reading their source. What it does not hold (the stages) it cannot need.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import os
import tempfile
import zipfile
from pathlib import Path

from torchopt2edge.errors import StoreError
from torchopt2edge.store import cache_root

PACKAGE = Path(__file__).resolve().parent.parent
_ROOTS = ("torchopt2edge.runner.runner", "torchopt2edge.backends")
_MAIN = b"from torchopt2edge.runner.runner import main\n\nmain()\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same sources make the same bytes


def runner_file(folder: Path | None = None) -> Path:
    """Return the packed runner, ``runner-<digest>.pyz``, packed now unless it is there.

    Raises:
        StoreError: the cache cannot be written.
    """
    data = pack()
    place = folder or cache_root() / "runner"
    target = place / f"runner-{hashlib.sha256(data).hexdigest()[:16]}.pyz"
    if target.is_file():
        return target
    try:
        place.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place, prefix=".runner-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(target)
    except OSError as error:
        raise StoreError(
            f"the runner cannot be packed: {error.strerror or error}",
            artifact=place,
            hint="point TORCHOPT2EDGE_CACHE at a folder you can write",
        ) from error
    return target


@functools.cache
def pack() -> bytes:
    """Return the archive's bytes, packed once: reading the sources takes 0.1 s of a core."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(modules().items()):
            _write(archive, _place(name, path), path.read_bytes())
        _write(archive, "__main__.py", _MAIN)
    return buffer.getvalue()


def modules() -> dict[str, Path]:
    """Return the modules the runner needs, by name: the closure of their imports."""
    found: dict[str, Path] = {}
    waiting = [*_ROOTS]
    backends = (PACKAGE / "backends").rglob("[!_]*.py")
    named = (path.relative_to(PACKAGE.parent).with_suffix("") for path in backends)
    waiting += [".".join(path.parts) for path in named]
    while waiting:
        name = waiting.pop()
        path = _path(name)
        if path is None or name in found:
            continue
        found[name] = path
        waiting += [name.rpartition(".")[0], *_imports(path)]
    return found


def _imports(path: Path) -> list[str]:
    """Names imported anywhere in a module, also inside its functions; not those for types only."""
    names: list[str] = []
    waiting: list[ast.AST] = [ast.parse(path.read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif not _for_types_only(node):
            waiting += ast.iter_child_nodes(node)
    return names


def _for_types_only(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def _path(name: str) -> Path | None:
    head, *rest = name.split(".")
    if head != PACKAGE.name:
        return None
    place = PACKAGE.joinpath(*rest)
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _place(name: str, path: Path) -> str:
    stem = name.replace(".", "/")
    return f"{stem}/__init__.py" if path.name == "__init__.py" else f"{stem}.py"


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)
