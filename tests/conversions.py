"""Conversions to .tflite kept from one test run to the next: a tiny model's takes five seconds.

The converter's child reads nothing but its own scripts, the graph beside them and the sealed
environment, so their contents name its result. Only the child is left out when its result is
kept: what is written before and read after it runs as always. A conversion that fails is not
kept, one that may not take as long as it took is not looked up, and neither is one of an
environment that is not ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchopt2edge.converter.environment import Environment

_RESULTS = ("result.json", "float.tflite", "log")
_SECONDS = "seconds"
_KEPT_S = 30 * 24 * 3600


@contextlib.contextmanager
def kept_conversions(folder: Path) -> Iterator[None]:
    """Look into the folder before the converter's child is started, for as long as this runs."""
    module = importlib.import_module("torchopt2edge.converter.convert")
    child = module._run

    def run(env: Environment, work: Path, timeout_s: float) -> int:
        if env.folder is None:
            return int(child(env, work, timeout_s))
        place = folder / _key(env.folder, work)
        with _locked(place.with_suffix(".lock")):
            if place.is_dir() and float((place / _SECONDS).read_text()) < timeout_s:
                os.utime(place)
                for name in _RESULTS:
                    shutil.copyfile(place / name, work / name)
                return 0
            begin = time.monotonic()
            status = int(child(env, work, timeout_s))
            succeeded = status == 0 and json.loads((work / "result.json").read_text())["ok"]
            if succeeded and not place.is_dir():
                _keep(work, place, time.monotonic() - begin)
            return status

    _remove_old(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_run", run)
        yield


def _key(environment: Path, work: Path) -> str:
    """Name a conversion by its scripts, its graph and its environment's pins."""
    total = hashlib.sha256(environment.name.encode())
    for path in sorted(path for path in work.rglob("*") if path.is_file()):
        name = path.relative_to(work).as_posix()
        total.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let two workers that want the same conversion make it once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _keep(work: Path, place: Path, seconds: float) -> None:
    """Copy the results to their place, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=place.parent, ignore_cleanup_errors=True) as folder:
        part = Path(folder) / "kept"
        part.mkdir()
        for name in _RESULTS:
            shutil.copyfile(work / name, part / name)
        (part / _SECONDS).write_text(str(seconds))
        part.rename(place)


def _remove_old(folder: Path) -> None:
    for place in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another worker was faster
            if time.time() - place.stat().st_mtime > _KEPT_S:
                shutil.rmtree(place) if place.is_dir() else place.unlink()
