"""Free sizes: what counts as free, how it is fixed, and models without a batch."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.quantize.graphs import floats, graph
from torchopt2edge.errors import ConfigError, ExportError
from torchopt2edge.quantize.graph import shapes
from torchopt2edge.quantize.graph.prepare import prepared, signature_of

NET = Path("net.onnx")
IMAGE = "(float[n,3,h,w] x) => (float[n,4,a,b] y) { y = Conv(x, k) }"
WEIGHT = {"k": floats(4, 3, 3, 3)}


def sizes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of inputs and outputs."""
    return {v.name: shapes.shape_of(v) for v in (*proto.graph.input, *proto.graph.output)}


def test_a_size_that_nobody_gave_is_asked_for() -> None:
    with pytest.raises(ExportError) as caught:
        prepared(graph(IMAGE, WEIGHT), NET)
    assert "x [free, 3, free, free]" in str(caught.value)
    assert "shapes={x: [1, 3, …, …]}" in str(caught.value)


def test_a_given_size_leaves_the_batch_free_and_is_inferred_through() -> None:
    made = shapes.pin(graph(IMAGE, WEIGHT), {"x": [1, 3, 32, 48]}, NET)
    assert sizes(made) == {"x": (-1, 3, 32, 48), "y": (-1, 4, 30, 46)}
    assert not shapes.free_inputs(made)


@pytest.mark.parametrize("literal", [-1, 0])
def test_a_literal_that_is_no_size_is_free(literal: int) -> None:
    proto = graph("(float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }")
    for value in (*proto.graph.input, *proto.graph.output):
        for axis in (0, 2):
            value.type.tensor_type.shape.dim[axis].dim_value = literal
    shapes.normalize_free(proto.graph)
    assert sizes(proto)["x"] == (-1, 3, -1, 8)
    assert shapes.free_inputs(proto) == {"x": (-1, 3, -1, 8)}
    assert shapes.has_free_batch(proto)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"z": [1, 3, 8, 8]}, "'x'"),
        ({"x": [1, 1, 8, 8]}, r"\[-1, 3, -1, -1\]"),
        ({"x": [1, 3, 8]}, r"\[-1, 3, -1, -1\]"),
        ({"x": [1, 3, 0, 8]}, r"\[1, 3, 0, 8\]"),
    ],
)
def test_a_shape_that_contradicts_the_model(given: dict[str, list[int]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        shapes.pin(graph(IMAGE, WEIGHT), given, NET)


def test_one_shape_is_for_one_input() -> None:
    proto = graph(IMAGE, WEIGHT)
    assert shapes.only(proto, [3, 8, 8], NET) == {"x": (-1, 3, 8, 8)}
    assert shapes.only(proto, [1, 3, 8, 8], NET) == {"x": [1, 3, 8, 8]}
    two = graph("(float[n,2] a, float[n,2] b) => (float[n,2] y) { y = Add(a, b) }")
    with pytest.raises(ConfigError, match="a, b"):
        shapes.only(two, [1, 2], NET)


@pytest.mark.parametrize(
    ("text", "batch"),
    [
        ("(float[n,4] x) => (float[n,4] y) { y = Relu(x) }", True),
        ("(float[1,4] x) => (float[1,4] y) { y = Relu(x) }", True),
        ("(float[n,4] x, float[2,n,4] s) => (float[2,n,4] y) { y = Add(x, s) }", False),
        ("(float[n,4] x, float s) => (float[n,4] y) { y = Mul(x, s) }", False),
        ("(float[1,4,6] x) => (float[4,6] y) { y = ReduceSum<keepdims=0>(x, a) }", False),
        ("(float[n,4] x) => (float[4] y) { y = ReduceSum<keepdims=0>(x, a) }", False),
    ],
)
def test_which_models_have_a_batch(text: str, batch: bool) -> None:
    import numpy as np

    weights = {"a": np.array([0])} if "ReduceSum" in text else {}
    assert shapes.has_batch(graph(text, weights)) is batch


def test_without_a_batch_every_tensor_is_a_whole_sample() -> None:
    text = "(float[n,4] x, float[2,n,4] s) => (float[2,n,4] y) { y = Add(x, s) }"
    proto = prepared(graph(text), NET)
    assert sizes(proto) == {"x": (1, 4), "s": (2, 1, 4), "y": (2, 1, 4)}
    signature = signature_of(proto, NET)
    assert [spec.shape for spec in signature.inputs] == [(1, 1, 4), (1, 2, 1, 4)]
    assert all(spec.whole for spec in (*signature.inputs, *signature.outputs))


def test_a_batch_of_several_is_refused() -> None:
    with pytest.raises(ExportError, match="fixed to 4"):
        prepared(graph("(float[4,3] x) => (float[4,3] y) { y = Relu(x) }"), NET)
