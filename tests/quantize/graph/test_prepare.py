"""The shared float graph: what is refused, what is folded, and that it computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.quantize.graphs import Arrays, floats, graph, kinds, norm, run, saved
from torchopt2edge.errors import ExportError
from torchopt2edge.quantize.graph.prepare import content_digest, load, prepare, signature_of

X = {"x": floats(2, 3, 8, 8)}
CONV = "h = Conv<pads=[1,1,1,1]>(x, w)"
NORM = "BatchNormalization"


def prepared(proto: onnx.ModelProto, tmp_path: Path) -> onnx.ModelProto:
    """Return the shared graph made of this one."""
    out = tmp_path / "out.onnx"
    prepare(saved(proto, tmp_path / "in.onnx"), out)
    return onnx.load(out)


def conv(body: str, weights: Arrays, opset: int = 18) -> onnx.ModelProto:
    """Return a graph from images to images of 4 channels."""
    text = f"(float[batch,3,8,8] x) => (float[batch,4,8,8] y) {{ {body} }}"
    return graph(text, {"w": floats(4, 3, 3, 3), **weights}, opset)


def assert_same(one: onnx.ModelProto, two: onnx.ModelProto, inputs: Arrays) -> None:
    """Require equal outputs up to the rounding of folded weights."""
    before, after = run(one, inputs), run(two, inputs)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].shape == value.shape
        np.testing.assert_allclose(after[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", range(13, 22))
def test_a_norm_goes_into_the_convolution_before_it(tmp_path: Path, opset: int) -> None:
    proto = conv(f"{CONV} i = Identity(h) y = {NORM}(i, ns, nb, nm, nv)", norm(4, "n"), opset)
    out = prepared(proto, tmp_path)
    assert kinds(out) == ["Conv"]
    assert out.opset_import[0].version == opset
    assert_same(proto, out, X)


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_older_opsets_become_13(tmp_path: Path, opset: int) -> None:
    proto = conv(f"{CONV} i = {NORM}(h, ns, nb, nm, nv) y = Relu(i)", norm(4, "n"), opset)
    out = prepared(proto, tmp_path)
    assert kinds(out) == ["Conv", "Relu"]
    assert out.opset_import[0].version == 13
    assert_same(proto, out, X)


def test_an_opset_that_cannot_be_brought_up(tmp_path: Path) -> None:
    text = "(float[n,3,8,8] x) => (float[n,3,8,8] y) { y = Add<broadcast = 1, axis = 1>(x, k) }"
    proto = graph(text, {"k": np.ones(3, np.float32)}, opset=6)
    with pytest.raises(ExportError, match="opset 6 cannot be brought to 13: n Dimension"):
        prepared(proto, tmp_path)


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_a_norm_behind_a_relu_becomes_mul_and_add(tmp_path: Path, opset: int) -> None:
    proto = conv(f"{CONV} r = Relu(h) y = {NORM}(r, ns, nb, nm, nv)", norm(4, "n"), opset)
    out = prepared(proto, tmp_path)
    assert kinds(out) == ["Conv", "Relu", "Mul", "Add"]
    assert_same(proto, out, X)


def as_constants(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its weights in Constant nodes."""
    given = [helper.make_node("Constant", [], [w.name], value=w) for w in proto.graph.initializer]
    nodes = [*given, *proto.graph.node]
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def as_inputs(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its weights listed as inputs, as until IR version 4."""
    for weight in proto.graph.initializer:
        listed = helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        proto.graph.input.append(listed)
    proto.ir_version = 3
    return proto


@pytest.mark.parametrize("form", [as_constants, as_inputs])
@pytest.mark.parametrize("opset", [11, 13])
def test_weights_in_other_places(
    tmp_path: Path, form: Callable[[onnx.ModelProto], onnx.ModelProto], opset: int
) -> None:
    proto = form(conv(f"{CONV} i = {NORM}(h, ns, nb, nm, nv) y = Relu(i)", norm(4, "n"), opset))
    out = prepared(proto, tmp_path)
    assert kinds(out) == ["Conv", "Relu"]
    assert [value.name for value in out.graph.input] == ["x"]
    assert_same(proto, out, X)


def test_weights_that_are_computed_become_constants(tmp_path: Path) -> None:
    text = "(float[n,64,8,8] x) => (float[n,64,6,6] y) { v = Mul(w, s) y = Conv(x, v) }"
    proto = graph(text, {"w": floats(64, 64, 3, 3), "s": floats(64, 1, 1, 1)})
    out = prepared(proto, tmp_path)
    assert kinds(out) == ["Conv"]
    assert_same(proto, out, {"x": floats(1, 64, 8, 8)})


def test_every_node_has_a_name(tmp_path: Path) -> None:
    out = prepared(conv(f"{CONV} r = Relu(h) s = Sigmoid(r) y = Mul(r, s)", {}), tmp_path)
    names = [node.name for node in out.graph.node]
    assert all(names)
    assert len(set(names)) == 4


def test_constants_are_folded(tmp_path: Path) -> None:
    body = "a = Constant<value_float = 2.0>() b = Sqrt(a) c = Mul(b, b) h = Mul(x, c) y = Relu(h)"
    proto = graph(f"(float[n,3] x) => (float[n,3] y) {{ {body} }}")
    out = prepared(proto, tmp_path)
    assert kinds(out) == ["Mul", "Relu"]
    assert_same(proto, out, {"x": floats(2, 3)})


def test_a_hard_swish_stays_one_node(tmp_path: Path) -> None:
    out = prepared(conv(f"{CONV} y = HardSwish(h)", {}), tmp_path)
    assert kinds(out) == ["Conv", "HardSwish"]


def test_pooling_is_written_as_the_runtimes_know_it(tmp_path: Path) -> None:
    text = "(float[n,3,8,8] x) => (float[n,3] y) <int64[2] a = {2,3}>"
    proto = graph(f"{text} {{ h = Relu(x) y = ReduceMean<keepdims=0>(h, a) }}")
    out = prepared(proto, tmp_path)
    assert kinds(out) == ["Relu", "GlobalAveragePool", "Flatten"]
    assert_same(proto, out, X)


def test_every_tensor_has_a_shape(tmp_path: Path) -> None:
    out = prepared(conv(f"{CONV} r = Relu(h) y = Sigmoid(r)", {}), tmp_path)
    known = {value.name: value for value in (*out.graph.value_info, *out.graph.output)}
    for node in out.graph.node:
        assert len(known[node.output[0]].type.tensor_type.shape.dim) == 4
        assert known[node.output[0]].type.tensor_type.elem_type == TensorProto.FLOAT


def test_it_can_be_prepared_twice(tmp_path: Path) -> None:
    proto = conv(f"{CONV} y = {NORM}(h, ns, nb, nm, nv)", norm(4, "n"))
    once = prepared(proto, tmp_path)
    assert prepared(once, tmp_path).SerializeToString() == once.SerializeToString()


def test_the_source_is_not_touched(tmp_path: Path) -> None:
    path = saved(conv(f"{CONV} y = Relu(h)", {}), tmp_path / "in.onnx")
    before = path.read_bytes()
    prepare(path, tmp_path / "out.onnx")
    assert path.read_bytes() == before


def test_external_weights_are_brought_in(tmp_path: Path) -> None:
    proto = conv(f"{CONV} y = Relu(h)", {})
    (tmp_path / "given").mkdir()
    path = tmp_path / "given" / "in.onnx"
    split = onnx.ModelProto()
    split.CopyFrom(proto)
    onnx.save(split, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "given" / "weights.bin").is_file()
    prepare(path, tmp_path / "out.onnx")
    (tmp_path / "given" / "weights.bin").unlink()
    assert_same(proto, onnx.load(tmp_path / "out.onnx"), X)
    with pytest.raises(ExportError, match="not a valid ONNX file"):
        prepare(path, tmp_path / "out.onnx")


def test_a_digest_sees_weights_that_lie_in_another_file(tmp_path: Path) -> None:
    """A net that was trained on was taken for the one before: its .onnx is the same."""

    def exported(folder: str, w: np.ndarray) -> Path:
        proto, out = conv("y = Conv(x, w)", {"w": w}), tmp_path / folder / "m.onnx"
        out.parent.mkdir()
        how = {"save_as_external_data": True, "size_threshold": 0, "location": "m.data"}
        onnx.save(proto, out, **how)
        return out

    w = floats(4, 4, 3, 3)
    one, same, other = exported("a", w), exported("b", w), exported("c", w + 1)
    assert one.read_bytes() == other.read_bytes()
    assert content_digest(one) == content_digest(same) != content_digest(other)
    one.with_name("m.data").unlink()
    assert content_digest(one) != content_digest(same)
    with pytest.raises(ExportError, match=r"m\.data"):
        load(one)


def test_weights_listed_as_inputs_are_weights(tmp_path: Path) -> None:
    proto = conv(f"{CONV} y = Relu(h)", {})
    listed = helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3])
    proto.graph.input.insert(0, listed)
    out = prepared(proto, tmp_path)
    assert [spec.name for spec in signature_of(out, tmp_path).inputs] == ["x"]
    assert_same(proto, out, X)


QDQ = (
    "(float[n,3] x) => (float[n,3] y) <float s = {0.1}, uint8 z = {128}> "
    "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
)


def test_a_quantized_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"already quantized .*DequantizeLinear, QuantizeLinear"):
        prepare(saved(graph(QDQ), tmp_path / "q.onnx"), tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_quantized_subgraph_is_refused(tmp_path: Path) -> None:
    inner = onnx.GraphProto()
    inner.CopyFrom(graph(QDQ).graph)
    del inner.input[:]  # a subgraph sees the tensors around it
    proto = graph("(float[n,3] x, bool c) => (float[n,3] y) { y = Relu(x) }")
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    proto.graph.node[0].CopyFrom(node)
    with pytest.raises(ExportError, match="already quantized"):
        prepare(saved(proto, tmp_path / "q.onnx"), tmp_path / "out.onnx")


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_that_are_not_float32_are_refused(tmp_path: Path, dtype: type) -> None:
    word = {np.float16: "float16", np.float64: "double"}[dtype]
    text = f"({word}[n,3] x) => ({word}[n,3] y) {{ y = Mul(x, k) }}"
    proto = graph(text, {"k": np.ones(3, dtype)})
    with pytest.raises(ExportError, match="not float32: 2 weights or inputs are not, such as 'k'"):
        prepare(saved(proto, tmp_path / "h.onnx"), tmp_path / "out.onnx")
    bare = graph(f"({word}[n,3] x) => ({word}[n,3] y) {{ y = Abs(x) }}")
    with pytest.raises(ExportError, match="not float32"):
        prepare(saved(bare, tmp_path / "h.onnx"), tmp_path / "out.onnx")


def test_whole_numbers_may_go_in(tmp_path: Path) -> None:
    proto = graph("(int64[n,3] x) => (float[n,3] y) { h = Cast<to=1>(x) y = Relu(h) }")
    out = prepared(proto, tmp_path)
    assert signature_of(out, tmp_path).inputs[0].dtype == "int64"


@pytest.mark.parametrize("content", [b"", b"not a model at all", bytes(range(256)) * 8])
def test_a_file_that_is_no_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ExportError, match="not a valid ONNX file"):
        load(tmp_path / "x.onnx")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no such ONNX file"):
        prepare(tmp_path / "absent.onnx", tmp_path / "out.onnx")


def test_a_graph_that_the_runtime_cannot_load(tmp_path: Path) -> None:
    proto = graph("(float[n,3] x) => (float[n,3] y) { y = Relu(x) }")
    proto.opset_import.add(domain="com.example", version=1)
    proto.graph.node[0].domain, proto.graph.node[0].op_type = "com.example", "Secret"
    with pytest.raises(ExportError, match=r"ONNX Runtime cannot load this graph.*Secret"):
        prepare(saved(proto, tmp_path / "x.onnx"), tmp_path / "out.onnx")


def test_a_batch_fixed_to_several_is_refused(tmp_path: Path) -> None:
    proto = graph("(float[4,3] x) => (float[4,3] y) { y = Relu(x) }")
    with pytest.raises(ExportError, match="batch of every input is fixed to 4"):
        prepare(saved(proto, tmp_path / "x.onnx"), tmp_path / "out.onnx")
    one = graph("(float[1,3] x) => (float[1,3] y) { y = Relu(x) }")
    assert kinds(prepared(one, tmp_path)) == ["Relu"]


def test_an_output_of_no_sample_makes_every_tensor_a_whole_one(tmp_path: Path) -> None:
    body = "=> (float[n,4] y, float[2] w) { y = Relu(x) }"
    made = prepared(graph(f"(float[n,4] x) {body}", {"w": floats(2)}), tmp_path)
    assert kinds(made) == ["Relu"]
    found = signature_of(made, tmp_path)
    assert [(s.name, s.shape, s.whole) for s in (*found.inputs, *found.outputs)] == [
        ("x", (1, 1, 4), True),
        ("y", (1, 1, 4), True),
        ("w", (1, 2), True),
    ]


def test_a_signature(tmp_path: Path) -> None:
    text = "(float[n,3,8,8] image, int64[n,2] meta) => (float[n,3,8,8] a, int64[n,2] b)"
    proto = graph(f"{text} {{ a = Relu(image) b = Abs(meta) }}")
    found = signature_of(proto, tmp_path)
    assert [(s.name, s.shape, s.dtype) for s in (*found.inputs, *found.outputs)] == [
        ("image", (-1, 3, 8, 8), "float32"),
        ("meta", (-1, 2), "int64"),
        ("a", (-1, 3, 8, 8), "float32"),
        ("b", (-1, 2), "int64"),
    ]
    assert all(s.file_name == s.name and s.perm is None for s in found.inputs)


def test_a_tensor_without_a_rank_has_no_signature(tmp_path: Path) -> None:
    proto = graph("(float[n,3] x) => (float[n,3] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ExportError, match="'x' has no shape"):
        signature_of(proto, tmp_path)


def test_a_weight_in_a_constant_node_counts(tmp_path: Path) -> None:
    half = numpy_helper.from_array(np.ones(3, np.float16), "k")
    proto = graph("(float[n,3] x) => (float[n,3] y) { k = Relu(x) c = Cast<to=1>(k) y = Mul(x,c) }")
    proto.graph.node[0].CopyFrom(helper.make_node("Constant", [], ["k"], value=half))
    out = prepared(proto, tmp_path)  # folded into a float32 weight: the graph is float32
    assert kinds(out) == ["Mul"]
    assert {weight.data_type for weight in out.graph.initializer} == {TensorProto.FLOAT}


def test_an_output_that_is_a_constant_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proto = graph("(float[1,4] x) => (float y, float[2] w) { y = Relu(x) }", {"w": floats(2)})
    prepared(proto, tmp_path)
    assert not caplog.records


@pytest.mark.parametrize(
    "body",
    [
        "y = Dropout(x, half, on)",
        "f = Constant<value = bool {1}> () y = Dropout(x, half, f)",
        "r = RandomNormalLike(x) y = Add(x, r)",
    ],
)
def test_a_graph_of_train_mode_is_refused(body: str, tmp_path: Path) -> None:
    flags = {"on": np.array(True), "half": np.array(0.5, np.float32)}
    proto = graph(f"(float[n,4] x) => (float y) {{ {body} }}", flags)
    with pytest.raises(ExportError, match=r"as in training, or at random.*net\.eval\(\)"):
        prepared(proto, tmp_path)


def test_a_dropout_that_is_off_goes(tmp_path: Path) -> None:
    flags = {"off": np.array(False), "half": np.array(0.5, np.float32)}
    body = "a = Dropout(x, half, off) b = Dropout(a, half) y = Relu(b)"
    proto = graph(f"(float[n,4] x) => (float y) {{ {body} }}", flags)
    assert kinds(prepared(proto, tmp_path)) == ["Relu"]
