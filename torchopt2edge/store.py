"""A content-addressed store: what was made once with the same means is not made again.

The rules, cited in the code as R1 to R5:

R1. A key is the sha256 of the maker's identity, the digests of its inputs and the versions of
    the tools used. Nothing else decides.
R2. An artifact appears whole or not at all: it is written into a temporary folder beside its
    place, then renamed.
R3. A failure is never cached: the temporary folder goes, the next run tries again.
R4. Two processes that want the same artifact make it once: the second waits at a lock.
R5. An artifact is immutable; readers never write into its folder.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import inspect
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torchopt2edge.errors import ConfigError, StoreError
from torchopt2edge.types import Artifact, Facts

RECORD = "artifact.json"
_NEARLY_FULL = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)


def cache_root() -> Path:
    """Where the store and the converter live: ``$TORCHOPT2EDGE_CACHE`` or the user's cache."""
    own = os.environ.get("TORCHOPT2EDGE_CACHE")
    if own:
        return Path(own).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().resolve() / "torchopt2edge"


def identity(value: object) -> Any:
    """Reduce a configuration to plain JSON data that is equal exactly when the behaviour is.

    A frozen dataclass becomes its class, the hash of the module that defines it and its fields
    (a field with ``metadata={"identity": False}`` is left out, such as a number of threads); a
    function or a ``functools.partial`` its qualified name, source hash and arguments; a method
    its object too; an object with a ``fingerprint()`` method adds what that returns (a data
    set's content).

    Raises:
        ConfigError: the value has no stable identity: a live object, a lambda or a function
            inside a function, whose name and source do not say what it holds.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): identity(item) for key, item in sorted(value.items(), key=_by_name)}
    if isinstance(value, list | tuple | set | frozenset):
        items = [identity(item) for item in value]
        return sorted(items, key=json.dumps) if isinstance(value, set | frozenset) else items
    if isinstance(value, functools.partial):
        return {
            "partial": identity(value.func),
            "args": identity(value.args),
            "kwargs": identity(value.keywords),
        }
    if is_dataclass(value) and not isinstance(value, type):
        return _dataclass_identity(value)
    if inspect.ismethod(value):
        return {"method": value.__name__, "of": identity(value.__self__)}
    name = getattr(value, "__qualname__", "<>")
    if callable(value) and "<" not in name:
        return {"callable": f"{value.__module__}.{name}", "source": source_of(value)}
    raise ConfigError(
        f"a value of type {type(value).__name__} has no stable identity for the store",
        hint="use plain values, frozen dataclasses, functions of a module or functools.partial",
    )


def _by_name(item: tuple[Any, Any]) -> str:
    return str(item[0])


def _dataclass_identity(value: Any) -> dict[str, Any]:
    kept = {
        field.name: identity(getattr(value, field.name))
        for field in fields(value)
        if field.metadata.get("identity", True)
    }
    cls = type(value)
    out = {
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "source": source_of(cls),
        "fields": kept,
    }
    fingerprint = getattr(value, "fingerprint", None)
    if callable(fingerprint):
        out["fingerprint"] = fingerprint()
    return out


@functools.cache
def _file_hash(path: str, stamp: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def source_of(value: Any) -> str:
    """Hash the code behind ``value``: an edited stage must run again.

    That is the module that defines it and, in a package, the modules beside it, on which it
    most likely leans; "" when there is no file.
    """
    try:
        path = inspect.getsourcefile(value)
    except (TypeError, OSError):  # a builtin, or typed at a prompt
        return ""
    if path is None or not Path(path).is_file():
        return ""
    folder = Path(path).parent
    files = sorted(folder.glob("*.py")) if (folder / "__init__.py").is_file() else [Path(path)]
    hashes = "".join(_file_hash(str(file), file.stat().st_mtime_ns) for file in files)
    return hashlib.sha256(hashes.encode()).hexdigest()[:16]


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the installed versions of the packages, and Python's; an absent one is "absent"."""
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def key_of(maker: object, inputs: Mapping[str, str], tools: Mapping[str, str]) -> str:
    """R1: the key of what ``maker`` makes from inputs with these digests and tools."""
    plain = {"maker": identity(maker), "inputs": dict(inputs), "tools": dict(tools)}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def digest_of(folder: Path) -> str:
    """Return the sha256 over the names and bytes of a folder's files, record and logs left out."""
    total = hashlib.sha256()
    for path in sorted(
        p for p in folder.rglob("*") if p.is_file() and p.name != RECORD and p.suffix != ".log"
    ):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


@dataclass(frozen=True)
class Store:
    """Artifacts by key under one folder (default: the user's cache)."""

    root: Path

    @classmethod
    def default(cls) -> Store:
        """Return the store in the user's cache."""
        return cls(cache_root() / "store")

    def folder(self, key: str) -> Path:
        """Return the place of the artifact with that key, made or not."""
        return self.root / key[:2] / key

    def get(self, key: str) -> Artifact | None:
        """Return the artifact with that key, or None when it was not made yet.

        Raises:
            StoreError: its record or its files are not what was made (R5).
        """
        folder, hint = self.folder(key), f"rm -r {shlex.quote(str(self.folder(key)))}"
        try:
            record = json.loads((folder / RECORD).read_text())
            found = Artifact(record["kind"], folder, record["digest"], record["facts"])
            sound = digest_of(folder) == found.digest
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise StoreError(
                "an artifact's record cannot be read", artifact=folder, hint=hint
            ) from error
        if not sound:
            raise StoreError("an artifact's files were damaged", artifact=folder, hint=hint)
        return found

    def make(self, key: str, kind: str, maker: Callable[[Path], Facts]) -> tuple[Artifact, bool]:
        """Return the artifact with that key, made now by ``maker(folder)`` unless it is there.

        The second value tells whether it was there. What ``maker`` raises passes through, and
        nothing is kept (R3).
        """
        found = self.get(key)
        if found is not None:
            return found, True
        with self._lock(key):
            found = self.get(key)
            if found is not None:
                return found, True
            return self._make(key, kind, maker), False

    def _make(self, key: str, kind: str, maker: Callable[[Path], Facts]) -> Artifact:
        place = self.folder(key)
        with _disk(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            for left_by_a_killed_run in place.parent.glob(f".{key}-*"):
                shutil.rmtree(left_by_a_killed_run)  # the lock is ours: nobody writes there now
            temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=place.parent))
        try:
            with _disk(place, _FULL):
                facts = maker(temporary)
            with _disk(place):
                digest = digest_of(temporary)
                record = {"kind": kind, "key": key, "digest": digest, "facts": facts}
                (temporary / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True))
                temporary.rename(place)  # R2
                shutil.rmtree(work_of(temporary), ignore_errors=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return Artifact(kind, place, digest, facts)

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """R4; the kernel drops the lock of a process that is killed."""
        with _disk(self.root):
            folder = self.root / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / key[:16]).open("w")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def work_of(out: Path) -> Path:
    """Return the folder beside a maker's ``out`` that outlives it.

    What a maker leaves there when it is killed or fails, its next try finds: the key is the
    same, so it was left under the same configuration. It goes once the artifact is made.
    """
    name = out.name.rpartition("-")[0] if out.name.startswith(".") else out.name
    return out.with_name(f"{name}.work")


@contextmanager
def _disk(place: Path, only: Sequence[int] = ()) -> Iterator[None]:
    """Turn the system's errors, or only those of the given numbers, into ours."""
    try:
        yield
    except RuntimeError as error:  # torch's writer speaks of its own insides instead
        if not only or shutil.disk_usage(place.parent).free > _NEARLY_FULL:
            raise
        raise _unwritable(place, os.strerror(errno.ENOSPC)) from error
    except OSError as error:
        if only and error.errno not in only:
            raise
        raise _unwritable(place, error.strerror or str(error)) from error


def _unwritable(place: Path, why: str) -> StoreError:
    return StoreError(
        f"the store cannot be written: {why}",
        artifact=place,
        hint="free some space, or point TORCHOPT2EDGE_CACHE at a folder you can write",
    )
