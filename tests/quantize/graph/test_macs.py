"""MACs of each kind of heavy node, worked out by hand, and of real nets against the torch count."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.hub import Made
from tests.quantize.graphs import floats, graph
from torchopt2edge.models.count import macs
from torchopt2edge.quantize.graph.macs import macs_of, shapes_of


@pytest.mark.parametrize(
    ("head", "body", "weight", "wanted"),
    [
        ("(float[n,3,8,8] x) => (float[n,4,8,8] y)", "Conv<pads=[1,1,1,1]>", (4, 3, 3, 3), 6912),
        ("(float[n,3,8,8] x) => (float[n,4,4,4] y)", "Conv<strides=[2,2]>", (4, 3, 2, 2), 768),
        ("(float[n,4,8,8] x) => (float[n,4,8,8] y)", "Conv<group=4>", (4, 1, 1, 1), 256),
        ("(float[n,3,9] x) => (float[n,2,7] y)", "Conv", (2, 3, 3), 2 * 7 * 9),
        ("(float[n,3,4,4] x) => (float[n,2,8,8] y)", "ConvTranspose<strides=[2,2]>", (3, 2, 2, 2),
         3 * 16 * 8),
        ("(float[n,6] x) => (float[n,5] y)", "Gemm<transB=1>", (5, 6), 30),
        ("(float[n,6] x) => (float[n,5] y)", "MatMul", (6, 5), 30),
        ("(float[n,7,6] x) => (float[n,7,5] y)", "MatMul", (6, 5), 210),
    ],
)  # fmt: skip
def test_counted_by_hand(head: str, body: str, weight: tuple[int, ...], wanted: int) -> None:
    proto = graph(f"{head} {{ y = {body}(x, w) }}", {"w": floats(*weight)})
    assert macs_of(proto) == {"y": wanted}
    proto.graph.node[0].name = "heavy"
    assert macs_of(proto) == {"heavy": wanted}


def test_a_transposed_left_side() -> None:
    proto = graph(
        "(float[6,3] x) => (float[3,5] y) { y = Gemm<transA=1>(x, w) }", {"w": floats(6, 5)}
    )
    assert macs_of(proto) == {"y": 3 * 5 * 6}


def test_light_nodes_do_not_count_and_the_graph_is_not_touched() -> None:
    proto = graph(
        "(float[n,3,8,8] x) => (float[n,2] y) "
        "{ h = Conv(x, w) r = Relu(h) p = GlobalAveragePool(r) y = Flatten(p) }",
        {"w": floats(2, 3, 3, 3)},
    )
    before = proto.SerializeToString()
    assert macs_of(proto) == {"h": 2 * 6 * 6 * 27}
    assert proto.SerializeToString() == before


def test_integer_kinds() -> None:
    weight = np.ones((4, 3, 3, 3), np.int8)
    text = "(uint8[n,3,8,8] x) => (int32[n,4,6,6] y) { y = ConvInteger(x, w) }"
    assert macs_of(graph(text, {"w": weight})) == {"y": 4 * 36 * 27}
    quantized = (
        "(uint8[n,3,8,8] x) => (uint8[n,4,6,6] y) <float s = {0.1}, uint8 z = {3}, int8 v = {0}> "
        "{ y = QLinearConv(x, s, z, w, s, v, s, z) }"
    )
    assert macs_of(graph(quantized, {"w": weight})) == {"y": 4 * 36 * 27}


def test_a_weight_behind_a_dequantize_counts() -> None:
    text = (
        "(float[n,3,8,8] x) => (float[n,4,6,6] y) <float s = {0.1}, int8 z = {0}> "
        "{ f = DequantizeLinear(w, s, z) y = Conv(x, f) }"
    )
    proto = graph(text, {"w": np.ones((4, 3, 3, 3), np.int8)})
    assert macs_of(proto) == {"y": 4 * 36 * 27}


def test_an_unknown_size_is_absent() -> None:
    text = "(float[n,3,h,w] x) => (float[n,4,a,b] y) { y = Conv(x, k) }"
    proto = graph(text, {"k": floats(4, 3, 3, 3)})
    assert macs_of(proto) == {}
    assert "x" not in shapes_of(proto)


def test_a_real_net_counts_as_in_torch(tiny: Made) -> None:
    proto = onnx.load(tiny.graph.path / "model.onnx")
    assert sum(macs_of(proto).values()) == macs(tiny.net, (3, 32, 32))
