"""Finding the operators of an ONNX node, on planted graphs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from torchopt2edge.backends.litert.flatbuffer import Op, Tensor, TfliteGraph
from torchopt2edge.backends.litert.op_map import counterparts

Row = tuple[str, str, str]


def onnx_graph(*rows: Row) -> onnx.ModelProto:
    """Return nodes named by what they make, each its kind, what it is given, what it makes."""
    nodes = [helper.make_node(kind, given.split(), [made], made) for kind, given, made in rows]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", rows[-1][2])
    ]
    weight = numpy_helper.from_array(np.ones(1, np.float32), "w")
    return helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]))


def tflite_graph(*rows: Row) -> TfliteGraph:
    """Return operators, each its kind, what it is given, what it makes; the last is the output."""
    held: dict[str, Tensor] = {}

    def tensors(names: str) -> tuple[Tensor, ...]:
        return tuple(held.setdefault(name, Tensor(name)) for name in names.split())

    ops = tuple(Op(kind, tensors(given), tensors(made)) for kind, given, made in rows)
    return TfliteGraph(ops, {}, outputs=ops[-1].made)


def kinds(proto: onnx.ModelProto, graph: TfliteGraph, node: str, **matched: str) -> list[str]:
    """Return the kinds of the operators found for a node."""
    twins = {name: tuple(others.split()) for name, others in matched.items()}
    return [op.kind for op in counterparts(proto, graph, twins, [node])[node]]


NET = onnx_graph(("Conv", "x w", "c"), ("Relu", "c", "r"), ("Conv", "r w", "d"))


def test_a_node_whose_output_is_there() -> None:
    graph = tflite_graph(("CONV_2D", "X", "C"), ("RELU", "C", "R"), ("CONV_2D", "R", "D"))
    assert kinds(NET, graph, "c", X="x", C="c", R="r", D="d") == ["CONV_2D"]
    assert kinds(NET, graph, "r", X="x", C="c", R="r", D="d") == ["RELU"]


def test_a_node_that_was_fused_with_its_reader() -> None:
    graph = tflite_graph(("CONV_2D", "X", "R"), ("CONV_2D", "R", "D"))
    for node, made in (("c", "R"), ("r", "R"), ("d", "D")):
        (op,) = counterparts(NET, graph, {"X": ("x",), "R": ("r",), "D": ("d",)}, [node])[node]
        assert op.outputs == (made,)


def test_a_reshape_of_the_same_values_is_not_the_node() -> None:
    proto = onnx_graph(("Gemm", "x w", "g"), ("Reshape", "g w", "s"))
    graph = tflite_graph(("FULLY_CONNECTED", "X", "G"), ("RESHAPE", "G", "S"))
    assert kinds(proto, graph, "g", X="x", G="g s", S="g s") == ["FULLY_CONNECTED"]
    # Only the reshaped values are known: what makes them belongs to it.
    assert kinds(proto, graph, "g", X="x", S="g s") == ["FULLY_CONNECTED", "RESHAPE"]


def test_a_padding_of_its_own_belongs_to_it() -> None:
    proto = onnx_graph(("Conv", "x w", "c"))
    graph = tflite_graph(("PAD", "X", "P"), ("CONV_2D", "P", "C"))
    assert kinds(proto, graph, "c", X="x", C="c") == ["PAD", "CONV_2D"]


def test_a_padding_that_others_read_does_not() -> None:
    proto = onnx_graph(("Conv", "x w", "c"), ("Conv", "x w", "e"), ("Add", "c e", "f"))
    graph = tflite_graph(
        ("PAD", "X", "P"), ("CONV_2D", "P", "C"), ("CONV_2D", "P", "E"), ("ADD", "C E", "F")
    )
    assert kinds(proto, graph, "c", X="x", C="c", E="e", F="f") == ["CONV_2D"]


def test_the_parts_of_a_grouped_convolution() -> None:
    proto = onnx_graph(("Conv", "x w", "c"), ("Relu", "c", "r"))
    rows = [("SPLIT", "X", "P Q"), ("CONV_2D", "P", "S"), ("CONV_2D", "Q", "T")]
    graph = tflite_graph(*rows, ("CONCATENATION", "S T", "R"))
    found = kinds(proto, graph, "c", X="x", R="r")
    assert found == ["SPLIT", "CONV_2D", "CONV_2D", "CONCATENATION"]


def test_a_multiplying_node_without_a_multiplying_operator_is_not_found() -> None:
    proto = onnx_graph(("Conv", "x w", "c"), ("Relu", "c", "r"))
    assert kinds(proto, tflite_graph(("RELU", "C", "R")), "c", C="c", R="r") == []


@pytest.mark.parametrize("node", ["c", "nowhere"])
def test_what_is_not_there_is_not_found(node: str) -> None:
    graph = tflite_graph(("CONV_2D", "X", "R"), ("CONV_2D", "R", "D"))
    assert kinds(NET, graph, node, X="x", D="d") == []


def test_a_node_with_two_readers_is_not_fused_with_either() -> None:
    proto = onnx_graph(("Conv", "x w", "c"), ("Relu", "c", "r"), ("Add", "c r", "s"))
    graph = tflite_graph(("CONV_2D", "X", "R"), ("ADD", "R R", "S"))
    assert kinds(proto, graph, "c", X="x", R="r", S="s") == []
