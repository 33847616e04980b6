"""The sealed environment: where it is, whether it is complete, what is in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torchopt2edge.errors import ConverterError, ConverterMissing
from torchopt2edge.store import cache_root

INSTALL = "torchopt2edge converter install"
MARKER = "complete.json"
_PINS = Path(__file__).with_name("requirements")
_MINORS = ("3.11", "3.12", "3.13", "3.14")
_PROBE_S = 300

_VERSIONS = """
import json, platform
from importlib.metadata import distributions
found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions()}
print(json.dumps({"python": platform.python_version(), **found}))
"""


@dataclass(frozen=True)
class Environment:
    """An interpreter that can import onnx2tf.

    ``folder`` is the environment we built and sealed, None for a user's own interpreter.
    """

    python: Path
    folder: Path | None = None

    def command(self, *arguments: str) -> list[str]:
        """Return a command line of this interpreter, deaf to the caller's Python settings."""
        isolated = ["-I"] if self.folder else []
        return [str(self.python), *isolated, *arguments]

    def variables(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return environment variables: ours, with its ``bin`` first on PATH."""
        keep = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "VIRTUAL_ENV")}
        if self.folder:
            keep.pop("PYTHONPATH", None)
        keep["PATH"] = os.pathsep.join([str(self.python.parent), keep.get("PATH", os.defpath)])
        return {**keep, **(extra or {})}


def requirements_for(minor: str) -> Path:
    """Return the pinned requirements that go with a Python version such as ``3.11``."""
    major, _, rest = minor.partition(".")
    if major != "3" or not rest.isdigit() or int(rest) < 11:
        raise ConverterError(
            f"The converter needs Python 3.11 or newer, and this one is {minor}",
            hint=f"{INSTALL} with the path of a newer interpreter",
        )
    return _PINS / ("py311.txt" if int(rest) == 11 else "py312.txt")


def folder_for(requirements: Path, minor: str, cache: Path | None = None) -> Path:
    """Return where the environment with these pins lives, built or not."""
    text = requirements.read_text(encoding="utf-8")
    key = hashlib.sha256(f"{text}{minor}".encode()).hexdigest()[:16]
    return (cache.expanduser().resolve() if cache else cache_root()) / "converter" / key


def read_complete(folder: Path) -> Environment | None:
    """Return the environment in ``folder`` if it was built to the end and still stands there."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        # Scripts hold absolute paths: an environment that was moved is not the one that was built,
        # one that is reached through a link is.
        stands = Path(marker["folder"]).samefile(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    python = folder / "bin" / "python"
    return Environment(python, folder) if stands and os.access(python, os.X_OK) else None


def find(python: str | None = None, cache: Path | None = None) -> Environment:
    """Return the environment to convert in.

    ``python`` is a user's own interpreter, taken as it is once it has imported onnx2tf; without
    it, the sealed environment of the running Python version, else of another version.

    Raises:
        ConverterMissing: none is built.
        ConverterError: the user's interpreter does not exist or cannot import onnx2tf.
    """
    if python:
        return _own(python)
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    minors = (running, *(minor for minor in _MINORS if minor != running))
    folders = [folder_for(requirements_for(minor), minor, cache) for minor in minors]
    for folder in folders:
        if (ready := read_complete(folder)) is not None:
            return ready
    raise ConverterMissing(
        "The converter's own environment is not built", artifact=folders[0], hint=INSTALL
    )


def pins(env: Environment) -> dict[str, str]:
    """Return what decides a conversion: the sealed environment, or the packages of another one.

    Of a user's own interpreter those packages count that the sealed environments hold too: what
    else is installed there converts nothing.
    """
    if env.folder is not None:
        return {"converter": env.folder.name}
    known = {"python", *(name for file in _PINS.glob("*.txt") for name in _pinned(file))}
    return {name: number for name, number in versions(env).items() if name in known}


def _pinned(requirements: Path) -> list[str]:
    """Return the normalised names of the packages in a file of requirements."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    names = (line.partition("==")[0] for line in lines if "==" in line and line[0] != "#")
    return [name.strip().lower().replace("_", "-") for name in names]


def versions(env: Environment) -> dict[str, str]:
    """Return the version of Python and of every package in the environment, by name."""
    done = probe(env, _VERSIONS)
    found = json.loads(done)
    return {str(name): str(version) for name, version in sorted(found.items())}


def probe(env: Environment, code: str) -> str:
    """Run a few lines in the environment and return what they print.

    Raises:
        ConverterError: they fail, or take minutes.
    """
    command = env.command("-c", code)
    try:
        done = subprocess.run(
            command,
            env=env.variables(),
            cwd=env.python.parent,
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConverterError(
            f"The converter's interpreter fails: {last}",
            artifact=env.python,
            hint=f"{INSTALL}, or point converter.python at an interpreter that has onnx2tf",
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConverterError(
            f"The converter's interpreter does not run: {error}", artifact=env.python, hint=INSTALL
        ) from error
    return done.stdout


def _own(python: str) -> Environment:
    located = shutil.which(os.path.expanduser(python))
    if located is None:
        raise ConverterError(
            "There is no such interpreter",
            artifact=python,
            hint=f"correct converter.python, or leave it out and type {INSTALL}",
        )
    # Not resolved: the link is what makes a virtual environment one.
    env = Environment(Path(os.path.abspath(located)))
    probe(env, "import onnx2tf")
    return env
