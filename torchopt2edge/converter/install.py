"""Build the sealed environment, once, safely against kills and other processes.

I1. It is built where it will live (its scripts hold absolute paths) and exists for readers only
    once the marker, written last, is there.
I2. A folder without a marker is somebody's broken attempt: it is wiped.
I3. One build at a time: a file lock, which pip inherits, so that it outlives a killed installer
    for as long as its pip still writes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchopt2edge.converter.environment import (
    INSTALL,
    MARKER,
    Environment,
    folder_for,
    probe,
    read_complete,
    requirements_for,
)
from torchopt2edge.errors import ConverterError, StoreError

Progress = Callable[[str], None]
_QUOTED_LINES = 12


def install(
    python: Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    requirements: Path | None = None,
) -> Environment:
    """Build the sealed environment unless it is there; return it.

    Args:
        python: the interpreter to build it with; the running one by default.
        cache: the cache's root instead of the user's.
        progress: is told what happens, one line at a time.
        requirements: pins to use instead of those shipped for that Python version.

    Raises:
        ConverterError: the interpreter is unfit or pip failed; quotes the end of the log.
        StoreError: the cache cannot be written.
    """
    say = progress or (lambda line: None)
    interpreter = Path(python or sys.executable)
    minor = _minor_of(interpreter)
    pins = requirements or requirements_for(minor)
    folder = folder_for(pins, minor, cache)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock"), say) as lock:
            ready = read_complete(folder)
            if ready is not None:
                say(f"The converter is already in {folder}")
                return ready
            _Build(interpreter, pins, folder, lock, say).run()
    except OSError as error:
        raise StoreError(
            f"The converter cannot be written: {error}",
            artifact=folder,
            hint="make room there, or set TORCHOPT2EDGE_CACHE to a folder on a larger disk",
        ) from error
    return Environment(folder / "bin" / "python", folder)


@contextlib.contextmanager
def _locked(path: Path, say: Progress) -> Iterator[int]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another process is building the converter: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


@dataclass(frozen=True)
class _Build:
    """One attempt at building an environment into its folder."""

    interpreter: Path
    requirements: Path
    folder: Path
    lock: int
    say: Progress

    def run(self) -> None:
        """Make the environment, fill it, try it, and mark it complete."""
        self.say(f"Building the converter in {self.folder}")
        (self.folder / MARKER).unlink(missing_ok=True)
        if self.folder.exists():
            shutil.rmtree(self.folder)  # I2
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._step("Making the environment", [str(self.interpreter), "-m", "venv"])
            self._step("Installing the packages (a few minutes)", self._pip())
            if "onnx2tf==" in self.requirements.read_text(encoding="utf-8"):
                probe(Environment(self.folder / "bin" / "python", self.folder), "import onnx2tf")
            self._mark()
            undo.pop_all()
        self.say("The converter is ready")

    def _pip(self) -> list[str]:
        # The pins are a whole environment: nothing is left for pip to resolve.
        quiet = ["--no-input", "--disable-pip-version-check", "--no-deps", "--progress-bar", "off"]
        python = str(self.folder / "bin" / "python")
        return [python, "-I", "-m", "pip", "install", *quiet, "-r", str(self.requirements)]

    def _step(self, title: str, command: Sequence[str]) -> None:
        self.say(title)
        target = [str(self.folder)] if command[-1] == "venv" else []
        log = self.folder.with_suffix(".log")
        with log.open("a" if not target else "w", encoding="utf-8") as file:
            done = subprocess.run(
                [*command, *target],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=[self.lock],  # I3
                check=False,
            )
        if done.returncode != 0:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            quoted = "\n  ".join(lines[-_QUOTED_LINES:])
            raise ConverterError(
                f"{title} failed with status {done.returncode}:\n  {quoted}\n",
                artifact=log,
                hint=f"see that the package index is reachable, then type {INSTALL} again",
            )

    def _mark(self) -> None:
        content = {"folder": str(self.folder), "requirements": self.requirements.name}
        part = self.folder / f"{MARKER}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.folder / MARKER)  # I1


def _minor_of(interpreter: Path) -> str:
    """Return the version of an interpreter as ``3.11``."""
    located = shutil.which(interpreter.expanduser())
    if located is None:
        raise ConverterError(
            "There is no such interpreter",
            artifact=interpreter,
            hint="give the path of a Python 3.11 or newer",
        )
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return probe(Environment(Path(os.path.abspath(located))), code).strip()
