"""The other line of the converter: Python 3.12 and newer, onnx2tf 2.x."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.converter.conftest import NETS, REFUSED
from tests.converter.test_convert import parity
from torchopt2edge.converter import Environment, convert, install, versions
from torchopt2edge.converter.environment import folder_for, read_complete, requirements_for
from torchopt2edge.errors import ConverterError

CANDIDATES = [Path(f"python3.{minor}") for minor in (12, 13, 14)]
# 2.6.9 scales the wrong axis where a BatchNorm after a ReLU has as many channels as rows.
MISCOMPUTED = ("norm_after_relu",)
PYENV = sorted((Path.home() / ".pyenv" / "versions").glob("3.1[234]*/bin/python"))


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an environment of that line: the user's if it is built, else one for this test."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    for python in (*CANDIDATES, *PYENV):
        try:
            done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        minor = done.stdout.strip()
        ready = read_complete(folder_for(requirements_for(minor), minor))
        return ready or install(python=python, cache=tmp_path_factory.mktemp("cache"))
    pytest.skip("NOT TESTED: no Python 3.12 or newer was found")


@pytest.mark.slow
def test_the_newer_line_converts(
    newer: Environment, exported: dict[str, Path], tmp_path: Path
) -> None:
    assert versions(newer)["onnx2tf"].startswith("2.")
    for name in NETS:
        if name in (*REFUSED, *MISCOMPUTED):
            continue
        made = convert(exported[name], tmp_path / name / "float.tflite", env=newer)
        assert tuple(spec.name for spec in made.outputs) == NETS[name].outputs
        assert min(parity(exported[name], made).values()) > 95, name


@pytest.mark.slow
@pytest.mark.parametrize("name", MISCOMPUTED)
def test_a_file_that_computes_something_else_is_refused(
    name: str, newer: Environment, exported: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "float.tflite"
    with pytest.raises(ConverterError, match=r"does not compute .* dB only"):
        convert(exported[name], out, env=newer)
    assert not out.exists()
