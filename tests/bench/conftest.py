"""Tiny real ONNX files, built node by node, and a protocol short enough for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.types import Candidate, Signature, TensorSpec

SHAPE = (1, 3, 16, 16)
Nodes = tuple[list[NodeProto], list[TensorProto]]
MakeNet = Callable[..., Candidate]


@pytest.fixture(scope="session")
def bench_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this test run's own."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(bench_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack the runner there."""
    monkeypatch.setenv("TORCHOPT2EDGE_CACHE", str(bench_cache))


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    """After every test of the bench, no child of ours is alive."""
    yield
    assert psutil.Process().children(recursive=True) == []


@pytest.fixture
def sample() -> dict[str, np.ndarray]:
    """One input of the nets, in the source model's name."""
    return {"image": np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)}


@pytest.fixture
def brief() -> TimingPlan:
    """The shortest protocol that is one."""
    return TimingPlan("brief", 10, 0.05, 5, 0.02, 0.0, prime=False, timeout_s=60.0)


@pytest.fixture
def net(tmp_path: Path) -> MakeNet:
    """Make a file: ``net(name, kind, width, depth)``.

    Kinds: ``conv`` (``depth`` convolutions of ``width`` channels), ``nan`` (0/0), ``random``
    (another answer each time), ``big`` (a 4000×4000 product: 64 MB of intermediate), ``same``
    (its input).
    """

    def make(name: str, kind: str = "conv", width: int = 4, depth: int = 1) -> Candidate:
        kinds = {"conv": _conv, "nan": _nan, "random": _random, "big": _big, "same": _same}
        nodes, weights = kinds[kind](width, depth)
        graph = helper.make_graph(
            nodes,
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE[1:]])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            weights,
        )
        opset = [helper.make_opsetid("", 18)]
        file = tmp_path / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), file)
        signature = Signature(
            (TensorSpec("image", (-1, *SHAPE[1:]), "float32", "x", "float32"),),
            (TensorSpec("logits", (-1, width), "float32", "y", "float32"),),
        )
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return Candidate(name, "ort", "fp32", file, signature, digest, {"params": 7}, "tiny")

    return make


def _conv(width: int, depth: int) -> Nodes:
    rng = np.random.default_rng(1)
    nodes, weights, last, channels = [], [], "x", SHAPE[1]
    for at in range(depth):
        weight = rng.normal(size=(width, channels, 3, 3)).astype(np.float32) / (3 * channels**0.5)
        weights.append(numpy_helper.from_array(weight, f"w{at}"))
        nodes.append(helper.make_node("Conv", [last, f"w{at}"], [f"c{at}"], pads=[1, 1, 1, 1]))
        last, channels = f"c{at}", width
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["p"]))
    nodes.append(helper.make_node("Flatten", ["p"], ["y"]))
    return nodes, weights


def _nan(width: int, depth: int) -> Nodes:
    return [
        helper.make_node("Sub", ["x", "x"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], ["y"]),
    ], []


def _random(width: int, depth: int) -> Nodes:
    return [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ], []


def _same(width: int, depth: int) -> Nodes:
    return [helper.make_node("Identity", ["x"], ["y"])], []


def _big(width: int, depth: int) -> Nodes:
    column = numpy_helper.from_array(np.ones((4000, 1), np.float32), "column")
    row = numpy_helper.from_array(np.ones((1, 4000), np.float32), "row")
    return [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["column", "mean"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "row"], ["product"]),
        helper.make_node("ReduceMean", ["product"], ["y"], keepdims=1),
    ], [column, row]


@pytest.fixture
def tflite(tmp_path: Path) -> Candidate:
    """A .tflite in NHWC that adds (0, 1, 2) to the three channels of an NCHW source."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    shape, bias = [1, 16, 16, 3], np.arange(3, dtype=np.float32)
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs = 3, [graph]
    model.buffers = [schema.BufferT() for _ in range(4)]
    model.buffers[3].data = np.frombuffer(bias.tobytes(), np.uint8)
    graph.tensors = []
    for at, (name, dims) in enumerate([(b"x", shape), (b"y", shape), (b"bias", [3])]):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, dims, at + 1
        tensor.type = schema.TensorType.FLOAT32
        graph.tensors.append(tensor)
    code, add = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    add.builtinOptionsType, add.builtinOptions = (
        schema.BuiltinOptions.AddOptions,
        schema.AddOptionsT(),
    )
    add.inputs, add.outputs = [0, 2], [1]
    model.operatorCodes, graph.operators = [code], [add]
    graph.inputs, graph.outputs = [0], [1]
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    file = tmp_path / "add.tflite"
    file.write_bytes(bytes(builder.Output()))
    spec = TensorSpec("image", SHAPE, "float32", "x", "float32", (0, 2, 3, 1))
    out = TensorSpec("sum", SHAPE, "float32", "y", "float32", (0, 2, 3, 1))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Candidate("add", "litert", "fp32", file, Signature((spec,), (out,)), digest)
