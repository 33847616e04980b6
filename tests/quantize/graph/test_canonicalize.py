"""Each rule, by its number: what is rewritten, what is left alone, and that nothing changes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.quantize.graphs import floats, graph, kinds, run
from torchopt2edge.quantize.graph.canonicalize import canonicalize

POOL = ["Relu", "GlobalAveragePool"]


def pooling(axes: str, keep: int, opset: int, form: str) -> onnx.ModelProto:
    """Return Relu, then the mean over the axes, given as an attribute, weight or Constant."""
    shape = "batch,3,1,1" if keep else "batch,3"
    head = f"(float[batch,3,5,4] x) => (float[{shape}] y)"
    many = f"int64[{axes.count(',') + 1}]"
    if form == "attribute":
        body = f"y = ReduceMean<axes=[{axes}], keepdims={keep}>(h)"
        return graph(f"{head} {{ h = Relu(x) {body} }}", opset=opset)
    mean = f"y = ReduceMean<keepdims={keep}>(h, a)"
    if form == "weight":
        return graph(f"{head} <{many} a = {{{axes}}}> {{ h = Relu(x) {mean} }}", opset=opset)
    constant = f"a = Constant<value = {many} {{{axes}}}>()"
    return graph(f"{head} {{ {constant} h = Relu(x) {mean} }}", opset=opset)


@pytest.mark.parametrize(
    ("opset", "form"),
    [(11, "attribute"), (13, "attribute"), (17, "attribute"), (18, "weight"), (18, "constant")],
)
@pytest.mark.parametrize("axes", ["2,3", "3,2", "-2,-1", "-1,2"])
@pytest.mark.parametrize("keep", [0, 1])
def test_c1_c2_pooling(axes: str, keep: int, opset: int, form: str) -> None:
    proto = pooling(axes, keep, opset, form)
    x = {"x": floats(2, 3, 5, 4)}
    before = run(proto, x)["y"]
    assert canonicalize(proto) == 1
    onnx.checker.check_model(proto, full_check=True)
    assert kinds(proto) == (POOL if keep else [*POOL, "Flatten"])
    assert not proto.graph.initializer
    after = run(proto, x)["y"]
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("axes", ["2", "1,2", "1,2,3", "0,1"])
def test_other_axes_are_left_alone(axes: str) -> None:
    shape = [size for i, size in enumerate((2, 3, 5, 4)) if str(i) not in axes.split(",")]
    text = f"(float[2,3,5,4] x) => (float[{','.join(map(str, shape))}] y)"
    many = f"int64[{axes.count(',') + 1}] a = {{{axes}}}"
    proto = graph(f"{text} <{many}> {{ y = ReduceMean<keepdims=0>(x, a) }}")
    proto.graph.node[0].name = "mean"
    before = proto.SerializeToString()
    assert canonicalize(proto) == 0
    assert proto.SerializeToString() == before


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,3,5,4,6] x) => (float[2,3,6] y) <int64[2] a = {2,3}>",
        "(float[5,4,3] x) => (float[5] y) <int64[2] a = {1,2}>",
    ],
    ids=["rank-5", "rank-3"],
)
def test_other_ranks_are_left_alone(text: str) -> None:
    proto = graph(f"{text} {{ y = ReduceMean<keepdims=0>(x, a) }}")
    assert canonicalize(proto) == 0
    assert kinds(proto) == ["ReduceMean"]


def test_an_unknown_rank_is_left_alone() -> None:
    text = "(float[2,3,5,4] x, int64[k] s) => (float y) <int64[2] a = {2,3}>"
    proto = graph(f"{text} {{ h = Reshape(x, s) y = ReduceMean<keepdims=0>(h, a) }}")
    assert canonicalize(proto) == 0


def test_axes_that_only_the_run_knows_are_left_alone() -> None:
    text = "(float[2,3,5,4] x, int64[2] a) => (float[2,3] y)"
    proto = graph(f"{text} {{ y = ReduceMean<keepdims=0>(x, a) }}")
    assert canonicalize(proto) == 0


def test_axes_that_another_node_reads_stay() -> None:
    text = "(float[b,3,5,4] x) => (float[b,3] y, float[b,3,1,1] z) <int64[2] a = {2,3}>"
    body = "{ y = ReduceMean<keepdims=0>(x, a) z = ReduceMax<keepdims=1>(x, a) }"
    proto = graph(f"{text} {body}")
    assert canonicalize(proto) == 1
    assert [weight.name for weight in proto.graph.initializer] == ["a"]
    onnx.checker.check_model(proto, full_check=True)


def test_every_pooling_of_a_graph() -> None:
    text = "(float[b,3,5,4] x) => (float[b,3] y) <int64[2] a = {2,3}>"
    body = "s = ReduceMean<keepdims=1>(x, a) m = Mul(x, s) y = ReduceMean<keepdims=0>(m, a)"
    proto = graph(f"{text} {{ {body} }}")
    before = run(proto, {"x": floats(2, 3, 5, 4)})["y"]
    assert canonicalize(proto) == 2
    assert kinds(proto) == ["GlobalAveragePool", "Mul", "GlobalAveragePool", "Flatten"]
    np.testing.assert_allclose(run(proto, {"x": floats(2, 3, 5, 4)})["y"], before, rtol=1e-5)
    assert canonicalize(proto) == 0, "there is nothing left to do"


def dims(proto: onnx.ModelProto) -> list[str]:
    """Name the first dimension of inputs, outputs and what is between."""
    known = [*proto.graph.input, *proto.graph.value_info, *proto.graph.output]
    return [value.type.tensor_type.shape.dim[0].dim_param for value in known]


def test_c3_the_batch_has_a_name() -> None:
    text = "(float[s77,3] x, float[s77,3] w) => (float[s77,3] y) { h = Add(x, w) y = Relu(h) }"
    proto = onnx.shape_inference.infer_shapes(graph(text))
    assert dims(proto) == ["s77"] * 4
    canonicalize(proto)
    assert dims(proto) == ["batch"] * 4


def test_c3_two_free_dimensions_keep_theirs() -> None:
    proto = graph("(float[n,3] x, float[m,3] w) => (float[n,3] y) { y = Relu(x) }")
    canonicalize(proto)
    assert dims(proto) == ["n", "m", "n"]


def test_c4_names_of_the_exporters_files_go() -> None:
    proto = graph("(float[n,3] x) => (float[n,3] y) { y = Relu(x) }")
    node = proto.graph.node[0]
    for holder in (proto, proto.graph, node, proto.graph.input[0]):
        holder.doc_string = "net.py:12"
        holder.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="net.py:12")
    canonicalize(proto)
    assert b"net.py" not in proto.SerializeToString()


def named(*names: str) -> list[str]:
    """Return what a chain of nodes with these names is called afterwards."""
    steps = [f"t{i + 1} = Relu(t{i})" for i in range(len(names))]
    proto = graph(f"(float[n,3] t0) => (float[n,3] t{len(names)}) {{ {' '.join(steps)} }}")
    for node, name in zip(proto.graph.node, names, strict=True):
        node.name = name
    canonicalize(proto)
    return [node.name for node in proto.graph.node]


def test_c5_every_node_has_a_name_of_its_own() -> None:
    assert named("a", "b", "c") == ["a", "b", "c"]
    assert named("", "b", "") == ["t1", "b", "t3"]
    assert named("a", "a", "a") == ["a_1", "a_2", "a_3"]
    assert named("t2", "", "a", "t2_1", "a") == ["t2", "t2_2", "a_1", "t2_1", "a_2"]


def test_c5_the_nodes_of_a_rule_have_names_too() -> None:
    proto = pooling("2,3", keep=0, opset=18, form="weight")
    canonicalize(proto)
    assert [node.name for node in proto.graph.node] == ["h", "y", "y/flatten"]
