"""A MatMul and its bias are one layer: found, and written as ONNX Runtime has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.quantize.graphs import Arrays, floats, kinds, run
from tests.quantize.simulated import inferred, ranges_of
from torchopt2edge.quantize.graph.gemm import as_gemm, bias_adds
from torchopt2edge.quantize.graph.index import GraphIndex
from torchopt2edge.quantize.qdq_writer import IntegerTypes, quantize_graph

W: Arrays = {
    "w": floats(4, 5),
    "v": floats(4, 5, seed=1),
    "b": floats(5, seed=2),
    "c": floats(1, 1, 5, seed=3),
    "s": np.array(np.float32(0.7)),
    "z": np.zeros((), np.float32),
    "top": np.full((), 2, np.float32),
    "rows": floats(6, 1, seed=4),
}
X = {"x": floats(3, 6, 4, seed=9)}
HEAD = "(float[n,6,4] x) => (float[n,6,5] y)"


def rewritten(text: str, folder: Path, *excluded: str) -> tuple[list[str], float]:
    """Return the operators of a graph written anew, and how far its outputs moved."""
    file = inferred(text, W, folder / "net.onnx")
    before, proto = onnx.load(file), onnx.load(file)
    ranges = ranges_of(file, X)
    found = as_gemm(proto, type(ranges)(ranges.bounds, "", ranges.manifest, excluded))
    onnx.checker.check_model(proto)
    rows = {name for node in proto.graph.node for name in node.output if name.endswith("@rows")}
    assert rows <= found.bounds.keys()
    was, now = run(before, X), run(proto, X)
    return kinds(proto), max(float(np.abs(was[name] - now[name]).max()) for name in was)


@pytest.mark.parametrize("bias", ["b", "c", "s"])
def test_a_pair_becomes_a_gemm_on_rows(bias: str, tmp_path: Path) -> None:
    ops, moved = rewritten(f"{HEAD} {{ a = MatMul(x, w) y = Add({bias}, a) }}", tmp_path)
    assert (ops, moved < 1e-5) == (["Reshape", "Gemm", "Reshape"], True)


@pytest.mark.parametrize("cut", ["Relu(t)", "Clip(t, z, top)"])
def test_its_relu_stays_beside_it(cut: str, tmp_path: Path) -> None:
    ops, moved = rewritten(f"{HEAD} {{ a = MatMul(x, w) t = Add(a, b) y = {cut} }}", tmp_path)
    assert ops == ["Reshape", "Gemm", cut.split("(")[0], "Reshape"]
    assert moved < 1e-5


def test_two_that_read_the_same_share_its_rows(tmp_path: Path) -> None:
    text = "{ a = MatMul(x, w) p = Add(a, b) q = MatMul(x, v) r = Add(q, c) y = Mul(p, r) }"
    ops, moved = rewritten(f"{HEAD} {text}", tmp_path)
    assert ops == ["Reshape", "Gemm", "Reshape", "Gemm", "Reshape", "Mul"]
    assert moved < 1e-4


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD} {{ a = MatMul(x, w) y = Add(a, rows) }}",  # not along the last axis
        "(float[n,6,4] x) => (float[n,6,5] y, float[n,6,5] a) { a = MatMul(x, w) y = Add(a, b) }",
        f"{HEAD} {{ a = MatMul(x, w) p = Add(a, b) y = Mul(a, p) }}",  # another reads the product
    ],
)
def test_what_is_no_bias_stays(text: str, tmp_path: Path) -> None:
    proto = onnx.load(inferred(text, W, tmp_path / "net.onnx"))
    assert bias_adds(GraphIndex.of(proto)) == {}
    assert "Gemm" not in rewritten(text, tmp_path)[0]


def test_a_pair_of_which_one_is_excluded_stays(tmp_path: Path) -> None:
    text = f"{HEAD} {{ a = MatMul(x, w) y = Add(a, b) }}"
    assert rewritten(text, tmp_path, "node_a")[0] == ["MatMul", "Add"]
    assert rewritten(text, tmp_path, "node_y")[0] == ["MatMul", "Add"]


def test_two_free_dimensions_stay(tmp_path: Path) -> None:
    text = "(float[n,m,4] x) => (float[n,m,5] y) { a = MatMul(x, w) y = Add(a, b) }"
    assert rewritten(text, tmp_path)[0] == ["MatMul", "Add"]


def test_nothing_is_rounded_between_product_and_bias(tmp_path: Path) -> None:
    file = inferred(f"{HEAD} {{ a = MatMul(x, w) y = Add(a, b) }}", W, tmp_path / "net.onnx")
    made = quantize_graph(onnx.load(file), ranges_of(file, X), IntegerTypes())
    rounded = {n.input[0] for n in made.graph.node if n.op_type == "QuantizeLinear"}
    assert "y@rows" in rounded
    assert not {"a", "a@rows"} & rounded
