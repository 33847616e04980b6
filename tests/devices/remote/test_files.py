"""Files on a device, one and many, in the shells of a Debian, a BusyBox and an Android device."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.devices.serving import skip
from tests.devices.shells import SHELLS, Shell
from torchopt2edge.devices.remote import files as remote_files
from torchopt2edge.devices.remote.files import Memory
from torchopt2edge.devices.remote.transport import Finished
from torchopt2edge.errors import DeviceError

SIZES = {"run it's": 70_001, "lib/one.so": 3, "lib/deep/two.so.6": 0, "lib/three.so": 65_536}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    """A device with each kind of shell, and a folder with a name that needs quotes."""
    if not shutil.which(SHELLS[request.param][0][0]):
        skip(f"there is no {request.param}")
    return Shell(kind=request.param, root=tmp_path, workdir="it's here", link_patience_s=2.0)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Some files, one of them a program."""
    found = {}
    for number, (name, size) in enumerate(SIZES.items()):
        file = found[name] = tmp_path / f"file{number}"
        file.write_bytes(hashlib.shake_128(name.encode()).digest(size))
        file.chmod(0o644)
    found["run it's"].write_text("#!/bin/sh\necho ran\n")
    found["run it's"].chmod(0o755)
    return found


def anew(device: Shell) -> Shell:
    """The device as another process sees it, which knows nothing of what is there."""
    return replace(device, memory=Memory())


def assert_there(folder: str, files: dict[str, Path]) -> None:
    """The folder holds these files and nothing else, and nothing else lies beside it."""
    place = Path(folder)
    found = {str(one.relative_to(place)): one for one in place.rglob("*") if one.is_file()}
    assert {name: one.read_bytes() for name, one in found.items()} == {
        name: one.read_bytes() for name, one in files.items()
    }
    assert [one.name for one in place.parent.iterdir()] == [place.name]


def test_they_lie_side_by_side_and_are_sent_once(shell: Shell, files: dict[str, Path]) -> None:
    folder = shell.push_all(files)
    assert folder.endswith(f"it's here/files/{Path(folder).name}")
    assert_there(folder, files)
    said = subprocess.run([f"{folder}/run it's"], capture_output=True, text=True, check=True)
    assert said.stdout == "ran\n"
    assert not os.access(f"{folder}/lib/one.so", os.X_OK)
    sent, commands = shell.cuts.sent, shell.cuts.commands
    assert shell.push_all(files) == folder
    assert (shell.cuts.sent, shell.cuts.commands) == (sent, commands)
    assert anew(shell).push_all(files) == folder
    assert (shell.cuts.sent, shell.cuts.commands) == (sent, commands + 1)


def test_what_was_damaged_there_is_sent_anew(shell: Shell, files: dict[str, Path]) -> None:
    folder = shell.push_all(files)
    for name in ("lib/one.so", "lib/three.so"):
        (Path(folder) / name).write_bytes(b"x" * SIZES[name])  # of the same size
        assert anew(shell).push_all(files) == folder
        assert_there(folder, files)
    (Path(folder) / "lib/one.so").unlink()
    assert anew(shell).push_all(files) == folder
    assert_there(folder, files)


def test_another_name_or_another_mode_is_another_folder(
    shell: Shell, files: dict[str, Path]
) -> None:
    first = shell.push_all(files)
    renamed = {name.replace("one", "uno"): file for name, file in files.items()}
    second = shell.push_all(renamed)
    files["lib/one.so"].chmod(0o755)
    assert len({first, second, shell.push_all(files)}) == 3


@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize("number", range(2))
def test_a_link_that_breaks_is_tried_again(
    shell: Shell, files: dict[str, Path], cut: str, number: int
) -> None:
    shell.cuts.plan.extend([*["whole"] * number, cut])
    assert_there(shell.push_all(files), files)
    assert shell.cuts.commands == 3


def test_a_transfer_that_was_cut_short_leaves_nothing(
    shell: Shell, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link says that all went well, as one whose device is full does."""
    whole = type(shell.link).push

    def short(self: object, file: Path, to: str) -> None:
        whole(shell.link, file, to)
        os.truncate(to, file.stat().st_size // 2)

    monkeypatch.setattr(type(shell.link), "push", short)
    with pytest.raises(DeviceError, match=r"not what was sent.*free some space"):
        shell.push_all(files)
    place = shell.root / "home/it's here/files"
    assert [*place.iterdir()] == []


def test_a_device_without_gunzip_gets_them_plain(files: dict[str, Path], tmp_path: Path) -> None:
    if not shutil.which("busybox"):
        skip("there is no busybox")
    device = Shell(kind="busybox", root=tmp_path)
    device.link.run("true")
    (tmp_path / "bin/gunzip").unlink()
    assert_there(device.push_all(files), files)
    assert device.cuts.sent == sum(one.stat().st_size for one in files.values())


def test_what_repeats_is_packed(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(1 << 20))
    assert_there(shell.push_all({"zeros": tmp_path / "zeros"}), {"zeros": tmp_path / "zeros"})
    assert shell.cuts.sent < 1 << 14


def test_a_folder_where_no_program_may_run(files: dict[str, Path], tmp_path: Path) -> None:
    """In mounts of its own: the shell that is the device sees a folder that is noexec."""
    if os.getuid() or not shutil.which("unshare"):
        skip("mounting a folder takes root and unshare")
    shell = tmp_path / "sh"
    place = tmp_path / "home" / "t2e"
    place.mkdir(parents=True)
    shell.write_text(f"""#!/bin/sh
exec unshare --mount sh -c 'mount --bind "$0" "$0" && mount -o remount,bind,noexec "$0" && \\
  exec sh "$@"' {place} "$@"
""")
    shell.chmod(0o755)
    SHELLS_HERE = {**SHELLS, "noexec": ([str(shell)], None)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.devices.shells.SHELLS", SHELLS_HERE)
        device = Shell(kind="noexec", root=tmp_path, workdir="t2e")
        with pytest.raises(DeviceError, match=r"mounted noexec.*device\.workdir"):
            device.push_all(files)
        only = {"lib/one.so": files["lib/one.so"]}
        assert_there(device.push_all(only), only)


def test_a_folder_that_cannot_be_written(shell: Shell, files: dict[str, Path]) -> None:
    (shell.root / "home").mkdir(exist_ok=True)
    (shell.root / "home/it's here").write_text("a file")
    with pytest.raises(DeviceError, match=r"cannot be written on shell:.*device\.workdir"):
        shell.push_all(files)


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../x", "a//x", "", "."])
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="is no name for a file"):
        remote_files.bring(Shell(root=tmp_path), {name: tmp_path / "file"})


def test_a_file_that_is_not_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot be read"):
        Shell(root=tmp_path).push_all({"x": tmp_path / "nowhere"})


def test_one_file_is_sent_as_it_is_and_renamed(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "it's a\nnet $(x).onnx"
    file.write_bytes(bytes(100_000))
    target = Path(shell.push(file))
    assert_there(str(target.parent), {file.name: file})
    assert (shell.cuts.sent, shell.cuts.commands) == (100_000, 2)  # and not packed
    copy = tmp_path / "other" / file.name
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    assert shell.push(copy) == str(target)  # the same bytes and name
    assert shell.cuts.commands == 2
    assert remote_files.place_of({file.name: file}) == target.parent.name


def test_a_file_that_only_looks_like_a_program_may_lie_where_none_runs(
    shell: Shell, tmp_path: Path, small: Path
) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"a net")
    file.chmod(0o755)
    device = replace(shell, workdir=str(small / "t2e"))
    assert Path(device.push(file)).read_bytes() == b"a net"


@pytest.mark.parametrize("said", ["", "none", "../x\nnone", "/a\x1b[2J\nnone"])
def test_a_device_that_names_no_folder_is_refused(said: str, tmp_path: Path) -> None:
    """What it names is written to there, and to no file of this machine."""
    talker = Lying(kind="dash", root=tmp_path, answer=said)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DeviceError, match="was asked for a folder"):
        talker.push(tmp_path / "file")
    assert talker.cuts.sent == 0


class Lying(Shell):
    """A device that answers every script with the same."""

    answer: str = ""

    def __init__(self, answer: str, **fields: object) -> None:
        super().__init__(**fields)  # type: ignore[arg-type]
        object.__setattr__(self, "answer", answer)

    def run(self, *_: object, **__: object) -> Finished:
        """Say it."""
        return Finished(70, f"{self.answer}\n".encode())
