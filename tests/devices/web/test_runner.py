"""Both runtimes in a page of a real browser: what they compute, what is told of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from torchopt2edge.bench.child_session import open_child
from torchopt2edge.bench.harness import measure
from torchopt2edge.bench.timing import by_name
from torchopt2edge.devices.browser import Browser
from torchopt2edge.devices.local import Local
from torchopt2edge.devices.web.browsers import Chromium
from torchopt2edge.devices.web.server import own
from torchopt2edge.errors import BenchError
from torchopt2edge.types import Candidate, Signature, TensorSpec

MakeNet = Callable[..., Candidate]
Sample = dict[str, np.ndarray]


def test_both_runtimes_compute_there_what_they_compute_here(
    device: Browser, net: MakeNet, tflite: Candidate, sample: Sample, tmp_path: Path
) -> None:
    for candidate in (net("a", depth=2), tflite):
        found = []
        for one in (Local(), device):
            with open_child(candidate, one, tmp_path / "log") as session:
                found.append(next(iter(session(sample).values())))
        assert found[0].shape == found[1].shape
        np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_several_threads_compute_the_same(
    device: Browser, net: MakeNet, tflite: Candidate, sample: Sample, tmp_path: Path
) -> None:
    for candidate in (net("wide", width=32, depth=3), tflite):
        found = []
        for threads in (1, 2):
            log = tmp_path / f"log{threads}"
            with open_child(candidate, replace(device, threads=threads), log) as session:
                assert session.receipt["threads"] == threads
                found.append(next(iter(session(sample).values())))
            assert "refused by" not in (log.read_text() if log.exists() else "")
        np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT, "float32"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.INT8, "int8"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.INT32, "int32"),
        (TensorProto.INT64, "int64"),
        (TensorProto.BOOL, "bool"),
    ],
)
def test_every_dtype_goes_there_and_back(
    device: Browser, tmp_path: Path, kind: int, dtype: str
) -> None:
    """In one page: a frame of each, odd shapes first, so that nothing is aligned by luck."""
    value = np.arange(-3, 12).reshape(3, 5).astype(dtype)
    ends = [helper.make_tensor_value_info(name, kind, [3, 5]) for name in ("x", "y")]
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "same", ends[:1], ends[1:])
    file = tmp_path / "same.onnx"
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), file)
    with device.start(["web", "ort"], tmp_path / "log") as job:
        job.send({"cmd": "open", "backend": "ort", "file": device.push(file), "threads": 1})
        assert job.receive(60.0)[0]["event"] == "opened"
        job.send({"cmd": "call"}, {"x": value})
        header, arrays = job.receive(60.0)
    assert header == {"event": "called"}
    assert arrays["y"].dtype == value.dtype
    np.testing.assert_array_equal(arrays["y"], value)


def integers(folder: Path, dtype: str) -> Candidate:
    """Make a .tflite that takes integers and gives integers of another scale."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs = 3, [graph]
    model.buffers = [schema.BufferT() for _ in range(4)]
    graph.tensors = []
    whole = getattr(schema.TensorType, dtype.upper())
    for at, (name, kind, scale, zero) in enumerate(
        [(b"x", whole, 0.5, 8), (b"mid", schema.TensorType.FLOAT32, 0, 0), (b"y", whole, 0.25, 9)]
    ):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer, tensor.type = name, [1, 6], at + 1, kind
        if scale:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero]
        graph.tensors.append(tensor)
    model.operatorCodes, graph.operators = [], []
    builtin = schema.BuiltinOperator
    for at, kind in enumerate((builtin.DEQUANTIZE, builtin.QUANTIZE)):
        code, one = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = kind
        one.opcodeIndex, one.inputs, one.outputs = at, [at], [at + 1]
        model.operatorCodes.append(code)
        graph.operators.append(one)
    graph.inputs, graph.outputs = [0], [2]
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    file = folder / "integers.tflite"
    file.write_bytes(bytes(builder.Output()))
    spec = TensorSpec("image", (1, 6), "float32", "x", dtype, None, 0.5, 8)
    out = TensorSpec("same", (1, 6), "float32", "y", dtype, None, 0.25, 9)
    return Candidate("integers", "litert", "int8_io", file, Signature((spec,), (out,)), "d")


def test_litert_takes_and_gives_integers(device: Browser, tmp_path: Path) -> None:
    given = {"image": np.array([[-2.0, -0.5, 0.0, 0.5, 1.0, 7.5]], np.float32)}
    with open_child(integers(tmp_path, "uint8"), device, tmp_path / "log") as session:
        np.testing.assert_allclose(session(given)["same"], given["image"])


def test_litert_names_the_integers_that_it_cannot_take_yet(device: Browser, tmp_path: Path) -> None:
    """Those of LiteRT.js 2.5.3; when it learns int8, this test asks to say so in the docs."""
    with (
        pytest.raises(
            BenchError, match=r"LiteRT\.js cannot open.*INT8 is not supported.*\[integers\]"
        ),
        open_child(integers(tmp_path, "int8"), device, tmp_path / "log"),
    ):
        pytest.fail("it opened")


def test_the_receipt_and_the_rounds(
    device: Browser, net: MakeNet, sample: Sample, tmp_path: Path
) -> None:
    core = max(os.sched_getaffinity(0))
    with open_child(net("a"), replace(device, affinity=(core,)), tmp_path / "log") as session:
        receipt = session.receipt
        assert session.times.keys() == {"import_ms", "load_ms"}
        assert min(session.times.values()) > 0.0
        assert session.load_timed(sample) > 0.0
        before = time.monotonic_ns()
        one = session.round(5, 0.05, 1_000_000)
        assert len(one.latency_ns) >= 5
        assert one.wall_ns >= 0.99 * sum(one.latency_ns)
        # Pages lie on one clock, whoever sets the calendar between them.
        after = time.monotonic_ns() - one.wall_ns
        assert before - 200_000_000 < one.begin_ns < after + 200_000_000
        assert one.cpu_ns > 0
        assert one.involuntary >= 0
        assert one.joules is None
        assert one.peak_bytes > 1 << 20
        assert len(session.round(3, 0.0, 3).latency_ns) == 3
        assert session.sense()["temperature_c"] == "unavailable"
        assert session.stop() >= one.peak_bytes
    pins = json.loads(own("package.json"))["dependencies"]
    assert receipt["runner"] == "web"
    assert receipt["runtime"] == "onnxruntime-web"
    assert receipt["runtime_version"] == pins["onnxruntime-web"]
    assert receipt["threads"] == 1
    assert receipt["affinity"] == [core]
    assert receipt["cross_origin_isolated"] is True
    assert 0 < receipt["timer_resolution_ns"] < 50_000
    assert "Chrome/" in receipt["user_agent"]
    assert "refused by" not in (tmp_path / "log").read_text()


def test_a_comparison_makes_rows(
    device: Browser, net: MakeNet, tflite: Candidate, sample: Sample, tmp_path: Path
) -> None:
    candidates = [net("small", width=16, depth=3), net("large", width=64, depth=4), tflite]
    plan = by_name("smoke")
    rows = measure(candidates, lambda _: sample, device, plan, tmp_path / "work")
    assert [row.err for row in rows] == [None, None, None]
    assert {row.device for row in rows} == {"browser"}
    assert {row.facts["runner"] for row in rows} == {"web"}
    assert all(row.facts["browser"] == device.facts()["browser"] for row in rows)
    assert all(len(row.latency_ns) == plan.rounds for row in rows)
    assert all(row.metrics["memory_mb"] > 1 for row in rows)
    assert rows[1].metrics["latency_ms"] > rows[0].metrics["latency_ms"]  # 22 times the work
    assert "unstable-clock" in rows[2].facts["flags"]  # microseconds by a clock of five


def test_a_page_that_is_gone_at_the_end_has_told_its_memory(
    device: Browser, net: MakeNet, sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process may end before we look at it for the last time."""
    with open_child(net("a"), device, tmp_path / "log") as session:
        session.load_timed(sample)
        peak = session.round(5, 0.05, 1_000_000).peak_bytes
        monkeypatch.setattr(Chromium, "usage", lambda _: None)
        assert session.stop() == peak > 1 << 20


def test_the_browser_talks_to_nobody_else_and_rests_between_rounds(
    device: Browser, net: MakeNet, sample: Sample, tmp_path: Path
) -> None:
    with open_child(net("a"), device, tmp_path / "log") as session:
        session.load_timed(sample)
        ours = psutil.Process().children(recursive=True)
        before = sum(sum(one.cpu_times()[:2]) for one in ours)
        time.sleep(2.0)
        ends = [end for one in ours for end in one.net_connections("inet")]
        used = sum(sum(one.cpu_times()[:2]) for one in ours) - before
        words = " ".join(word for one in ours for word in one.cmdline())
    assert ends
    assert {end.laddr.ip for end in ends} == {"127.0.0.1"}
    assert {end.raddr.ip for end in ends if end.raddr} == {"127.0.0.1"}
    assert not [end for end in ends if end.status == psutil.CONN_LISTEN]
    assert used < 0.5  # seconds of two
    assert "t2e-browser-" in words
    assert "http:" not in words  # the address is a secret that every user of the machine could read


def test_a_clock_that_is_too_coarse_is_flagged_and_no_other(
    device: Browser, net: MakeNet, sample: Sample, tmp_path: Path
) -> None:
    heavy = net("heavy", width=64, depth=6)
    (row,) = measure([heavy], lambda _: sample, device, by_name("smoke"), tmp_path / "work")
    assert row.metrics["latency_ms"] > 100 * row.facts["timer_resolution_ns"] / 1e6
    assert "unstable-clock" not in row.facts["flags"]
