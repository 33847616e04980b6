"""Building the sealed environment: once, whole, and safely against kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from torchopt2edge.converter import find, install, pins, versions
from torchopt2edge.converter.environment import (
    MARKER,
    Environment,
    folder_for,
    read_complete,
    requirements_for,
)
from torchopt2edge.errors import ConverterError, ConverterMissing, StoreError

RUN = """
import sys
from pathlib import Path
from torchopt2edge.converter import install
install(cache=Path(sys.argv[1]), requirements=Path(sys.argv[2]),
        progress=lambda line: print(line, flush=True))
"""
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return requirements that hold one tiny wheel of our own: no index is asked."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = folder / "pebble-1.0-py3-none-any.whl"
    info = "pebble-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("pebble.py", "WEIGHT = 7\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: pebble\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    requirements = folder / "tiny.txt"
    requirements.write_text(f"{wheel}\n")
    return requirements


def start(cache: Path, requirements: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(cache), str(requirements)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_at_once_build_once(tmp_path: Path, tiny: Path) -> None:
    builders = [start(tmp_path, tiny) for _ in range(2)]
    said = [builder.communicate(timeout=120)[0] for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert sum("Building" in text for text in said) == 1
    assert sum("already in" in text for text in said) == 1
    env = install(cache=tmp_path, requirements=tiny)
    assert versions(env)["pebble"] == "1.0"
    # A copy elsewhere is not the environment that was built: its scripts hold absolute paths.
    moved = tmp_path / "moved"
    assert env.folder is not None
    moved.mkdir()
    shutil.copy(env.folder / MARKER, moved / MARKER)
    (moved / "bin").symlink_to(env.folder / "bin")
    assert read_complete(env.folder) == env
    assert read_complete(moved) is None
    linked = tmp_path / "linked"
    linked.symlink_to(env.folder)
    assert read_complete(linked) == Environment(linked / "bin/python", linked)


def test_what_decides_a_conversion(tmp_path: Path) -> None:
    """The sealed environment by its name; of another interpreter what a sealed one holds too."""
    sealed = Environment(Path(sys.executable), tmp_path / "0123")
    assert pins(sealed) == {"converter": "0123"}
    mine = Environment(Path(sys.executable))
    found, installed = pins(mine), versions(mine)
    assert {"python", "numpy", "onnx", "ai-edge-litert"} <= found.keys()
    assert found.items() < installed.items()
    assert "torch" in installed.keys() - found.keys()


def test_a_killed_install_leaves_nothing_that_is_used(tmp_path: Path, tiny: Path) -> None:
    folder = folder_for(tiny, MINOR, tmp_path)
    builder = start(tmp_path, tiny)
    assert builder.stdout is not None
    while "Installing" not in builder.stdout.readline():
        assert builder.poll() is None
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    assert (folder / "bin" / "python").exists(), "it was killed in the middle"
    assert read_complete(folder) is None
    (folder / "debris").touch()
    env = install(cache=tmp_path, requirements=tiny)
    assert env.folder == folder
    assert not (folder / "debris").exists(), "the broken attempt was wiped"
    assert versions(env)["pebble"] == "1.0"


def test_the_lock_outlives_a_killed_installer_while_its_pip_writes(tmp_path: Path) -> None:
    # A first in first out file that nobody writes to: pip hangs on reading its requirements.
    hanging = tmp_path / "hanging.txt"
    os.mkfifo(hanging)
    code = (
        "import fcntl, subprocess, sys\n"
        "from pathlib import Path\n"
        "from torchopt2edge.converter.install import _Build, _locked\n"
        "root = Path(sys.argv[1])\n"
        "with _locked(root / 'k.lock', print) as lock:\n"
        "    build = _Build(Path(sys.executable), root, root / 'k', lock, print)\n"
        "    wait = 'import sys; open(sys.argv[1])'\n"
        "    build._step('pip', [sys.executable, '-c', wait, sys.argv[2]])\n"
    )
    builder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(hanging)])
    children = Path(f"/proc/{builder.pid}/task/{builder.pid}/children")
    deadline = time.monotonic() + 20
    while not (found := children.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    busy = ["flock", "--nonblock", str(tmp_path / "k.lock"), "true"]
    assert subprocess.run(busy, check=False).returncode == 1, "the orphan still holds it"
    os.kill(int(found[0]), signal.SIGKILL)
    while subprocess.run(busy, check=False).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_failed_install_quotes_pip_and_leaves_no_folder(tmp_path: Path) -> None:
    requirements = tmp_path / "bad.txt"
    requirements.write_text(f"{tmp_path}/no_such-1.0-py3-none-any.whl\n")
    with pytest.raises(ConverterError, match=r"(?s)no_such.*torchopt2edge converter install"):
        install(cache=tmp_path, requirements=requirements)
    assert not folder_for(requirements, MINOR, tmp_path).exists()


def test_a_cache_that_cannot_be_written(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="TORCHOPT2EDGE_CACHE"):
        install(cache=tmp_path / "file", requirements=tiny)


def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConverterError, match="no such interpreter"):
        install(python=tmp_path / "python", cache=tmp_path)


def test_a_missing_environment_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(ConverterMissing, match="Hint: torchopt2edge converter install"):
        find(cache=tmp_path)


def test_a_marker_alone_is_not_an_environment(tmp_path: Path) -> None:
    folder = folder_for(requirements_for(MINOR), MINOR, tmp_path)
    folder.mkdir(parents=True)
    (folder / MARKER).write_text(json.dumps({"folder": str(folder)}))
    with pytest.raises(ConverterMissing):
        find(cache=tmp_path)


def test_ones_own_interpreter_must_import_onnx2tf() -> None:
    with pytest.raises(ConverterError, match="No module named 'onnx2tf'"):
        find(python=sys.executable)
    with pytest.raises(ConverterError, match="no such interpreter"):
        find(python="/nowhere/python")


def test_each_python_has_its_pins() -> None:
    assert "onnx2tf==1.29.24" in requirements_for("3.11").read_text()
    assert "onnx2tf==2.6.9" in requirements_for("3.12").read_text()
    assert requirements_for("3.13") == requirements_for("3.12")
    with pytest.raises(ConverterError, match=r"3\.10"):
        requirements_for("3.10")
    for file in (requirements_for("3.11"), requirements_for("3.12")):
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        assert all(line.count("==") == 1 and " " not in line for line in lines), file
