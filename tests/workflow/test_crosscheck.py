"""The cross-check of a whole run: here, over a real sshd, and never in the verdict."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

import torchopt2edge as t2e
from tests.bench.conftest import brief as brief
from tests.bench.conftest import net as net
from tests.bench.conftest import tflite as tflite
from tests.bench.vendor_tools.adder import LITERT_BENCHMARK, printing, widened
from tests.devices.conftest import cache as cache
from tests.devices.conftest import own_cache as own_cache
from tests.devices.conftest import phone as phone
from tests.devices.conftest import phone_cable as phone_cable
from tests.devices.conftest import phone_folder as phone_folder
from tests.devices.conftest import phone_serial as phone_serial
from tests.devices.conftest import server as server
from tests.devices.serving import Server, all_gone
from torchopt2edge import report
from torchopt2edge.bench.harness import measure
from torchopt2edge.bench.thread_settings import Bench
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.bench.vendor_tools.crosscheck import LEAST, check
from torchopt2edge.devices import Local
from torchopt2edge.devices.adb import Adb
from torchopt2edge.devices.fake import Fake
from torchopt2edge.devices.ssh import Ssh
from torchopt2edge.errors import DeviceError
from torchopt2edge.types import Candidate, Measurement
from torchopt2edge.workflow import crosscheck
from torchopt2edge.workflow.existing_files import measure_files
from torchopt2edge.workflow.progress import Tick

MakeNet = Callable[..., Candidate]


class Quiet:
    """Progress that nobody sees; ``at`` is called with every candidate."""

    def __init__(self, at: Tick = lambda done, total, what: None) -> None:
        self.at = at

    def task(self, title: str) -> AbstractContextManager[Tick]:
        """Open a task."""
        return nullcontext(self.at)


@pytest.fixture
def board(server: Server, tmp_path: Path) -> Ssh:
    """The board, with a folder of this test's own."""
    return Ssh(
        "board", config=str(server.config), python=sys.executable, workdir=str(tmp_path / "board")
    )


def shaped(file: Path) -> Path:
    """Give a net of the fixtures the output shape that a file must have to be described."""
    import onnx

    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(file)), file)
    return file


def row(candidate: str, backend: str, file: Path, **facts: object) -> Measurement:
    """A measured row."""
    return Measurement(
        candidate, backend, "fp32", "local", "brief",
        {"latency_ms": 2.0}, [[2_000_000] * 3] * 5, {"file": str(file), **facts},
    )  # fmt: skip


def test_a_run_shows_each_tool_beside_its_row_and_decides_without_it(
    net: MakeNet, tflite: Candidate, tmp_path: Path
) -> None:
    """The tool of LiteRT is the real one; that of ONNX Runtime a script that prints a capture."""
    perf_test = printing(tmp_path / "onnxruntime_perf_test", "perf_test_1_22.txt")
    tools = {"ort": perf_test, "litert": str(LITERT_BENCHMARK)}
    files = [shaped(net("conv").file), widened(tflite).file]
    found = t2e.bench(
        files,
        device=Local(native_tools=tools),
        timing="smoke",
        bench=Bench(threads=(1, 2)),
        constraints=t2e.Constraints(None),
        out=tmp_path / "run",
    )
    rows = {one.candidate: one for one in found.rows}
    assert [one.err for one in found.rows] == [None] * 8
    own = [name for name in rows if "(" not in name]
    assert {name.partition("@")[0] for name in own} == {"conv-ort-fp32", "add512-litert-fp32"}
    for name in own:
        tool = "litert-benchmark" if "litert" in name else "onnxruntime_perf_test"
        beside = rows[f"{name} ({tool})"]
        assert (beside.facts["checks"], beside.facts["runner"]) == (name, tool)
        assert beside.facts["threads"] == rows[name].facts["threads"]
        assert found.verdict.rejected[beside.candidate] == beside.facts["cross_check"]
        assert beside.candidate not in (*found.verdict.ratios, *found.verdict.pareto)
    verdict = found.verdict
    assert {verdict.winner, *verdict.tie} - {None} <= set(own)
    text = (tmp_path / "run" / "report.md").read_text()
    assert "cross-check of add512-litert-fp32" in text
    kept, again, _ = report.read(tmp_path / "run")
    assert (kept, again) == (found.rows, verdict)
    links = {path.stem for path in (tmp_path / "run" / "artifacts").glob("*[!n]")}
    assert links == set(own)


def test_the_real_tool_runs_over_a_real_sshd(
    board: Ssh, tflite: Candidate, brief: TimingPlan, tmp_path: Path
) -> None:
    wide = widened(tflite)
    image = {"image": np.ones((1, 3, 512, 512), np.float32)}
    (timed,) = measure([wide], lambda _: image, board, brief, tmp_path / "work")
    for place in (str(LITERT_BENCHMARK), f"device:{LITERT_BENCHMARK}"):
        made = check(timed, replace(board, native_tools={"litert": place}))
        assert made.err is None, made.err
        assert made.device == "ssh:board"
        assert made.facts["cross_check"].startswith("cross-check of add: litert-benchmark says ")
    pushed = [path.name for path in (tmp_path / "board" / "files").glob("*/*")]
    assert sorted(set(pushed) & {"litert-benchmark", wide.file.name}) == [
        wide.file.name,
        "litert-benchmark",
    ]
    assert all_gone(tmp_path / "board", 5.0)


def test_the_real_tool_runs_over_a_real_adbd(
    phone: str, tflite: Candidate, brief: TimingPlan, tmp_path: Path
) -> None:
    wide = widened(tflite)
    image = {"image": np.ones((1, 3, 512, 512), np.float32)}
    device = Adb(
        serial=phone,
        runner="python",
        python=sys.executable,
        workdir=str(tmp_path / "phone"),
        native_tools={"litert": str(LITERT_BENCHMARK)},
    )
    (timed,) = measure([wide], lambda _: image, device, brief, tmp_path / "work")
    (made,) = crosscheck.checks([timed], device, Quiet())
    assert made.err is None, made.err
    assert made.device == f"adb:{phone}"
    assert made.metrics["runs"] >= LEAST
    assert device.execute(["sh", "-c", "echo hm >&2; exit 7"], 20.0).code == 7
    assert all_gone(tmp_path / "phone", 5.0)


def test_on_a_device_words_stay_words_and_time_is_limited(board: Ssh, tmp_path: Path) -> None:
    board.push(Path(__file__))
    hostile = ["$(touch a)", "a b", "'; touch a; '", "*", '"', "`touch a`"]
    found = board.execute(["printf", "%s\\n", *hostile], 20.0)
    assert found.stdout.decode().splitlines() == hostile
    assert not (tmp_path / "board" / "a").exists()
    assert board.execute(["sh", "-c", "echo hm >&2; exit 7"], 20.0).code == 7
    assert board.execute(["sh", "-c", "sleep 301.25 & sleep 301.25"], 1.0).code == 137
    left = [one for one in psutil.process_iter(["cmdline"]) if "301.25" in str(one.info)]
    assert left == []
    assert board.execute(["no-such-program"], 20.0).code == 127


def test_nothing_is_asked_where_there_is_no_tool_or_no_row(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    file.write_bytes(b"x")
    program = printing(tmp_path / "tool", "perf_test_1_22.txt")
    device = Local(native_tools={"ort": program, "litert": None})
    rows = [
        row("a", "litert", file),
        row("b", "torch", file),
        replace(row("c", "ort", file), err="it crashed"),
        replace(row("d", "ort", file), latency_ns=[]),
    ]
    assert crosscheck.checks(rows, device, Quiet()) == []
    assert crosscheck.checks(rows, Fake(), Quiet()) == []
    stopped = [*rows, row("e", "ort", file, interrupted=True), row("f", "ort", file)]
    assert crosscheck.checks(stopped, device, Quiet()) == []
    assert not Path(f"{program}.words").exists()
    (found,) = crosscheck.checks([*rows, row("f", "ort", file)], device, Quiet())
    assert found.candidate == "f (onnxruntime_perf_test)"


def test_ctrl_c_ends_the_cross_check_and_keeps_what_it_has(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    file.write_bytes(b"x")
    device = Local(native_tools={"ort": printing(tmp_path / "tool", "perf_test_1_22.txt")})

    def stop(done: int, total: int, what: str) -> None:
        if done == 1:
            raise KeyboardInterrupt

    rows = [row(name, "ort", file) for name in "abc"]
    found = crosscheck.checks(rows, device, Quiet(stop))
    assert [one.facts["checks"] for one in found] == ["a"]


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ({"tvm": "x"}, r"no benchmark tool of the backend 'tvm'.*device\.native_tools\.ort=PATH"),
        ({"ort": "/no/such/tool"}, r"no such program here.*chmod"),
        ({"ort": __file__}, r"may not be executed.*chmod"),
        ({"ort": "device:"}, r"names no program.*device:/PATH"),
        ({"litert": "device:bin/tool"}, r"names no program.*device:/PATH"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_before_the_race(
    tools: dict[str, str], said: str, net: MakeNet, tmp_path: Path
) -> None:
    plan = t2e.api.Settings.of({"out": tmp_path / "run", "device": Local(native_tools=tools)})
    with pytest.raises(DeviceError, match=f"(?s){said}"):
        measure_files([shaped(net("conv").file)], plan.on())
    with pytest.raises(DeviceError, match=f"(?s){said}"):
        Ssh("nobody", native_tools=tools).facts()
