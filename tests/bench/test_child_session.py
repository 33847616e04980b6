"""A candidate in a process of its own, through the real runtime."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import pytest

from torchopt2edge.bench.child_session import ChildSession, open_child
from torchopt2edge.devices import Local
from torchopt2edge.devices.child_process import ProcessJob
from torchopt2edge.errors import BenchError, DataError
from torchopt2edge.types import Candidate

MakeNet = Callable[..., Candidate]
Sample = dict[str, np.ndarray]


def child() -> psutil.Process:
    (found,) = psutil.Process().children()
    return found


def peak_of(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_it_computes_what_the_runtime_computes_here(
    net: MakeNet, sample: Sample, tmp_path: Path
) -> None:
    candidate = net("a", depth=2)
    batch = np.concatenate([sample["image"] * scale for scale in (1, 2, 3)])
    direct = onnxruntime.InferenceSession(candidate.file).run(None, {"x": batch})[0]
    with open_child(candidate, Local(), tmp_path / "log") as session:
        assert session.input_names == ("image",)
        assert session.output_names == ("logits",)
        found = session({"image": batch})
    assert list(found) == ["logits"]
    np.testing.assert_allclose(found["logits"], direct, rtol=1e-5, atol=1e-6)


def test_its_receipt_says_what_ran_and_that_torch_did_not(net: MakeNet, tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    with open_child(net("a"), Local(affinity=(core,)), tmp_path / "log") as session:
        receipt = session.receipt
        assert session.times.keys() == {"library_ms", "import_ms", "load_ms"}
        assert min(session.times.values()) > 0.0
    assert receipt["runtime"] == "onnxruntime"
    assert receipt["runtime_version"] == onnxruntime.__version__
    assert receipt["threads"] == 1
    assert receipt["affinity"] == [core]
    assert receipt["spinning"] is False
    assert receipt["torch_imported"] is False
    assert {"cpu", "cpu_flags", "governor", "load", "steal", "emulated"} <= receipt.keys()


def test_rounds_are_timed_and_counted(net: MakeNet, sample: Sample, tmp_path: Path) -> None:
    with open_child(net("a"), Local(), tmp_path / "log") as session:
        assert session.load_timed(sample) > 0.0
        one = session.round(5, 0.02, 1_000_000)
        assert len(one.latency_ns) >= 5
        assert one.wall_ns >= sum(one.latency_ns)
        assert one.cpu_ns > 0
        assert one.involuntary >= 0
        assert one.sensors["temperature_c"] != 0
        assert len(session.round(3, 0.0, 3).latency_ns) == 3
        assert session.stop() >= one.peak_bytes > 1 << 20


def test_peak_memory_is_the_childs_own(net: MakeNet, sample: Sample, tmp_path: Path) -> None:
    """We hold 300 MB that a forked child would inherit in ru_maxrss."""
    ballast = np.ones(300 << 20, np.uint8)
    with open_child(net("small"), Local(), tmp_path / "log") as session:
        session.load_timed(sample)
        known = peak_of(child())
        small = session.stop()
    with open_child(net("big", "big"), Local(), tmp_path / "log") as session:
        session.load_timed(sample)
        big = session.stop()
    assert small == pytest.approx(known, rel=0.05)
    assert small < ballast.nbytes
    assert big - small == pytest.approx(4000 * 4000 * 4, rel=0.3)


@pytest.mark.parametrize("keep", [0, 60, 200])
def test_a_truncated_file_is_an_error_with_a_name(net: MakeNet, tmp_path: Path, keep: int) -> None:
    candidate = net("cut", width=32)
    candidate.file.write_bytes(candidate.file.read_bytes()[:keep] + b"\xff" * keep)
    with (
        pytest.raises(BenchError, match=r"cannot open|Signal|killed") as caught,
        open_child(candidate, Local(), tmp_path / "log"),
    ):
        pytest.fail("it opened")
    assert caught.value.artifact == "cut"


def test_wrong_names_are_the_callers_fault_and_nobody_dies(
    net: MakeNet, sample: Sample, tmp_path: Path
) -> None:
    with open_child(net("a"), Local(), tmp_path / "log") as session:
        with pytest.raises(DataError, match="the inputs are named"):
            session({"pixels": sample["image"]})
        assert session(sample)["logits"].shape == (1, 4)


@pytest.mark.parametrize(
    ("sent", "said"), [(signal.SIGKILL, "killed by SIGKILL"), (signal.SIGSTOP, "did not answer")]
)
def test_death_and_hang_reach_the_caller(
    net: MakeNet, sample: Sample, tmp_path: Path, sent: signal.Signals, said: str
) -> None:
    with open_child(net("a"), Local(), tmp_path / "log", 60.0) as session:
        session._timeout_s = 0.5
        os.kill(child().pid, sent)
        with pytest.raises(BenchError, match=said):
            session(sample)
        with pytest.raises(BenchError, match="ended already"):
            session(sample)


def test_nan_and_changing_outputs_are_no_numbers(
    net: MakeNet, sample: Sample, tmp_path: Path
) -> None:
    def begin(session: ChildSession) -> None:
        session.load_timed(sample)
        session.round(2, 0.0, 2)

    for kind, said in [("nan", "NaN or infinity"), ("random", "other outputs than in the first")]:
        with open_child(net(kind, kind), Local(), tmp_path / "log") as session:
            with pytest.raises(BenchError, match=said):
                begin(session)


def test_an_unknown_backend_is_an_answer(net: MakeNet, tmp_path: Path) -> None:
    with (
        pytest.raises(BenchError, match="no backend 'tvm'"),
        open_child(replace(net("a"), backend="tvm"), Local(), tmp_path / "log"),
    ):
        pytest.fail("it opened")


def test_a_killed_host_leaves_no_runner(net: MakeNet, tmp_path: Path) -> None:
    candidate = net("a")
    code = f"""
import time
from pathlib import Path
import psutil
from torchopt2edge.bench.child_session import open_child
from torchopt2edge.devices import Local
from torchopt2edge.types import Candidate, Signature
signature = Signature.from_json({candidate.signature.to_json()!r})
candidate = Candidate("a", "ort", "fp32", Path({str(candidate.file)!r}), signature, "")
with open_child(candidate, Local(), Path({str(tmp_path / "log")!r})):
    print(psutil.Process().children()[0].pid, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        runner = psutil.Process(int(host.stdout.readline()))
        host.kill()
    deadline = time.monotonic() + 20.0
    while runner.is_running() and runner.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_litert_runs_in_the_sources_layout(
    tflite: Candidate, sample: Sample, tmp_path: Path
) -> None:
    batch = np.concatenate([sample["image"], -sample["image"]])
    with open_child(tflite, Local(), tmp_path / "log") as session:
        session.load_timed(sample)
        assert session.round(3, 0.0, 3).stable
        found = session({"image": batch})["sum"]
        assert session.receipt["runtime"] == "litert"
        assert session.receipt["torch_imported"] is False
    np.testing.assert_allclose(found, batch + np.arange(3.0)[:, None, None], rtol=1e-6)


@pytest.mark.parametrize("latency", [[0, 0, 0], [0, 0, 9_000], []])
def test_a_clock_that_shows_no_time_gives_no_number(
    net: MakeNet,
    sample: Sample,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    latency: list[int],
) -> None:
    def coarse(job: ProcessJob, timeout_s: float) -> Any:
        event, arrays = receive(job, timeout_s)
        return {**event, **({"latency_ns": latency} if event["event"] == "round" else {})}, arrays

    receive = ProcessJob.receive
    monkeypatch.setattr(ProcessJob, "receive", coarse)
    with open_child(net("a"), Local(), tmp_path / "log") as session:
        session.load_timed(sample)
        with pytest.raises(BenchError, match="too coarse"):
            session.round(3, 0.0, 3)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"event": "rounds"}, "answered 'rounds', not 'round'"),
        ({}, "answered None, not 'round'"),
        ({"event": "round", "latency_ns": [1], "wall_ns": 1}, "'round' lacks cpu_ns"),
        ({"event": "error"}, "'error' lacks type"),
    ],
)
def test_an_answer_of_another_runner_is_an_error(
    net: MakeNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Sample, said: str
) -> None:
    with open_child(net("a"), Local(), tmp_path / "log") as session:
        monkeypatch.setattr(ProcessJob, "receive", lambda job, timeout_s: (dict(answer), {}))
        with pytest.raises(BenchError, match=said):
            session.round(1, 0.0, 1)
