"""The loop on the device, its pieces by hand and its commands over real pipes."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from torchopt2edge.deploy.runner_zip import runner_file
from torchopt2edge.devices import Local
from torchopt2edge.errors import BenchError, LowerError
from torchopt2edge.runner.frames import FrameReader, encode
from torchopt2edge.runner.runner import Runner, cut, finite, read_frame, same, time_round
from torchopt2edge.types import Candidate, Signature, TensorSpec

Array = np.ndarray


def plan(least: int, seconds: float, most: int) -> dict[str, float]:
    return {"min_samples": least, "seconds": seconds, "max_samples": most}


def test_a_round_ends_when_both_minima_are_reached() -> None:
    calls: list[int] = []

    def run(prepared: Mapping[str, Array]) -> dict[str, Array]:
        calls.append(len(calls))
        return {"y": np.array(len(calls))}

    samples, outputs = time_round(run, {}, plan(7, 0.0, 1000))
    assert len(samples) == len(calls) == 7
    assert int(outputs["y"]) == 7
    samples, _ = time_round(run, {}, plan(1, 0.02, 10_000_000))
    assert sum(samples) <= 1e9
    assert len(samples) > 7
    samples, _ = time_round(run, {}, plan(1, 60.0, 12))
    assert len(samples) == 12
    assert all(isinstance(one, int) and one > 0 for one in samples)


def test_finite_looks_at_every_output() -> None:
    good = {"a": np.ones(3), "b": np.array([1, 2]), "c": np.array([True])}
    assert finite(good)
    assert not finite({**good, "d": np.array([1.0, np.nan])})
    assert not finite({**good, "d": np.array([np.inf], np.float16)})


def test_same_forgives_rounding_and_nothing_else() -> None:
    first = {"y": np.array([[100.0, 0.0, -3.0]], np.float32), "i": np.array([1, 2])}
    assert same(first, {"y": first["y"] + np.float32(1e-4), "i": first["i"].copy()})
    assert not same(first, {"y": first["y"] + np.float32(0.1), "i": first["i"]})
    assert not same(first, {"y": first["y"], "i": np.array([1, 3])})
    assert not same(first, {"y": first["y"]})
    assert not same(first, {"y": first["y"][0], "i": first["i"]})


def opening(candidate: Candidate) -> dict[str, object]:
    return {
        "cmd": "open",
        "backend": candidate.backend,
        "file": str(candidate.file),
        "signature": candidate.signature.to_json(),
        "threads": 1,
    }


def test_a_round_leaves_the_garbage_collector_as_it_was(
    net: Callable[..., Candidate], sample: dict[str, Array]
) -> None:
    one = Runner()
    one.answer(opening(net("a")), {})
    one.answer({"cmd": "load"}, {"x": sample["image"]})
    event, _ = one.answer({"cmd": "round", **plan(3, 0.0, 9)}, {})
    assert len(event["latency_ns"]) == 3
    assert event["stable"]
    assert event["finite"]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ({"cmd": "dance"}, "no command 'dance'"),
        ({}, "no command None"),
        ({"cmd": "call"}, "no file was opened"),
        ({"cmd": "round", **plan(1, 0.0, 1)}, "no file was opened"),
        ({"cmd": "open", "backend": "tvm"}, "no backend 'tvm'"),
    ],
)
def test_disorder_is_refused(command: dict[str, object], what: str) -> None:
    with pytest.raises(BenchError, match=what):
        Runner().answer(command, {})


def test_native_chatter_on_stdout_does_not_reach_the_frames(
    net: Callable[..., Candidate], tmp_path: Path
) -> None:
    """A runtime that prints on descriptor 1 as it opens, as delegates do."""
    (tmp_path / "chatty.py").write_text(
        "import os\n"
        "from dataclasses import dataclass\n"
        "from torchopt2edge.backends.ort.backend import Ort\n"
        "@dataclass(frozen=True)\n"
        "class Chatty(Ort):\n"
        "    def open(self, file, signature, threads):\n"
        "        os.write(1, b'INFO: Created delegate for CPU.\\n')\n"
        "        print('and python too', flush=True)\n"
        "        return super().open(file, signature, threads)\n"
    )
    commands = [{**opening(net("a")), "target": "chatty.Chatty"}, {"cmd": "stop"}]
    out = subprocess.run(
        [sys.executable, str(runner_file())],
        input=b"".join(encode(command) for command in commands),
        capture_output=True,
        env={**Local().environment(), "PYTHONPATH": str(tmp_path)},
        timeout=60,
        check=True,
    )
    events = [json.loads(line)["event"] for line in out.stdout.splitlines()]
    assert events == ["opened", "stopped"]
    assert b"Created delegate" in out.stderr
    assert b"and python too" in out.stderr


def test_a_failure_is_an_answer_and_the_loop_goes_on(net: Callable[..., Candidate]) -> None:
    good = net("a")
    missing = {**opening(good), "file": "/nowhere.onnx"}
    process = subprocess.Popen(
        [sys.executable, str(runner_file())], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    reader = FrameReader(process.stdout.fileno())
    with process:
        for command, event in [
            ({"cmd": "call"}, "error"),
            (missing, "error"),
            (opening(good), "opened"),
            ({"cmd": "round", **plan(1, 0.0, 1)}, "error"),
        ]:
            os.write(process.stdin.fileno(), encode(command))
            header, _ = reader.read(60.0)
            assert header["event"] == event
        assert header["type"] == "BenchError"
        assert "before its load" in header["what"]
        process.stdin.close()  # the end of stdin ends it
        assert process.wait(30) == 0


def test_it_needs_neither_torch_nor_pillow(
    net: Callable[..., Candidate], sample: dict[str, Array]
) -> None:
    """The packed runner alone, where neither can be imported."""
    code = f"""
import runpy, sys
for name in ("torch", "torchvision", "PIL"):
    sys.modules[name] = None
runpy.run_path({str(runner_file())!r}, run_name="__main__")
"""
    commands = [
        encode(opening(net("a", "same"))),
        encode({"cmd": "call"}, {"x": sample["image"]}),
        encode({"cmd": "load"}, {"x": sample["image"]}),
        encode({"cmd": "round", **plan(2, 0.0, 9)}),
        encode({"cmd": "stop"}),
    ]
    out = subprocess.run(
        [sys.executable, "-P", "-c", code],
        input=b"".join(commands),
        capture_output=True,
        timeout=60,
    ).stdout
    read, write = os.pipe()
    os.write(write, out)
    os.close(write)
    reader = FrameReader(read)
    answers = [reader.read(10.0) for _ in commands]
    os.close(read)
    events = [header["event"] for header, _ in answers]
    assert events == ["opened", "called", "loaded", "round", "stopped"]
    assert answers[1][1]["y"].tobytes() == sample["image"].tobytes()
    assert answers[3][0]["stable"]
    assert answers[3][0]["begin_ns"] > 0


@pytest.mark.parametrize("backend", ["ort", "litert"])
def test_each_runtime_lists_its_operators(
    backend: str, net: Callable[..., Candidate], tflite: Candidate, sample: dict[str, Array]
) -> None:
    made = net("a", width=16, depth=3) if backend == "ort" else tflite
    given = sample["image"] if backend == "ort" else sample["image"].transpose(0, 2, 3, 1).copy()
    one = Runner()
    one.answer(opening(made), {})
    one.answer({"cmd": "load"}, {"x": given})
    event, _ = one.answer({"cmd": "profile", "runs": 5}, {})
    assert event["ops"]
    assert all(op["ms"] >= 0 and op["name"] for op in event["ops"])
    kinds = {op["type"] for op in event["ops"]}
    assert any("Conv" in kind if backend == "ort" else "Add" in kind for kind in kinds)


def test_samples_that_lie_there_are_run_piece_by_piece(
    tflite: Candidate, sample: dict[str, Array], tmp_path: Path
) -> None:
    """The file takes one at a time."""
    runner = Runner()
    opening = {"cmd": "open", "backend": "litert", "file": str(tflite.file), "threads": 1}
    runner.answer({**opening, "signature": tflite.signature.to_json()}, {})
    one = sample["image"].transpose(0, 2, 3, 1)
    given = {"x": np.concatenate([one, 2 * one, -one])}
    frame = tmp_path / "samples.frame"
    frame.write_bytes(encode({}, given))
    call = {"cmd": "call", "file": str(frame), "pieces": 3}
    event, found = runner.answer(call, {})
    assert event == {"event": "called"}
    assert found is not None
    np.testing.assert_allclose(found["y"], given["x"] + np.arange(3.0), rtol=1e-6)
    frame.write_bytes(encode({}, given)[:-1])
    with pytest.raises(BenchError, match="ends in the middle"):
        runner.answer(call, {})
    with pytest.raises(FileNotFoundError):
        runner.answer({**call, "file": str(tmp_path / "nowhere")}, {})
    with pytest.raises(BenchError, match="not made of 2 pieces"):
        runner.answer({"cmd": "call", "pieces": 2}, given)


def test_a_frame_that_lies_there_is_read_as_it_was_written(tmp_path: Path) -> None:
    given = {"a": np.arange(12, dtype=np.int16).reshape(4, 3), "b": np.zeros((4, 1), np.float64)}
    (tmp_path / "f").write_bytes(encode({}, given))
    read = read_frame(tmp_path / "f")
    pieces = [*cut(read, 2)]
    assert [piece["a"].tolist() for piece in pieces] == [[[0, 1, 2], [3, 4, 5]],
                                                         [[6, 7, 8], [9, 10, 11]]]  # fmt: skip
    assert [*cut(given, 1)] == [given]
    for pieces_wanted, arrays in ((0, given), (3, given), (2, {"c": np.array(1)})):
        with pytest.raises(BenchError, match=f"not made of {pieces_wanted} pieces"):
            next(cut(arrays, pieces_wanted))


def test_nonsense_and_what_cannot_be_sent_are_answers(
    net: Callable[..., Candidate], tmp_path: Path
) -> None:
    """As the native runner does: it goes on until nobody knows where the next frame begins."""
    nodes = [helper.make_node("Identity", ["text"], ["y"])]
    text = numpy_helper.from_array(np.array(["a", "b"], object), "text")
    end = helper.make_tensor_value_info("y", TensorProto.STRING, [2])
    graph = helper.make_graph(nodes, "texts", [], [end], [text])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "t.onnx")
    out = TensorSpec("y", (2,), "float32", "y", "float32")
    texts = replace(net("a"), file=tmp_path / "t.onnx", signature=Signature((), (out,)))
    sent = [
        b"noise\n", b"[1]\n", encode(opening(texts)), encode({"cmd": "call"}, {}),
        encode({"cmd": "sense"}), b'{"cmd": "sense", "arrays": [{"shape": [1]}]}\n',
        encode({"cmd": "sense"}),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-P", str(runner_file())],
        input=b"".join(sent), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    events = ["error", "error", "opened", "error", "sensed", "error"]
    assert (done.returncode, [one["event"] for one in answers]) == (0, events), done.stderr
    assert "only numbers and bools" in answers[3]["what"]


def test_what_was_opened_and_loaded_before_is_gone(
    net: Callable[..., Candidate], sample: dict[str, Array]
) -> None:
    one, given, timing = Runner(), {"x": sample["image"]}, {"cmd": "round", **plan(1, 0.0, 1)}
    one.answer(opening(net("a")), {})
    one.answer({"cmd": "load"}, given)
    one.answer(opening(net("b")), {})
    with pytest.raises(BenchError, match="before its load"):
        one.answer(timing, {})
    one.answer({"cmd": "load"}, given)
    with pytest.raises(ValueError, match="missing"):
        one.answer({"cmd": "load"}, {"z": given["x"]})
    with pytest.raises(BenchError, match="before its load"):
        one.answer(timing, {})
    with pytest.raises(LowerError):
        one.answer({**opening(net("a")), "file": "/nowhere.onnx"}, {})
    with pytest.raises(BenchError, match="no file was opened"):
        one.answer({"cmd": "call"}, given)


def test_a_file_without_inputs_is_timed(net: Callable[..., Candidate], tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.arange(3, dtype=np.float32))
    nodes = [helper.make_node("Constant", [], ["y"], value=value)]
    end = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    graph = helper.make_graph(nodes, "still", [], [end])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "s.onnx")
    out = TensorSpec("y", (3,), "float32", "y", "float32")
    still = replace(net("a"), file=tmp_path / "s.onnx", signature=Signature((), (out,)))
    one = Runner()
    one.answer(opening(still), {})
    one.answer({"cmd": "load"}, {})
    assert one.answer({"cmd": "round", **plan(2, 0.0, 2)}, {})[0]["stable"]


@pytest.mark.parametrize(
    ("arrays", "pieces"), [({}, 3), ({"x": np.zeros((0, 3))}, 10**15), ({"x": np.zeros(())}, 2)]
)
def test_nothing_cannot_be_cut(arrays: dict[str, Array], pieces: int) -> None:
    with pytest.raises(BenchError, match="pieces"):
        next(cut(arrays, pieces))


def test_a_runtime_that_is_missing_is_named_with_its_hint(
    net: Callable[..., Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BenchError, match="cannot import the runtime") as caught:
        Runner().answer(opening(net("a")), {})
    assert "pip install onnxruntime" in (caught.value.hint or "")


def test_a_file_without_outputs_is_refused(net: Callable[..., Candidate]) -> None:
    whole = net("a")
    bare = replace(whole, signature=replace(whole.signature, outputs=()))
    one = Runner()
    with pytest.raises(BenchError, match="no outputs"):
        one.answer(opening(bare), {})
    with pytest.raises(BenchError, match="no file was opened"):
        one.answer({"cmd": "call"}, {})
