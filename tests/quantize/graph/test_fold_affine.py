"""What goes into a layer, what is written out, and that nothing changes but rounding."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.quantize.graphs import Arrays, floats, graph, kinds, norm, run
from torchopt2edge.quantize.graph.fold_affine import settle_affine

NORM = "BatchNormalization"


def settled(proto: onnx.ModelProto, inputs: Arrays) -> onnx.ModelProto:
    """Settle a copy, and require that it is valid and computes the same."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    settle_affine(copy)
    onnx.checker.check_model(copy, full_check=True)
    before, after = run(proto, inputs), run(copy, inputs)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-4, atol=1e-5)
    return copy


IMAGE, ODD = "float[n,4,8,8] x", "float[n,6,9,9] y"
LAYER = {
    "conv": (IMAGE, "float[n,6,6,6] y", "Conv(x, w)", (6, 4, 3, 3), 6),
    "bias": (IMAGE, "float[n,6,6,6] y", "Conv(x, w, b)", (6, 4, 3, 3), 6),
    "depthwise": (IMAGE, "float[n,4,6,6] y", "Conv<group=4>(x, w)", (4, 1, 3, 3), 4),
    "line": ("float[n,4,8] x", "float[n,6,6] y", "Conv(x, w)", (6, 4, 3), 6),
    "transposed": (IMAGE, ODD, "ConvTranspose(x, w, b)", (4, 6, 2, 2), 6),
    "groups": (IMAGE, ODD, "ConvTranspose<group=2>(x, w)", (4, 3, 2, 2), 6),
    "gemm": ("float[n,5] x", "float[n,6] y", "Gemm<alpha=0.5, beta=0.3>(x, w, b)", (5, 6), 6),
    "turned": ("float[n,5] x", "float[n,6] y", "Gemm<transB=1, beta=2.0>(x, w, b)", (6, 5), 6),
}


@pytest.mark.parametrize("case", LAYER)
def test_a1_a_norm_goes_into_the_layer(case: str) -> None:
    given, made, layer, shape, count = LAYER[case]
    body = f"h = {layer} y = {NORM}<epsilon=0.01>(h, ns, nb, nm, nv)"
    weights = {"w": floats(*shape), **({"b": floats(count, seed=9)} if "b)" in layer else {})}
    proto = graph(f"({given}) => ({made}) {{ {body} }}", {**weights, **norm(count, "n")})
    size = [int(n) for n in given.partition("[n,")[2].partition("]")[0].split(",")]
    out = settled(proto, {"x": floats(3, *size)})
    assert kinds(out) == [layer.partition("(")[0].partition("<")[0]]
    assert len(out.graph.initializer) == 2


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (1,), ()])
def test_a1_constants_per_channel_go_into_the_layer(shape: tuple[int, ...]) -> None:
    text = "(float[n,4,8,8] x) => (float[n,6,6,6] y)"
    body = "h = Conv(x, w) i = Mul(h, s) j = Sub(i, t) k = Div(j, s) y = Add(t, k)"
    values = {"w": floats(6, 4, 3, 3), "s": 2 + abs(floats(*shape)), "t": floats(*shape, seed=4)}
    proto = graph(f"{text} {{ {body} }}", {k: np.asarray(v, np.float32) for k, v in values.items()})
    assert kinds(settled(proto, {"x": floats(2, 4, 8, 8)})) == ["Conv"]


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("h = Conv(x, w) y = Mul(h, s)", (6,)),  # along the width
        ("h = Conv(x, w) y = Mul(h, s)", (1, 1, 6, 1)),
        ("h = Conv(x, w) y = Mul(h, s)", (1, 6, 6, 6)),
        ("h = Conv(x, w) y = Div(s, h)", (1,)),
        ("h = Conv(x, w) y = Sub(s, h)", (6, 1, 1)),
        ("h = Conv(x, w) r = Relu(h) y = Mul(r, s)", (6, 1, 1)),
        ("h = Conv(x, w) m = Mul(h, s) y = Add(h, m)", (6, 1, 1)),  # the output has two readers
        ("h = Conv(x, w) y = Div(h, z)", (1,)),
    ],
)
def test_what_is_not_per_channel_stays(body: str, shape: tuple[int, ...]) -> None:
    text = f"(float[n,4,8,8] x) => (float[n,6,6,6] y) {{ {body} }}"
    weights = {"w": floats(6, 4, 3, 3), "s": floats(*shape), "z": np.zeros(1, np.float32)}
    proto = graph(text, weights)
    before = kinds(proto)
    settle_affine(proto)
    assert kinds(proto) == before


def test_a_constant_that_widens_one_channel_stays() -> None:
    text = "(float[n,4,8,8] x) => (float[n,6,6,6] y) { h = Conv(x, w) y = Mul(h, s) }"
    proto = graph(text, {"w": floats(1, 4, 3, 3), "s": floats(1, 6, 1, 1)})
    assert kinds(settled(proto, {"x": floats(2, 4, 8, 8)})) == ["Conv", "Mul"]


def test_a_bias_for_every_row_stays() -> None:
    text = f"(float[3,5] x) => (float[3,6] y) {{ h = Gemm(x, w, b) y = {NORM}(h, ns, nb, nm, nv) }}"
    proto = graph(text, {"w": floats(5, 6), "b": floats(3, 6), **norm(6, "n")})
    assert kinds(settled(proto, {"x": floats(3, 5)})) == ["Gemm", "Mul", "Add"]


def test_a1_shared_weights_are_copied() -> None:
    text = "(float[n,4,8,8] x) => (float[n,6,6,6] y, float[n,6,6,6] z)"
    body = (
        f"r = Relu(x) h = Conv(x, w, b) i = Conv(r, w, b) "
        f"y = {NORM}(h, ns, nb, nm, nv) z = {NORM}(i, ms, mb, mm, mv)"
    )
    weights = {"w": floats(6, 4, 3, 3), "b": floats(6), **norm(6, "n"), **norm(6, "m")}
    weights["ms"] = weights["ms"] + 3
    out = settled(graph(f"{text} {{ {body} }}", weights), {"x": floats(2, 4, 8, 8)})
    assert kinds(out) == ["Relu", "Conv", "Conv"]
    assert len(out.graph.initializer) == 4


@pytest.mark.parametrize("shape", [(5,), (5, 7), (5, 4, 4), (5, 2, 3, 4)])
def test_a2_a_norm_behind_a_relu_becomes_mul_and_add(shape: tuple[int, ...]) -> None:
    size = ",".join(map(str, shape))
    body = f"r = Relu(x) y = {NORM}(r, ns, nb, nm, nv)"
    proto = graph(f"(float[n,{size}] x) => (float[n,{size}] y) {{ {body} }}", norm(5, "n"))
    out = settled(proto, {"x": floats(3, *shape)})
    assert kinds(out) == ["Relu", "Mul", "Add"]
    assert [node.name for node in out.graph.node[1:]] == ["y/mul", "y/add"]
    for weight in out.graph.initializer:
        assert list(weight.dims) == [1, 5, *[1] * (len(shape) - 1)]


def test_a2_a_norm_before_a_padded_convolution_stays_before_it() -> None:
    text = "(float[n,4,8,8] x) => (float[n,6,8,8] y)"
    body = f"h = {NORM}(x, ns, nb, nm, nv) y = Conv<pads=[1,1,1,1]>(h, w)"
    proto = graph(f"{text} {{ {body} }}", {"w": floats(6, 4, 3, 3), **norm(4, "n")})
    assert kinds(settled(proto, {"x": floats(2, 4, 8, 8)})) == ["Mul", "Add", "Conv"]


def test_a2_a_norm_whose_layer_has_another_reader() -> None:
    text = "(float[n,4,8,8] x) => (float[n,6,6,6] y, float[n,6,6,6] h)"
    body = f"h = Conv(x, w) y = {NORM}(h, ns, nb, nm, nv)"
    proto = graph(f"{text} {{ {body} }}", {"w": floats(6, 4, 3, 3), **norm(6, "n")})
    assert kinds(settled(proto, {"x": floats(2, 4, 8, 8)})) == ["Conv", "Mul", "Add"]


def test_a_layer_that_a_branch_reads_keeps_its_output() -> None:
    text = "(float[n,4,8,8] x, bool c) => (float[n,6,6,6] y, float[n,6,6,6] z)"
    body = f"h = Conv(x, w) y = {NORM}(h, ns, nb, nm, nv) z = Relu(h)"
    proto = graph(f"{text} {{ {body} }}", {"w": floats(6, 4, 3, 3), **norm(6, "n")})
    made = helper.make_tensor_value_info("o", onnx.TensorProto.FLOAT, None)
    branches = {
        f"{word}_branch": helper.make_graph([helper.make_node(op, ["h"], ["o"])], word, [], [made])
        for word, op in (("then", "Relu"), ("else", "Neg"))
    }
    proto.graph.node[2].CopyFrom(helper.make_node("If", ["c"], ["z"], **branches))
    out = settled(proto, {"x": floats(2, 4, 8, 8), "c": np.array(True)})
    assert kinds(out) == ["Conv", "Mul", "Add", "If"]


def test_a_norm_in_training_stays() -> None:
    text = "(float[n,4] x) => (float[n,4] y)"
    body = f"y, m, v = {NORM}<training_mode=1>(x, ns, nb, nm, nv)"
    proto = graph(f"{text} {{ {body} }}", norm(4, "n"))
    settle_affine(proto)
    assert kinds(proto) == [NORM]


def test_names_that_are_taken() -> None:
    text = "(float[n,5] x) => (float[n,5] y, float[n,5] z)"
    body = f"r = Relu(x) y = {NORM}(r, ns, nb, nm, nv) z = Mul(y, s)"
    proto = graph(f"{text} {{ {body} }}", {**norm(5, "n"), "s": floats(5)})
    proto.graph.initializer[-1].name = proto.graph.node[2].input[1] = "y/scale"
    out = settled(proto, {"x": floats(3, 5)})
    assert {weight.name for weight in out.graph.initializer} == {"y/scale", "y/scale_1", "y/shift"}
