"""The native runner over real pipes, with both runtimes, as it is and under the sanitizers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from torchopt2edge.backends.litert.flatbuffer import input_places, output_places
from torchopt2edge.deploy import native_build
from torchopt2edge.devices.child_process import ProcessJob
from torchopt2edge.errors import BenchError
from torchopt2edge.runner.frames import encode
from torchopt2edge.runner.runner import Runner
from torchopt2edge.types import Candidate

Arrays = dict[str, np.ndarray]
SANITIZED = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
DTYPES = {
    "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE,
    "int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int16": TensorProto.INT16,
    "uint16": TensorProto.UINT16, "int32": TensorProto.INT32, "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}  # fmt: skip


class Native:
    """The program, talked to one frame at a time; ``arrays`` are those of its last answer."""

    def __init__(self, job: ProcessJob) -> None:
        self.job = job
        self.arrays: Arrays = {}

    def ask(self, command: str, arrays: Arrays | None = None, **more: Any) -> dict[str, Any]:
        """Send a command, return the header of the answer."""
        self.job.send({"cmd": command, **more}, arrays)
        header, self.arrays = self.job.receive(60.0)
        return header

    def open(self, backend: str, file: Path, threads: int = 1, **more: Any) -> dict[str, Any]:
        """Open a file, return the answer, whatever it is."""
        library = str(native_build.library(backend))
        plan = {"backend": backend, "file": str(file), "threads": threads, "library": library}
        return self.ask("open", None, **{**plan, **more})

    def call(self, arrays: Arrays) -> Arrays:
        """Run, and return the outputs."""
        assert self.ask("call", arrays) == {"event": "called"}
        return self.arrays

    def round(self, least: int, seconds: float, most: int) -> dict[str, Any]:
        """Time a round."""
        return self.ask("round", None, min_samples=least, seconds=seconds, max_samples=most)


@pytest.fixture(scope="session")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the program as it ships, and once more with the sanitizers."""
    folder = tmp_path_factory.mktemp("native")
    sanitized = folder / "sanitized"
    native_build.compile_source(
        native_build.compiler(), sanitized, (*native_build.FLAGS, *SANITIZED)
    )
    return {"plain": native_build.runner_binary(folder=folder), "sanitized": sanitized}


@pytest.fixture(params=["plain", "sanitized"])
def binary(request: pytest.FixtureRequest, binaries: dict[str, Path]) -> Path:
    return binaries[request.param]


@pytest.fixture
def native(binary: Path, tmp_path: Path) -> Iterator[Native]:
    """A running program; its end shows that it broke no rule of C and leaked nothing."""
    with ProcessJob.start([str(binary)], ENVIRONMENT, tmp_path / "log") as job:
        one = Native(job)
        yield one
        assert one.ask("stop")["event"] == "stopped"
        end = os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOWAIT)
        assert end is not None
        assert end.si_status == 0, (tmp_path / "log").read_text()


def write_onnx(
    file: Path, nodes: Sequence[onnx.NodeProto], inputs: dict[str, str], outputs: dict[str, str]
) -> Path:
    """Write a graph whose tensors have a free batch and 3 numbers each."""

    ends = [
        [helper.make_tensor_value_info(name, DTYPES[of], ["n", 3]) for name, of in side.items()]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(list(nodes), "net", *ends)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), file)
    return file


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two inputs, two outputs: a difference and a product."""
    nodes = [helper.make_node("Sub", ["a", "b"], ["s"]), helper.make_node("Mul", ["a", "b"], ["p"])]
    ends = dict.fromkeys("ab", "float32"), dict.fromkeys("sp", "float32")
    return write_onnx(tmp_path / "two.onnx", nodes, *ends)


def write_tflite(file: Path, dtype: str = "FLOAT32", signature: bool = False) -> Path:
    """Write a .tflite that makes ``s = a - b`` and ``p = a · b`` of two [1, 2, 2, 3] tensors.

    Its signature, where it has one, names them otherwise and in another order.
    """
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    graph.tensors, graph.inputs, graph.outputs = [], [0, 1], [2, 3]
    for name, scale in (("a", 0.1), ("b", 0.1), ("s", 0.2), ("p", 1.0)):
        kind = getattr(schema.TensorType, dtype)
        tensor = schema.TensorT(name=name, shape=[1, 2, 2, 3], type=kind)
        if dtype == "INT8":
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [3]
        graph.tensors.append(tensor)
    model.operatorCodes, graph.operators = [], []
    for at, kind in enumerate(("Sub", "Mul")):
        code, op = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind.upper())
        code.deprecatedBuiltinCode, code.version = code.builtinCode, 2 if dtype == "INT8" else 1
        op.opcodeIndex, op.inputs, op.outputs = at, [0, 1], [2 + at]
        op.builtinOptionsType = getattr(schema.BuiltinOptions, f"{kind}Options")
        op.builtinOptions = getattr(schema, f"{kind}OptionsT")()
        model.operatorCodes.append(code)
        graph.operators.append(op)
    if signature:
        model.signatureDefs = [schema.SignatureDefT()]
        model.signatureDefs[0].signatureKey = "serving_default"
        place = schema.TensorMapT
        model.signatureDefs[0].inputs = [place("second", 1), place("first", 0)]
        model.signatureDefs[0].outputs = [place("product", 3), place("difference", 2)]
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    file.write_bytes(bytes(builder.Output()))
    return file


def in_python(file: Path, arrays: Arrays) -> Arrays:
    """Return what LiteRT computes in Python, by the names that the host uses."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=1)
    interpreter.allocate_tensors()
    places = input_places(interpreter)
    assert places.keys() == arrays.keys()
    for name, array in arrays.items():
        interpreter.set_tensor(places[name], array)
    interpreter.invoke()
    return {name: interpreter.get_tensor(i) for name, i in output_places(interpreter).items()}


def some(*names: str, shape: tuple[int, ...] = (4, 3), dtype: str = "float32") -> Arrays:
    """Return random arrays by name."""
    rng = np.random.default_rng(0)
    return {name: (rng.normal(size=shape) * 9).astype(dtype) for name in names}


def assert_equal(found: Arrays, wanted: Arrays) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_onnx_runtime_computes_as_in_python(native: Native, two: Path) -> None:
    session = onnxruntime.InferenceSession(two)
    assert native.open("ort", two)["event"] == "opened"
    for batch in (4, 1, 7):  # any batch, and the names in any order
        given = some("b", "a", shape=(batch, 3))
        wanted = dict(zip("sp", session.run(["s", "p"], given), strict=True))
        assert_equal(native.call(given), wanted)


def test_every_plain_dtype_goes_through_onnx_runtime(native: Native, tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", [f"x_{name}"], [f"y_{name}"]) for name in DTYPES]
    ends = ({f"{side}_{name}": name for name in DTYPES} for side in "xy")
    file = write_onnx(tmp_path / "all.onnx", nodes, *ends)
    given = {f"x_{name}": some("x", dtype=name)["x"] for name in DTYPES}
    assert native.open("ort", file)["event"] == "opened"
    wanted = {name.replace("x_", "y_"): array for name, array in given.items()}
    assert_equal(native.call(given), wanted)
    assert native.ask("load", given)["finite"]
    assert native.round(3, 0.0, 3)["stable"]


@pytest.mark.parametrize("dtype", ["FLOAT32", "INT8"])
@pytest.mark.parametrize("signature", [False, True])
def test_litert_computes_as_in_python(
    native: Native, dtype: str, signature: bool, tmp_path: Path
) -> None:
    file = write_tflite(tmp_path / "two.tflite", dtype, signature)
    names = ["second", "first"] if signature else ["a", "b"]
    given = some(*names, shape=(1, 2, 2, 3), dtype=dtype.lower())
    receipt = native.open("litert", file)["receipt"]
    assert receipt["runtime_version"] == version("ai-edge-litert")
    found = native.call(given)
    assert set(found) == ({"difference", "product"} if signature else {"s", "p"})
    assert_equal({name: found[name] for name in in_python(file, given)}, in_python(file, given))
    assert native.ask("load", given)["event"] == "loaded"
    assert native.round(5, 0.0, 5)["stable"]


def test_it_says_what_the_python_runner_says(
    native: Native, net: Callable[..., Candidate], sample: Arrays
) -> None:
    """Whoever reads the one can read the other: nothing is left out but what cannot be known."""
    candidate, given = net("a"), {"x": sample["image"]}
    python = Runner()
    plan = {"min_samples": 3, "seconds": 0.0, "max_samples": 9}
    signature = candidate.signature.to_json()
    more = {"backend": "ort", "file": str(candidate.file), "threads": 1, "signature": signature}
    opened = native.open("ort", candidate.file, signature=signature, options={}, target=None)
    ours = [opened, native.ask("load", given), native.round(3, 0.0, 9), native.ask("sense")]
    asked = [("open", more, {}), ("load", {}, given), ("round", plan, {}), ("sense", {}, {})]
    theirs = [python.answer({"cmd": name, **header}, sent)[0] for name, header, sent in asked]
    optional = {"import_ms", "joules", "steal", "ticks"}
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["event"] == other["event"]
        assert mine.keys() - optional == other.keys() - optional
    assert {"temperature_c", "clock_mhz", "capped", "load"} <= ours[3]["sensors"].keys()
    receipt = ours[0]["receipt"]
    for name in ("runtime", "runtime_version", "threads", "affinity", "spinning", "emulated"):
        assert receipt[name] == theirs[0]["receipt"][name]
    assert (receipt["runner"], receipt["runner_version"]) == ("native", 1)
    assert 0 < receipt["bytes_before_import"] < ours[2]["vm_hwm_bytes"]


def test_a_round_ends_when_both_minima_are_reached(native: Native, two: Path) -> None:
    native.open("ort", two)
    native.ask("load", some("a", "b"))
    event = native.round(7, 0.0, 1000)
    assert len(event["latency_ns"]) == 7
    assert all(isinstance(one, int) and one > 0 for one in event["latency_ns"])
    assert sum(event["latency_ns"]) <= event["wall_ns"]
    assert event["cpu_ns"] > 0
    event = native.round(1, 0.05, 10_000_000)
    assert event["wall_ns"] >= 0.05e9
    assert len(event["latency_ns"]) > 7
    native.call(some("a", "b", shape=(2, 3)))  # which does not change the sample
    event = native.round(1, 60.0, 9000)
    assert len(event["latency_ns"]) == 9000  # beyond the first vector
    assert event["stable"]


def test_nan_and_noise_are_seen(
    native: Native, net: Callable[..., Candidate], sample: Arrays
) -> None:
    given = {"x": sample["image"]}
    native.open("ort", net("n", "nan").file)
    assert native.ask("load", given)["finite"] is False
    event = native.round(1, 0.0, 1)
    assert (event["finite"], event["stable"]) == (False, True)  # always NaN is stable
    native.open("ort", net("r", "random").file)
    native.ask("load", given)
    event = native.round(1, 0.0, 1)
    assert (event["finite"], event["stable"]) == (True, False)


@pytest.mark.parametrize("backend", ["ort", "litert"])
def test_it_runs_on_as_many_threads_as_it_is_told(
    native: Native, backend: str, two: Path, tmp_path: Path
) -> None:
    file = two if backend == "ort" else write_tflite(tmp_path / "x.tflite")
    counts = []
    for threads in (1, 4):
        assert native.open(backend, file, threads)["receipt"]["threads"] == threads
        counts.append(len(os.listdir(f"/proc/{native.job.pid}/task")))
    assert counts[1] == counts[0] + 3


def test_names_and_paths_may_be_in_any_script(native: Native, tmp_path: Path) -> None:
    name = 'é"\\ 貓 🐈'
    node = helper.make_node("Identity", [name], [name * 2])
    ends = {name: "float32"}, {name * 2: "float32"}
    file = write_onnx(tmp_path / f"{name}.onnx", [node], *ends)
    assert native.open("ort", file)["event"] == "opened"
    given = some(name)
    assert_equal(native.call(given), {name * 2: given[name]})


def test_a_failure_is_an_answer_and_the_loop_goes_on(native: Native, two: Path) -> None:
    given = some("a", "b")

    def refused(answer: dict[str, Any], what: str) -> None:
        assert answer["event"] == "error"
        assert answer["type"] == "NativeError"
        assert what in answer["what"]

    refused(native.ask("call", given), "no file was opened")
    refused(native.round(1, 0.0, 1), "no file was opened")
    refused(native.ask("open"), "no backend")
    refused(native.open("ort", Path("/nowhere.onnx")), "/nowhere.onnx")
    refused(native.open("litert", Path("/nowhere.tflite")), "LiteRt")
    refused(native.open("litert", two), "no such .tflite")
    refused(native.open("ort", two, library="/nowhere.so"), "/nowhere.so")
    refused(native.open("ort", two, library=str(native_build.library("litert"))), "no ONNX Runtime")
    refused(native.ask("open", backend="tvm", file="x", library="x", threads=1), "backend 'tvm'")
    refused(native.ask("open", backend="ort", file="x", library="x", threads="x"), "threads")
    refused(native.ask("dance"), "no command 'dance'")
    assert native.open("ort", two)["event"] == "opened"
    refused(native.round(1, 0.0, 1), "before its load")
    refused(native.ask("call", {"a": given["a"]}), "1 inputs")
    refused(native.ask("call", {"a": given["a"], "c": given["b"]}), "'b' is not given")
    refused(native.ask("call", some("a", "b", shape=(4, 2))), "invalid dimensions")
    refused(native.ask("call", some("a", "b", dtype="int8")), "Unexpected input data type")
    assert native.call(given).keys() == {"s", "p"}


def test_litert_takes_the_files_shape_and_type_alone(native: Native, tmp_path: Path) -> None:
    native.open("litert", write_tflite(tmp_path / "x.tflite"))
    for shape, dtype in (((2, 2, 2, 3), "float32"), ((1, 2, 2, 3), "int8"), ((12,), "float32")):
        answer = native.ask("call", some("a", "b", shape=shape, dtype=dtype))
        assert "type and shape" in answer["what"]
    assert native.call(some("a", "b", shape=(1, 2, 2, 3))).keys() == {"s", "p"}


GARBAGE = [
    b"\n", b"[]\n", b"nonsense\n", b'{"cmd": }\n', b'{"cmd": "call\n', b'{"cmd": "\\u12"}\n',
    b'{"cmd": "\\ud83d\\ud83d\\u0000"}\n', b'{"cmd": 1e999}\n', b'{"a":1:2,"b"}\n', b'{"a",}\n',
    b"\0\0\0\n", b"\xff\xfe{}\n", b'{"cmd": {"cmd": "stop"}, "x": [[[]], {}, "\\"", -1.5e-3]}\n',
    b'{"cmd": "' + b"x" * 3_000_000 + b'"}\n', b"[" * 90_000 + b"]" * 90_000 + b"\n",
]  # fmt: skip


def talk(binary: Path, sent: bytes) -> tuple[int, list[dict[str, Any]], bytes]:
    """Send bytes and close; return the exit status, the answers' headers and the log."""
    done = subprocess.run(
        [binary], input=sent, capture_output=True, env=ENVIRONMENT, timeout=60, check=False
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_answered_and_the_loop_goes_on(binary: Path, garbage: bytes) -> None:
    status, answers, log = talk(binary, garbage + encode({"cmd": "sense"}))
    assert (status, [one["event"] for one in answers]) == (0, ["error", "sensed"]), log


NO_ARRAYS = [
    ({"name": "a", "dtype": "complex64", "shape": [1]}, b"12345678"),
    ({"name": "a", "dtype": "int8", "shape": [-1]}, b""),
    ({"name": "a", "dtype": "int8", "shape": [1] * 17}, b"1"),
    ({"name": "a", "dtype": "float64", "shape": [1 << 30, 1 << 30]}, b""),
    ({"dtype": "int8", "shape": [1]}, b"1"),
    ({"name": "a", "dtype": "int8", "shape": [9]}, b"short"),
    ("a", b""),
]


@pytest.mark.parametrize(("spec", "body"), NO_ARRAYS, ids=str)
def test_an_array_that_is_none_ends_it_in_peace(binary: Path, spec: object, body: bytes) -> None:
    sent = json.dumps({"cmd": "call", "arrays": [spec]}).encode() + b"\n" + body
    status, answers, log = talk(binary, sent)
    assert (status, [one["event"] for one in answers]) == (0, ["error"]), log


def test_the_end_of_stdin_ends_it(binary: Path, two: Path) -> None:
    opening = {"cmd": "open", "backend": "ort", "file": str(two), "threads": 2}
    opening["library"] = str(native_build.library("ort"))
    begin = encode(opening)
    whole = begin + encode({"cmd": "load"}, some("a", "b"))
    for sent, events in ((b"", 0), (begin[:20], 0), (begin, 1), (whole, 2)):
        status, answers, log = talk(binary, sent)
        assert (status, len(answers)) == (0, events), log
    assert answers[1]["event"] == "loaded"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_tflite_is_an_error_or_a_death_but_never_a_hang(
    share: float, binaries: dict[str, Path], tmp_path: Path
) -> None:
    whole = write_tflite(tmp_path / "whole.tflite", signature=True).read_bytes()
    file = tmp_path / "cut.tflite"
    file.write_bytes(whole[: int(len(whole) * share)])
    with ProcessJob.start([str(binaries["plain"])], {}, tmp_path / "log") as job:
        native = Native(job)
        try:
            event = native.open("litert", file)["event"]
            assert native.ask("sense")["event"] == "sensed"
        except BenchError as error:
            event = error.what
    whole_enough = share > 0.95 and event == "opened"  # what is cut off may not be needed
    assert event == "error" or "was killed by" in event or whole_enough
