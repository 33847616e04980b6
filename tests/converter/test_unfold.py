"""PixelShuffle as TensorFlow has it: the graph computes the same before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from torchopt2edge.converter.unfold import unfold_in_place
from torchopt2edge.quantize.graph.host_session import host_session

RNG = np.random.default_rng(0)


def model(nodes: list[Any], **weights: Any) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 16, 16])
    arrays = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()]
    graph = helper.make_graph(nodes, "g", [image], [out], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def conv(made: str, weight: str, *bias: str) -> Any:
    return helper.make_node("Conv", ["image", weight, *bias], [made], kernel_shape=[1, 1])


def shuffle(source: str, target: str = "y") -> Any:
    return helper.make_node("DepthToSpace", [source], [target], blocksize=2, mode="CRD")


def kernel() -> Any:
    return RNG.normal(size=(12, 3, 1, 1))


GRAPHS = {
    "conv": lambda: model([conv("c", "w", "b"), shuffle("c")], w=kernel(), b=RNG.normal(size=12)),
    "relu": lambda: model(
        [conv("c", "w"), helper.make_node("Relu", ["c"], ["r"]), shuffle("r")], w=kernel()
    ),
    "sum": lambda: model(
        [conv("a", "v"), conv("b", "w"), helper.make_node("Add", ["a", "b"], ["s"]), shuffle("s")],
        v=kernel(),
        w=kernel(),
    ),
    "scale": lambda: model(
        [conv("c", "w"), helper.make_node("Mul", ["c", "k"], ["s"]), shuffle("s")],
        w=kernel(),
        k=RNG.normal(size=(1, 12, 1, 1)),
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_same_is_computed_in_tensorflows_order(name: str) -> None:
    graph = GRAPHS[name]()
    image = RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)
    wanted = host_session(graph).run(None, {"image": image})[0]
    assert unfold_in_place(graph) == (2 if name == "sum" else 1)
    got = host_session(graph).run(None, {"image": image})[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    modes = {
        helper.get_attribute_value(n.attribute[1])
        for n in graph.graph.node[-1:]
        if n.op_type == "DepthToSpace"
    }
    assert b"CRD" not in modes
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds[-1] == ("Add" if name == "sum" else "DepthToSpace")


def test_channels_that_others_read_stay_in_their_order() -> None:
    nodes = [conv("c", "w"), shuffle("c", "s"), helper.make_node("GlobalMaxPool", ["c"], ["m"])]
    nodes += [
        helper.make_node("ReduceMax", ["m"], ["n"]),
        helper.make_node("Add", ["s", "n"], ["y"]),
    ]
    graph = model(nodes, w=kernel())
    before = graph.graph.initializer[0].SerializeToString()
    assert unfold_in_place(graph) == 0
    assert graph.graph.initializer[0].SerializeToString() == before


def test_a_graph_without_it_is_left_alone() -> None:
    graph = model([helper.make_node("Identity", ["image"], ["y"])])
    before = graph.SerializeToString()
    assert unfold_in_place(graph) == 0
    assert graph.SerializeToString() == before
