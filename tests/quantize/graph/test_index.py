"""The index of a graph, on one with a subgraph, shared tensors and constants of both kinds."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.quantize.graphs import floats, graph
from torchopt2edge.quantize.graph.index import (
    GraphIndex,
    attributes_of,
    fed_inputs,
    replace_nodes,
    walk_nodes,
)


def branching() -> onnx.ModelProto:
    """Return y = h + h and z = If(c) of h, h = x · w."""
    proto = graph(
        "(float[n,3] x, bool c) => (float[n,3] y, float[n,3] z) "
        "{ k = Constant<value = float[3] {1, 2, 3}>() h = MatMul(x, w) "
        "y = Add(h, h) z = Mul(h, k) }",
        {"w": floats(3, 3)},
    )
    out = [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
    body = helper.make_graph([helper.make_node("Relu", ["h"], ["b"])], "body", [], out)
    node = helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body)
    proto.graph.node[3].CopyFrom(node)
    return proto


def test_who_writes_and_who_reads() -> None:
    index = GraphIndex.of(branching())
    assert index.producer_type("h") == "MatMul"
    assert index.producer_type("x") == index.producer_type("w") == ""
    assert [node.op_type for node in index.consumers["h"]] == ["Add", "Add"]
    assert index.consumers["y"] == []
    assert index.uses["h"] == 4, "twice by Add, once in each branch"
    assert index.uses["y"] == 1, "as an output"
    assert index.outputs == {"y", "z"}


def test_what_is_constant() -> None:
    index = GraphIndex.of(branching())
    assert index.constants.keys() == {"w", "k"}
    np.testing.assert_array_equal(index.array("k"), [1, 2, 3])
    assert index.array("h") is None
    assert index.varying(index.producers["h"]) == ["x"]
    assert index.float_weights.keys() == {"w"}


def test_listed_weights_are_not_fed() -> None:
    proto = branching()
    listed = helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 3])
    proto.graph.input.insert(0, listed)
    assert [value.name for value in fed_inputs(proto.graph)] == ["x", "c"]
    assert [value.name for value in GraphIndex.of(proto).inputs] == ["x", "c"]


def test_nodes_of_subgraphs() -> None:
    found = [node.op_type for node in walk_nodes(branching().graph)]
    assert found == ["Constant", "MatMul", "Add", "If", "Relu", "Relu"]


def test_nodes_are_replaced_by_some_of_themselves() -> None:
    proto = branching()
    replace_nodes(proto.graph, [proto.graph.node[2], proto.graph.node[1]])
    assert [node.op_type for node in proto.graph.node] == ["Add", "MatMul"]


def test_attributes_are_plain_values() -> None:
    node = helper.make_node("Gemm", ["a", "b"], ["c"], transB=1, alpha=0.5)
    assert attributes_of(node) == {"transB": 1, "alpha": 0.5}
