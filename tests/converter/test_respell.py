"""What is written in other operators computes the same, to float rounding, in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quantize.graphs import floats, graph, kinds, run
from torchopt2edge.converter.respell import respell


def check(proto: onnx.ModelProto, left: set[str] | None = None) -> None:
    """Require that something was replaced, and that the outputs stay."""
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    x = {"x": floats(*shape)}
    before = run(proto, x)["y"]
    assert respell(proto, norms=True) >= 1
    onnx.checker.check_model(proto)
    after = run(proto, x)["y"]
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=2e-5)
    if left is not None:
        assert not left & set(kinds(proto))


def test_group_norm() -> None:
    text = """(float[1,16,16,16] x) => (float[1,16,16,16] y)
        { y = GroupNormalization<num_groups=4, epsilon=1e-3>(x, s, b) }"""
    weights = {"s": floats(16), "b": floats(16, seed=1)}
    check(graph(text, weights, opset=21), {"GroupNormalization"})


def test_group_norm_as_it_is_exported() -> None:
    text = """(float[1,16,16,10] x) => (float[1,16,16,10] y) {
        g = Reshape(x, to) n = InstanceNormalization<epsilon=1e-5>(g, s, b)
        y = Reshape(n, back) }"""
    weights = {
        "to": np.array([0, 4, -1]),
        "back": np.array([1, 16, 16, 10]),
        "s": np.ones(4, np.float32),
        "b": np.zeros(4, np.float32),
    }
    check(graph(text, weights), {"Reshape", "InstanceNormalization"})


def test_norms_stay_unless_they_are_asked_for() -> None:
    text = """(float[1,16,8,10] x) => (float[1,16,8,10] y) {
        g = Reshape(x, to) n = InstanceNormalization<epsilon=1e-5>(g, s, b)
        y = Reshape(n, back) }"""
    weights = {
        "to": np.array([0, 4, -1]),
        "back": np.array([1, 16, 8, 10]),
        "s": np.ones(4, np.float32),
        "b": np.zeros(4, np.float32),
    }
    assert respell(graph(text, weights)) == 0


def test_layer_norm_over_channels_and_pixels() -> None:
    text = """(float[1,6,5,7] x) => (float[1,6,5,7] y)
        { y = LayerNormalization<axis=1>(x, s, b) }"""
    check(graph(text, {"s": floats(6, 5, 7), "b": floats(6, 5, 7, seed=1)}), {"LayerNormalization"})


@given(
    size=st.integers(2, 4),
    stride=st.integers(1, 3),
    pad=st.integers(0, 2),
    dilation=st.integers(1, 3),
    extra=st.integers(0, 1),
    depthwise=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_transposed_convolutions(
    size: int, stride: int, pad: int, dilation: int, extra: int, depthwise: bool
) -> None:
    extra = min(extra, stride - 1)
    out = (5 - 1) * stride - 2 * pad + dilation * (size - 1) + extra + 1
    group, per = (4, 2) if depthwise else (1, 3)
    if out < 1 or (dilation == 1 and not depthwise):
        return
    text = f"""(float[1,4,5,5] x) => (float[1,{group * per},{out},{out}] y) {{
        y = ConvTranspose<group={group}, strides=[{stride},{stride}],
            dilations=[{dilation},{dilation}],
            pads=[{pad},{pad},{pad},{pad}], output_padding=[{extra},{extra}]>(x, w, b) }}"""
    weights = {"w": floats(4, per, size, size), "b": floats(group * per, seed=1)}
    proto = graph(text, weights)
    x = {"x": floats(1, 4, 5, 5)}
    before = run(proto, x)["y"]
    respell(proto)
    np.testing.assert_allclose(run(proto, x)["y"], before, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("stride", "pad"), [(1, 1), (2, 1), (2, 0), (3, 0)])
def test_dilated_maximum_pooling(stride: int, pad: int) -> None:
    size = (14 + 2 * pad - 5) // stride + 1
    text = f"""(float[1,3,14,14] x) => (float[1,3,{size},{size}] y) {{ r = Relu(x)
        y = MaxPool<kernel_shape=[3,3], dilations=[2,2], strides=[{stride},{stride}],
            pads=[{pad},{pad},{pad},{pad}]>(r) }}"""
    check(graph(text), {"MaxPool"})


def test_pooling_that_would_pad_negative_values_stays() -> None:
    text = """(float[1,3,14,14] x) => (float[1,3,12,12] y) {
        y = MaxPool<kernel_shape=[3,3], dilations=[2,2], pads=[1,1,1,1]>(x) }"""
    proto = graph(text)
    assert respell(proto) == 0
    assert kinds(proto) == ["MaxPool"]


def test_other_nodes_stay() -> None:
    text = """(float[1,4,6,6] x) => (float[1,3,12,12] y) {
        y = ConvTranspose<strides=[2,2]>(x, w) }"""
    proto = graph(text, {"w": floats(4, 3, 2, 2)})
    before = proto.SerializeToString()
    assert respell(proto) == 0
    assert proto.SerializeToString() == before


def test_softplus_does_not_overflow() -> None:
    text = "(float[1,3,4,5] x) => (float[1,3,4,5] y) { h = Mul(x, k) y = Softplus(h) }"
    proto = graph(text, {"k": np.float32(200)})
    x = {"x": floats(1, 3, 4, 5)}
    wanted = np.logaddexp(0.0, 200.0 * x["x"].astype(np.float64))
    assert respell(proto) == 0
    assert respell(proto, norms=True) == 1
    assert "Softplus" not in kinds(proto)
    np.testing.assert_allclose(run(proto, x)["y"], wanted, rtol=1e-5, atol=1e-6)
