"""How the order of axes and the names are found."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from torchopt2edge.converter.layout import best_layout, permutations
from torchopt2edge.converter.names import graph_names, renamed, signature_names


def test_permutations_put_channels_last_first() -> None:
    assert permutations((1, 3, 8, 9), (1, 8, 9, 3)) == [(0, 2, 3, 1)]
    assert permutations((1, 8, 8, 8), (1, 8, 8, 8))[:2] == [(0, 2, 3, 1), (0, 1, 2, 3)]
    assert permutations((1, 5), (1, 5)) == [(0, 1)]
    assert permutations((), ()) == [()]
    assert permutations((1, 5), (1, 6)) == []
    assert permutations((1, 5), (5,)) == []


def test_the_values_decide_between_equal_shapes() -> None:
    source = np.random.default_rng(0).standard_normal((1, 8, 8, 8))
    for perm in permutations(source.shape, source.shape):
        assert best_layout(source, source.transpose(perm)) == (200.0, perm)
    assert best_layout(source, source[:, :4]) == (-200.0, None)


def test_signature_names_are_distinct_identifiers() -> None:
    names = ["x", "a/b:0", "a.b.0", "a_b_0", "1", "lambda", "", "_y"]
    made = signature_names(names)
    assert made[0] == "x"
    assert made[3] == "a_b_0", "a name that fits is kept"
    assert len(set(made)) == len(names)
    assert all(name.isidentifier() and name[0].isalpha() for name in made)


def test_renaming_keeps_the_graph() -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("x", "r", "x", "r")]
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Neg", ["r"], ["in"])]
    source = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]), ir_version=9)
    source.opset_import[0].version = 18
    made = renamed(source, ["in"], ["a", "b", "c"])
    onnx.checker.check_model(made)
    assert graph_names(made) == (["in"], ["a", "b", "c"])
    assert graph_names(source) == (["x"], ["r", "x", "r"])
