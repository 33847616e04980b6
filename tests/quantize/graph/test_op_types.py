"""The table of operator types, held against what ONNX Runtime really does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.quantize.graphs import floats, graph
from torchopt2edge.quantize.graph.host_session import host_session
from torchopt2edge.quantize.graph.index import GraphIndex
from torchopt2edge.quantize.graph.op_types import (
    FUSED,
    INTEGER,
    LAYERS,
    MOVES,
    QDQ,
    TABLE,
    Trait,
    having,
    is_integer_kernel,
    is_quantized,
    moves_values,
)

# A call of each type on x [1, 4, 4, 4] or on its rows f [1, 64].
CALLS = {
    "Conv": "Conv(x, w)",
    "Gemm": "Gemm(f, g)",
    "MatMul": "MatMul(f, g)",
    "Add": "Add(x, x)",
    "Sub": "Sub(x, x)",
    "Mul": "Mul(x, x)",
    "Div": "Div(x, x)",
    "Relu": "Relu(x)",
    "Tanh": "Tanh(x)",
    "Sigmoid": "Sigmoid(x)",
    "LeakyRelu": "LeakyRelu<alpha=0.1>(x)",
    "AveragePool": "AveragePool<kernel_shape=[2,2]>(x)",
    "GlobalAveragePool": "GlobalAveragePool(x)",
    "GlobalMaxPool": "GlobalMaxPool(x)",
    "Concat": "Concat<axis=1>(x, x)",
    "Resize": 'Resize<mode="nearest">(x, , twice)',
    "Identity": "Identity(x)",
    "Dropout": "Dropout(x)",
    "Reshape": "Reshape(x, flat)",
    "Flatten": "Flatten(x)",
    "Squeeze": "Squeeze(x, zeroth)",
    "Unsqueeze": "Unsqueeze(x, zeroth)",
    "Transpose": "Transpose<perm=[0,2,3,1]>(x)",
    "DepthToSpace": "DepthToSpace<blocksize=2>(x)",
    "SpaceToDepth": "SpaceToDepth<blocksize=2>(x)",
    "Expand": "Expand(x, double)",
    "Tile": "Tile(x, double)",
    "MaxPool": "MaxPool<kernel_shape=[2,2]>(x)",
    "Slice": "Slice(x, zeroth, two, two)",
    "Gather": "Gather<axis=1>(x, zeroth)",
    "Split": "Split<axis=1, num_outputs=2>(x)",
}
CONSTANTS = {
    "w": floats(4, 4, 1, 1),
    "g": floats(64, 3),
    "twice": np.array([1, 1, 2, 2], np.float32),
    "flat": np.array([1, -1]),
    "zeroth": np.array([0]),
    "two": np.array([2]),
    "double": np.array([2, 1, 1, 1]),
}


def between_pairs(op_type: str) -> onnx.ModelProto:
    """Return a graph in which everything that one node reads and writes goes through a pair."""
    shape, name = ("1,64", "f") if "(f" in CALLS[op_type] else ("1,4,4,4", "x")
    outputs = "y, z" if op_type == "Split" else "y"
    text = f"(float[{shape}] {name}) => (float y) {{ {outputs} = {CALLS[op_type]} }}"
    proto = graph(text, {k: v for k, v in CONSTANTS.items() if f" {k}" in CALLS[op_type]})
    (node,) = proto.graph.node
    params = (("scale", np.array(0.05, np.float32)), ("zero", np.array(128, np.uint8)))
    proto.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in params)
    before, after = [], []
    for name in dict.fromkeys(n for n in node.input if n in ("x", "f", "w", "g")):
        before += pair(name, f"{name}/read")
    for place, name in enumerate(node.input):
        node.input[place] = f"{name}/read" if name in ("x", "f", "w", "g") else name
    for place, name in enumerate(node.output):
        after += pair(f"{name}/written", name)
        node.output[place] = f"{name}/written"
    kept = [*before, node, *after]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    return proto


def pair(source: str, target: str) -> list[onnx.NodeProto]:
    params = ["scale", "zero"]
    return [
        helper.make_node("QuantizeLinear", [source, *params], [f"{target}/integers"]),
        helper.make_node("DequantizeLinear", [f"{target}/integers", *params], [target]),
    ]


def runs_on_integers(op_type: str, folder: Path) -> bool:
    """Tell whether ONNX Runtime leaves no dequantization in front of the operator."""
    file = folder / "optimized.onnx"
    host_session(between_pairs(op_type), keep=file)
    index = GraphIndex.of(onnx.load(file))
    dequantized = {n.output[0] for n in index.producers.values() if n.op_type == "DequantizeLinear"}
    return not any(dequantized & {*node.input} for node in index.producers.values())


@pytest.mark.parametrize("op_type", CALLS)
def test_ort_has_an_integer_kernel_where_the_table_says_so(op_type: str, tmp_path: Path) -> None:
    assert runs_on_integers(op_type, tmp_path) is (Trait.ORT in TABLE[op_type])


def test_every_type_with_a_kernel_is_tried_but_pad_which_is_written_on_integers() -> None:
    assert having(Trait.ORT) - CALLS.keys() == {"Pad"}


def test_the_traits_agree_with_each_other() -> None:
    assert MOVES.isdisjoint(INTEGER), "what moves values does not compute"
    assert having(Trait.DROPS) | having(Trait.PADS) <= MOVES
    assert LAYERS <= INTEGER
    assert FUSED <= having(Trait.ACTIVATION)
    assert having(Trait.ARITHMETIC) <= having(Trait.POINTWISE)
    assert having(Trait.BIASED) <= LAYERS


@pytest.mark.parametrize(
    ("call", "moves"),
    [
        ("Transpose(x)", True),
        ("Relu(x)", False),
        ("Pad(x, pads)", True),
        ("Pad(x, pads, nothing)", True),
        ("Pad(x, pads, seven)", False),
        ("Pad(x, pads, given)", False),
        ('Pad<mode="reflect">(x, pads)', True),
        ("Resize(x, , twice)", True),
        ('Resize<mode="linear">(x, , twice)', False),
    ],
)
def test_some_types_move_values_by_their_settings(call: str, moves: bool) -> None:
    constants = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "nothing": np.zeros((), np.float32),
        "seven": np.full((), 7, np.float32),
        "twice": CONSTANTS["twice"],
    }
    used = {key: value for key, value in constants.items() if key in call}
    proto = graph(f"(float[1,4,4,4] x, float given) => (float y) {{ y = {call} }}", used)
    index = GraphIndex.of(proto)
    assert moves_values(proto.graph.node[0], index.array) is moves


def test_integer_operators_are_told_by_their_names() -> None:
    for name in ("QLinearConv", "QLinearGlobalAveragePool", "ConvInteger", "MatMulIntegerToFloat"):
        assert is_integer_kernel(name)
        assert is_quantized(name)
    assert all(is_quantized(name) and not is_integer_kernel(name) for name in QDQ)
    assert not any(is_quantized(name) for name in TABLE)
