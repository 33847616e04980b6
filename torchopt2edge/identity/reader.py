"""Finds and reads the source files of modules."""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

from torchopt2edge.identity.excluded import PACKAGE
from torchopt2edge.identity.module import Module, read
from torchopt2edge.identity.syntax import Piece

ROOT = Path(__file__).resolve().parents[1]
_FOREIGN = {"site-packages", "dist-packages"}


def path_of(name: str) -> Path | None:
    """Return the source of a module by its name; None for one that is not ours or the user's.

    Code of the standard library and of installed packages is not read: the version of the package
    stands for it.
    """
    head, *rest = name.split(".")
    if head == PACKAGE:
        return _in(ROOT, rest)
    if head in sys.stdlib_module_names:
        return None
    places = _places(head)
    if not places or all(map(is_installed, places)):
        return None
    return source_file(name)


def source_file(name: str) -> Path | None:
    """Return the source file of any module, None when there is none (an extension, a prompt)."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        origin = getattr(loaded, "__file__", None)
    else:
        spec = _spec(name)
        origin = None if spec is None else spec.origin
    path = Path(origin).resolve() if origin else None
    return path if path is not None and path.suffix == ".py" and path.is_file() else None


def is_installed(path: Path) -> bool:
    """Tell whether a file or folder belongs to an installed package or to Python itself."""
    standard = Path(os.__file__).resolve().parent
    return bool(_FOREIGN.intersection(path.parts)) or standard in path.parents


def _places(package: str) -> list[Path]:
    """Return where a package lies: its file, or the folders of one without an ``__init__.py``."""
    file = source_file(package)
    if file is not None:
        return [file]
    loaded = sys.modules.get(package)
    spec = _spec(package) if loaded is None else None
    folders = getattr(loaded, "__path__", None) or getattr(spec, "submodule_search_locations", None)
    return [Path(folder).resolve() for folder in folders or ()]


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


def _in(folder: Path, parts: list[str]) -> Path | None:
    place = folder.joinpath(*parts)
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def read_module(path: Path) -> Module:
    """Return what a source file holds, read once per change of it.

    A file that is no Python of this version, or that nests too deep to be walked, counts by its
    bytes: it may lie beside a user's module and never be imported.
    """
    return _module(path, *_stamp(path))


def content_digest(path: Path) -> str:
    """Return the sha256 of a file, taken once per change of it."""
    return _content_digest(path, *_stamp(path))


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@functools.lru_cache(maxsize=4096)
def _content_digest(path: Path, changed_ns: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.lru_cache(maxsize=4096)
def _module(path: Path, changed_ns: int, size: int) -> Module:
    source = path.read_bytes()
    before = gc.isenabled()
    gc.disable()  # it would walk the growing syntax tree again and again
    try:
        return read(source)
    except (SyntaxError, ValueError, RecursionError):
        return Module((), {}, effects=Piece(hashlib.sha256(source).hexdigest(), ()))
    finally:
        if before:
            gc.enable()
