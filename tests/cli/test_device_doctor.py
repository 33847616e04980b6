"""The doctor on a device: what it says of this machine, of a board, and of what is wrong there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.devices.conftest import cache as cache
from tests.devices.conftest import own_cache as own_cache
from tests.devices.conftest import phone as phone
from tests.devices.conftest import phone_cable as phone_cable
from tests.devices.conftest import phone_folder as phone_folder
from tests.devices.conftest import phone_serial as phone_serial
from tests.devices.conftest import server as server
from tests.devices.serving import Server, all_gone
from torchopt2edge.bench import tiny_model
from torchopt2edge.bench.child_session import open_child
from torchopt2edge.cli.device_doctor import examine
from torchopt2edge.cli.doctor import Check, worst
from torchopt2edge.cli.main import main
from torchopt2edge.devices.adb import Adb
from torchopt2edge.devices.fake import Fake
from torchopt2edge.devices.local import Local
from torchopt2edge.devices.ssh import Ssh


@pytest.fixture
def board(server: Server, tmp_path: Path) -> Ssh:
    """The board, with a folder of this test's own."""
    folder = tmp_path / "board"
    return Ssh("board", config=str(server.config), python=sys.executable, workdir=str(folder))


def by_name(checks: list[Check]) -> dict[str, Check]:
    """The checks by their names."""
    return {check.name: check for check in checks}


def test_both_files_are_the_same_small_model(tmp_path: Path) -> None:
    """Held against numpy: what the two runtimes agree on could be wrong in both."""
    image = tiny_model.sample()["image"]
    weight, bias = tiny_model._weights()
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    wanted = np.einsum("ncyxhw,ochw->noyx", windows, weight) + bias[:, None, None]
    for candidate in (tiny_model.onnx_model(tmp_path), tiny_model.tflite_model(tmp_path)):
        assert candidate.file.stat().st_size < 4096
        with open_child(candidate, Local(), tmp_path / "log") as session:
            found = session(tiny_model.sample())["features"]
        np.testing.assert_allclose(found, np.maximum(wanted, 0), atol=1e-5)


@pytest.mark.parametrize("runner", ["python", "native"])
def test_a_board_is_sound(board: Ssh, tmp_path: Path, runner: str) -> None:
    checks = examine(replace(board, runner=runner), tmp_path)
    found = by_name(checks)
    assert worst(checks) == "ok", checks
    assert found["runner"].what == f"{runner}, 1 thread"
    assert "round trip" in found["link"].what
    for name, runtime in (("ort", "onnxruntime"), ("litert", "litert")):
        assert found[name].what.startswith(f"{runtime} ")
        assert found[f"{name} outputs"].what.startswith("largest difference from this machine 0,")
        assert len(found[f"{name} library"].what.rpartition(" ")[2]) == 64
        assert "steady" in found[f"{name} times"].what
        assert "load" in found[f"{name} sensors"].what
    assert ("python" in found) == (runner == "python")
    assert all_gone(tmp_path / "board", 5.0)


def test_a_phone_is_sound(phone: str, tmp_path: Path) -> None:
    """A real adbd; the runner and the libraries are pushed, for a phone has no Python."""
    checks = examine(Adb(serial=phone, workdir=str(tmp_path / "phone")), tmp_path)
    found = by_name(checks)
    assert worst(checks) == "ok", checks
    assert found["runner"].what == "native, 1 thread"
    assert found["litert outputs"].what.startswith("largest difference from this machine 0,")


def test_a_board_without_the_runtimes_says_what_to_type(board: Ssh, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    found = by_name(examine(replace(board, python=str(bare)), tmp_path))
    assert found["ort"].status == found["litert"].status == "fail"
    assert "has no numpy, onnxruntime" in found["ort"].what
    assert found["ort"].hint.startswith("device.fetch=true brings it")
    assert f"{bare} -m pip install onnxruntime" in found["ort"].hint
    missing = by_name(examine(replace(board, python="/no/python"), tmp_path))
    assert missing["python"].status == "fail"
    assert "device.python" in missing["python"].hint


def test_a_board_that_is_not_there_is_one_finding(tmp_path: Path) -> None:
    (only,) = examine(Ssh("no.such.host.invalid", link_patience_s=0.3), tmp_path)
    assert (only.name, only.status) == ("device", "fail")
    assert "no.such.host.invalid" in only.what
    assert only.hint


def test_other_outputs_are_a_defect_and_an_emulator_is_told(tmp_path: Path) -> None:
    def wrong(file: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        shape = (1, tiny_model.WIDTH, tiny_model.SIZE, tiny_model.SIZE)
        size = shape if file.endswith(".onnx") else tuple(shape[at] for at in (0, 2, 3, 1))
        return {"y": np.ones(size, np.float32)}

    found = by_name(examine(Fake(outputs=wrong, machine={"emulated": True}), tmp_path))
    assert found["emulated"].status == "warn"
    assert found["ort outputs"].status == found["litert outputs"].status == "fail"
    assert "into an issue" in found["ort outputs"].hint


def test_the_command_prints_what_can_be_pasted(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [
        f"device.config={server.config}",
        f"device.python={sys.executable}",
        f"device.workdir={tmp_path / 'board'}",
    ]
    assert main(["doctor", "device=ssh", "device.host=board", *where]) == 0
    said = capsys.readouterr().out
    assert said.startswith("torchopt2edge ")
    assert "doctor on ssh:board" in said
    assert "litert outputs" in said
    assert main(["doctor", "device=ssh", "device.hots=board"]) == 2
    assert main(["doctor", "device=ssh", "device.host=no.such.host.invalid"]) == 1
