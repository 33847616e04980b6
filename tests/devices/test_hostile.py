"""A device that answers anything: what is done with it ends well, or in an error with a name."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.devices.shells import Shell
from tests.devices.test_answers import SAMPLES
from tests.hostile import EXAMPLES, damaged
from torchopt2edge.cli.devices import clean, to_push
from torchopt2edge.deploy import python_packages
from torchopt2edge.devices import discover
from torchopt2edge.devices.android import steady
from torchopt2edge.devices.remote.device import Remote
from torchopt2edge.devices.remote.files import bring
from torchopt2edge.devices.remote.transport import Finished
from torchopt2edge.errors import EdgeError

Act = Callable[[Remote, Path], Any]
# What is done with a device → how. `here` is a file of this machine.
ACTS: dict[str, Act] = {
    "facts": lambda device, here: device.facts(),
    "machine": lambda device, here: device.machine(),
    "cores": lambda device, here: replace(device, cores="big").pinned,
    "runtimes": lambda device, here: discover.look(device.run, device.python),
    "wheels": lambda device, here: python_packages.bring(device, "onnxruntime"),
    "push": lambda device, here: device.push(here),
    "push all": lambda device, here: bring(device, {"a": here, "b/c": here}, runs=True),
    "first push": lambda device, here: to_push(device, {}),
    "clean": lambda device, here: clean(device),
    "execute": lambda device, here: device.execute(["true"], 5.0).said,
    "sensors": lambda device, here: steady.Keeper(device, "jobs/x").moments(),
    "steady": lambda device, here: steady._start(device, "jobs/x", True),
}


@dataclass
class Script:
    """What a link answers, one after the other; the last stays."""

    answers: list[Finished]
    heard: list[Finished] = field(default_factory=list)

    def next(self) -> Finished:
        """Return the next answer."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@dataclass(frozen=True)
class RecordingLink:
    """A real link; what the device answers over it is kept."""

    shell: Shell
    script: Script

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Finished:
        """Run it there."""
        found = self.shell.link.run(script, stdin, timeout_s)
        self.script.heard.append(found)
        return found

    def push(self, file: Path, to: str) -> None:
        """Copy it there."""
        self.shell.link.push(file, to)


@dataclass(frozen=True)
class ScriptedLink:
    """A link to a device that answers by a script."""

    script: Script

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Finished:
        """Answer the next."""
        return self.script.next()

    def push(self, file: Path, to: str) -> None:
        """Copy nothing."""

    def recover(self) -> None:
        """Nothing helps."""


@dataclass(frozen=True, kw_only=True)
class Device(Remote):
    """A device at the end of one of these links."""

    over: Any

    @property
    def name(self) -> str:
        """The word in the rows' ``device``."""
        return "hostile"

    @property
    def link(self) -> Any:
        """The link to it."""
        return self.over


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Finished]]:
    """What a real device answers in each act."""
    found = {}
    for name, act in ACTS.items():
        folder = tmp_path_factory.mktemp("real")
        (folder / "file").write_text("x")
        shell, script = Shell(kind="dash", root=folder), Script([])
        device = Device(over=RecordingLink(shell, script), python=sys.executable)
        try:
            act(device, folder / "file")
        except EdgeError:
            pass  # this machine may not tell its cores apart, and is no phone
        found[name] = script.heard
    applied = b"stay_on yes\nfixed_performance yes\n"
    return found | {
        "sensors": [Finished(0, SAMPLES + b"\x1enow\n13.5\n")],
        "steady": [Finished(0, applied)],
    }


@contextmanager
def file_here() -> Iterator[Path]:
    """A file of this machine."""
    with tempfile.TemporaryDirectory(prefix="t2e-") as folder:
        file = Path(folder) / "file"
        file.write_text("x")
        yield file


@pytest.mark.parametrize("name", ACTS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_anything_that_a_device_answers_ends_in_an_error_with_a_name(
    name: str, real: dict[str, list[Finished]], data: st.DataObject
) -> None:
    codes = st.sampled_from([0, 0, 0, 1, 60, 66, 70, 71, 127, 255])
    said = [
        Finished(
            data.draw(codes),
            data.draw(damaged(one.stdout, (b"/x\n", b"\x1enow\n", b"gunzip\n", b"1.5"))),
            data.draw(st.just(one.stderr) | damaged(b"sh: 1: no space\n")),
        )
        for one in real[name]
    ]
    why = ""
    with file_here() as here:
        device = Device(over=ScriptedLink(Script(said)), link_patience_s=0.0, patience_s=10.0)
        try:
            found = ACTS[name](device, here)
        except EdgeError as error:
            why = str(error)
        else:
            json.dumps(found)
    assert why.isprintable()
