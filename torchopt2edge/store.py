"""A content-addressed store: what was made once with the same means is not made again.

The rules, cited in the code as R1 to R5:

R1. A key is the sha256 of the maker's identity (its settings and the code that computes), the
    digests of its inputs and the versions of the tools used. Nothing else decides.
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
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torchopt2edge.errors import StoreError
from torchopt2edge.identity import CodeCache, Identity
from torchopt2edge.identity import code_of as identify
from torchopt2edge.types import Artifact, Facts

RECORD = "artifact.json"
_NEARLY_FULL = 2**20
_DISTRIBUTIONS = {  # of packages that are imported under another name
    "google": "protobuf",
    "pil": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
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

    `torchopt2edge.identity` says how.

    Raises:
        ConfigError: the value has no stable identity, such as a live object or a lambda.
    """
    return Identity(_code_cache()).of(value)


def code_of(value: object) -> dict[str, Any]:
    """Return the digest of the code of a function or a class, and the versions of its tools."""
    code = identify(value, _code_cache())
    return {"digest": code.digest, "tools": _tools(code.packages)}


def _code_cache() -> CodeCache:
    return CodeCache(cache_root() / "code")


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the installed versions of the packages, and Python's; an absent one is "absent"."""
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for package in packages:
        found[package] = _version(package)
    return found


@functools.cache  # reading it takes a millisecond
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _tools(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages that are named as they are imported, or as installed."""
    plain = {name.lower().replace("_", "-") for name in packages}
    return versions(sorted(_DISTRIBUTIONS.get(name, name) for name in plain))


def key_of(
    maker: object, inputs: Mapping[str, str], tools: Mapping[str, str] = MappingProxyType({})
) -> str:
    """R1: return the key of what ``maker`` makes.

    Args:
        maker: the functions, methods and settings that make it; the packages that their code
            imports are its tools.
        inputs: the digests of what it is made of, by role.
        tools: what else decides: versions of tools that no code imports, a processor.

    Returns:
        A sha256.

    Raises:
        ConfigError: the maker has no stable identity.
    """
    identified = Identity(_code_cache())
    plain = {"maker": identified.of(maker), "inputs": dict(inputs)}
    plain["tools"] = {**_tools(identified.packages), **tools}
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
