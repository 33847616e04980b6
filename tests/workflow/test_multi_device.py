"""One comparison on several devices: a folder each, and a report above that misses none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import torchopt2edge as t2e
from tests.devices.conftest import server as server
from tests.devices.serving import Server
from torchopt2edge.cli.main import main
from torchopt2edge.devices.fake import Fake
from torchopt2edge.devices.local import Local
from torchopt2edge.devices.ssh import Ssh
from torchopt2edge.errors import ConfigError, DeviceError
from torchopt2edge.report import schema
from torchopt2edge.report.devices import sweep
from torchopt2edge.report.devices import table as device_table
from torchopt2edge.store import Store
from torchopt2edge.types import Measurement, Verdict
from torchopt2edge.workflow import multi_device


class Named(Fake):
    """A fake device with a name of its own."""

    @property
    def name(self) -> str:
        """What its facts say."""
        return str(self.machine.get("name", "fake"))


def fake(name: str, **latency_ms: float) -> Named:
    """A device on which files take so long, by their stems, and ±1 % of weather."""
    paces = np.random.default_rng(len(name)).normal(1.0, 0.003, 301)
    rounds = {f"{stem}.onnx": [ms * pace for pace in paces] for stem, ms in latency_ms.items()}
    return Named(latency_ms=rounds, machine={"name": name, "cpu": f"cpu of {name}"})


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two float ONNX files."""
    found = []
    for name, width in (("small", 2), ("large", 3)):
        weight = np.ones((width, 3, 1, 1), np.float32)
        graph = helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], ["y"])],
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, width, 8, 8])],
            [numpy_helper.from_array(weight, "w")],
        )
        opset = [helper.make_opsetid("", 17)]
        found.append(tmp_path / f"{name}.onnx")
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), found[-1])
    return found


def told(out: Path) -> dict[str, Any]:
    """The verdict above the devices, as its schema has it."""
    found: dict[str, Any] = json.loads((out / "verdict.json").read_text())
    jsonschema.validate(found, schema.devices_schema())
    return found


def test_the_order_that_turns_is_said(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    pair = (fake("pi", small=1.0, large=2.0), fake("phone", small=3.0, large=2.0))
    result = t2e.bench(files, devices=pair, timing="smoke", out=out)
    assert result.verdict.winner is None
    assert {name: one.verdict.winner for name, one in result.devices.items()} == {
        "pi": "small-ort-fp32",
        "phone": "large-ort-fp32",
    }
    assert [row.device for row in result.rows] == ["pi", "pi", "phone", "phone"]
    found = told(out)
    assert found["winner"] is None
    assert found["headline"] == (
        "It depends on the device: small-ort-fp32 wins on pi, large-ort-fp32 wins on phone."
    )
    turned = found["flips"]
    assert turned[0].startswith("On pi small-ort-fp32 wins; large-ort-fp32, the winner on phone,")
    assert turned[0].endswith("as long there.")
    assert len(turned) == 2
    assert {"verdict.json", "report.md", "report.html", "pi", "phone"} <= {
        path.name for path in out.iterdir()
    }
    assert (out / "pi/report.html").is_file()


def test_a_winner_on_all_devices_is_the_winner(files: list[Path], tmp_path: Path) -> None:
    pair = (fake("pi", small=1.0, large=2.0), fake("phone", small=3.0, large=4.0))
    result = t2e.bench(files, devices=pair, timing="smoke", out=tmp_path / "out")
    assert result.verdict.winner == "small-ort-fp32"
    assert result.verdict.reasons == ["Ship small-ort-fp32: it wins on pi and phone."]


def test_a_device_that_is_not_there_is_a_column_with_its_error(
    files: list[Path], tmp_path: Path
) -> None:
    gone = Ssh("no.such.host.invalid", link_patience_s=0.3)
    out = tmp_path / "out"
    pair = (gone, fake("pi", small=1.0, large=2.0))
    result = t2e.bench(files, devices=pair, timing="smoke", out=out)
    assert result.devices["pi"].verdict.winner == "small-ort-fp32"
    assert result.devices["ssh:no.such.host.invalid"].rows == []
    alone, there = sweep.collect([("width=2", str(out))])
    assert (alone["device"], alone["overrides"]) == ("ssh:no.such.host.invalid", "width=2")
    assert "no.such.host.invalid" in alone["err"]
    assert (there["device"], there["pick"]) == ("pi", "small-ort-fp32")
    assert 0.9 < there["latency_ms"] < 1.1
    first, second = told(out)["devices"]
    assert "no.such.host.invalid" in first["err"]
    assert second["err"] is None
    said = (out / "report.md").read_text()
    assert "it wins on pi; ssh:no.such.host.invalid could not be used" in said
    with pytest.raises(DeviceError, match="none of the 2 devices"):
        t2e.bench(files, devices=(gone, gone), timing="smoke", out=tmp_path / "none")
    assert [one["folder"] for one in told(tmp_path / "none")["devices"]] == [
        "ssh-no.such.host.invalid",
        "ssh-no.such.host.invalid-2",
    ]


def test_what_is_wrong_with_the_run_itself_is_no_column(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are no files"):
        t2e.bench([], devices=(fake("a"), fake("b")), out=tmp_path / "out")
    assert not (tmp_path / "out/verdict.json").exists()


def test_what_was_measured_before_an_interrupt_is_shown(files: list[Path], tmp_path: Path) -> None:
    class Interrupted(Named):
        def sensors(self, rounds: int) -> dict[str, Any]:
            """Press Ctrl-C in the third round."""
            if rounds == 3:
                raise KeyboardInterrupt
            return super().sensors(rounds)

    trio = (fake("pi", small=1.0, large=2.0), Interrupted(machine={"name": "phone"}), fake("tv"))
    with pytest.raises(KeyboardInterrupt):
        t2e.bench(files, devices=trio, timing="smoke", out=tmp_path / "out")
    first, second = told(tmp_path / "out")["devices"]
    assert (first["device"], first["winner"]) == ("pi", "small-ort-fp32")
    assert (second["device"], second["winner"]) == ("phone", None)
    assert (tmp_path / "out/phone/report.html").is_file()


def test_one_device_is_a_run_as_before(files: list[Path], tmp_path: Path) -> None:
    result = t2e.bench(files, device=fake("pi"), timing="smoke", out=tmp_path / "out")
    assert result.devices == {}
    assert (tmp_path / "out/rows.jsonl").is_file()


def test_the_report_is_rendered_again(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    pair = (fake("pi", small=1.0, large=2.0), fake("pi", small=3.0, large=2.0))
    t2e.bench(files, devices=pair, timing="smoke", out=out)
    places = [*out.rglob("report.*"), out / "verdict.json"]
    before = {path: path.read_bytes() for path in places if path.suffix in (".md", ".html")}
    assert len(before) == 6
    for path in before:
        path.unlink()
    assert main(["report", f"run={out}"]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert "small-ort-fp32 wins on pi, large-ort-fp32 wins on pi 2" in " ".join(
        capsys.readouterr().out.split()
    )
    assert [run.device for run in device_table.read(out).runs] == ["pi", "pi 2"]


def test_candidates_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calibration set is an iterator, which can be walked once; the store has the rest."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ran: list[str] = []
    make = Store.make

    def counted(self: Store, key: str, kind: str, maker: Any) -> Any:
        def noted(out: Path) -> Any:
            ran.append(kind)
            return maker(out)

        return make(self, key, kind, noted)

    monkeypatch.setattr(Store, "make", counted)
    result = t2e.compare(
        net,
        example_inputs=(images[:4],),
        calibration=iter(images.split(8)),
        backends=("ort",),
        schemes=("int8",),
        baseline=False,
        devices=(Local(), Local(threads=2)),
        timing="smoke",
        store=Store(tmp_path / "store"),
        out=tmp_path / "out",
    )
    assert [*result.devices] == ["local", "local 2"]
    assert [(row.candidate, row.err) for row in result.rows] == [("ort-int8", None)] * 2
    assert len({row.facts["digest"] for row in result.rows}) == 1
    assert [row.facts["threads"] for row in result.rows] == [1, 2]
    assert "lowered" in ran
    assert len(ran) == len(set(ran)), ran


def test_folders_have_names_of_their_own() -> None:
    hosts = (Ssh("../a"), Ssh("..-a"), Ssh("me@[::1]:22"), Local(), Local())
    places = [(name, place) for _, name, place in multi_device._places(hosts)]
    assert places == [
        ("ssh:../a", "ssh-..-a"),
        ("ssh:..-a", "ssh-..-a-2"),
        ("ssh:me@[::1]:22", "ssh-me-1-22"),
        ("local", "local"),
        ("local 2", "local-2"),
    ]


def test_the_command_measures_here_and_on_a_board(
    server: Server, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As typed: a real sshd is the board, and a third device is not there."""
    monkeypatch.chdir(tmp_path)
    command = [
        "bench",
        f"artifacts=[{','.join(map(str, files))}]",
        "devices=[local,ssh:board,ssh:no.such.host.invalid]",
        "device=ssh",
        f"device.config={server.config}",
        f"device.python={sys.executable}",
        f"device.workdir={tmp_path / 'board'}",
        "device.link_patience_s=1",
        "timing=smoke",
        "out=out",
    ]
    assert main(command) == 0
    found = told(tmp_path / "out")
    assert [(one["device"], bool(one["err"])) for one in found["devices"]] == [
        ("local", False),
        ("ssh:board", False),
        ("ssh:no.such.host.invalid", True),
    ]
    for one in found["devices"][:2]:
        assert all(each["latency_ms"] > 0 for each in one["candidates"].values())
    lines = (tmp_path / "out/ssh-board/rows.jsonl").read_text().splitlines()
    assert {json.loads(line)["device"] for line in lines} == {"ssh:board"}


def test_a_wrong_word_is_said_before_anything_is_measured(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", f"artifacts=[{files[0]}]", "devices=[local,shh:pi]", "out=out"]) == 1
    assert not Path("out/local").exists()


@pytest.mark.parametrize(
    ("errs", "worked"),
    [
        ({"torch": None, "ort": "no", "litert": "no"}, False),
        ({"torch": None, "ort": None, "litert": "no"}, True),
        ({"torch": None}, True),
        ({"ort": "no"}, False),
    ],
)
def test_a_run_worked_when_a_file_came_through(
    errs: dict[str, str | None], worked: bool, tmp_path: Path
) -> None:
    rows = [Measurement(name, name, "fp32", err=err) for name, err in errs.items()]
    assert t2e.Result(rows, Verdict(None), tmp_path).worked is worked
