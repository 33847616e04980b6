"""Which tensors are quantized, rule by rule, on small graphs."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.quantize.graphs import floats
from tests.quantize.simulated import inferred
from torchopt2edge.quantize.quantized_tensors import (
    GRAPH_OUTPUT,
    QuantizedConstant,
    QuantizedTensors,
    quantized_tensors,
)

W = {"w": floats(3, 3, 3, 3, seed=1), "v": floats(3, 3, 3, 3, seed=2), "g": floats(3, 2, seed=3)}
PAD = "<pads=[1,1,1,1]>"


def tensors_of(text: str, path: Path) -> QuantizedTensors:
    """Return the quantized tensors of a graph from x [n, 3, 8, 8] to y."""
    return quantized_tensors(onnx.load(inferred(text, W, path / "net.onnx")))


def rounded(tensors: QuantizedTensors) -> dict[str, list[set[str]]]:
    """Return the sets of nodes because of which each tensor is rounded."""
    groups: dict[str, list[set[str]]] = {}
    for tensor in tensors.rounded:
        groups.setdefault(tensor.tensor, []).append(set(tensor.ops))
    return groups


def test_q1_an_operator_reads_and_writes_integers(tmp_path: Path) -> None:
    tensors = tensors_of(
        f"(float[n,3,8,8] x) => (float[n,3,8,8] y) {{ a = Conv{PAD}(x, w) y = Sin(a) }}", tmp_path
    )
    assert tensors.ops == {"node_a": "Conv"}, "no runtime has a Sin in integers"
    assert rounded(tensors) == {"x": [{"node_a"}], "a": [{"node_a"}]}
    assert tensors.constants == (QuantizedConstant("node_a", 1, "w", 0),)


@pytest.mark.parametrize("cut", ["Relu(a)", "Clip(a, zero, six)"])
def test_q2_what_lies_before_a_fused_activation_is_never_rounded(tmp_path: Path, cut: str) -> None:
    text = "(float[n,3,8,8] x) => (float[n,3,8,8] y) <float zero = {0}, float six = {6}>"
    tensors = tensors_of(f"{text} {{ a = Conv{PAD}(x, w) y = {cut} }}", tmp_path)
    assert tensors.ops == {"node_a": "Conv"}
    assert rounded(tensors) == {"x": [{"node_a"}], "y": [{"node_a"}]}
    assert tensors.rounded[-1].readers == {GRAPH_OUTPUT}


def test_q2_not_when_another_reads_it(tmp_path: Path) -> None:
    tensors = tensors_of(
        f"(float[n,3,8,8] x) => (float[n,3,8,8] y) "
        f"{{ a = Conv{PAD}(x, w) r = Relu(a) y = Add(a, r) }}",
        tmp_path,
    )
    assert list(tensors.ops) == ["node_a", "node_r", "node_y"]
    assert set(rounded(tensors)) == {"x", "a", "r", "y"}


def test_q3_what_moves_values_rounds_nothing(tmp_path: Path) -> None:
    tensors = tensors_of(
        f"(float[n,3,8,8] x) => (float[n,3,7,7] y) {{ a = Conv{PAD}(x, w) "
        "m = MaxPool<kernel_shape=[2,2]>(a) t = Transpose<perm=[0,1,3,2]>(m) "
        "y = Conv<pads=[1,1,1,1]>(t, v) }",
        tmp_path,
    )
    assert list(tensors.ops) == ["node_a", "node_y"]
    assert rounded(tensors)["a"] == [{"node_a", "node_y"}]
    assert not {"m", "t"} & set(rounded(tensors))


def test_q4_a_pool_keeps_the_scale(tmp_path: Path) -> None:
    tensors = tensors_of(
        "(float[n,3,8,8] x) => (float[n,3,7,7] y) { y = AveragePool<kernel_shape=[2,2]>(x) }",
        tmp_path,
    )
    assert tensors.same_scale == {"y": "x"}


def test_q5_a_float_readers_tensor_stays_as_it_is(tmp_path: Path) -> None:
    tensors = tensors_of(
        f"(float[n,3,8,8] x) => (float[n,3,8,8] y, float[n,3,8,8] z) {{ s = Sin(x) "
        f"a = Conv{PAD}(s, w) y = Add(a, s) z = Exp(s) }}",
        tmp_path,
    )
    by = {reader: set(s.ops) for s in tensors.rounded if s.tensor == "s" for reader in s.readers}
    assert by == {"node_a": {"node_a"}, "node_y": {"node_y"}}, "and Exp reads the float"
    assert rounded(tensors)["a"] == [{"node_a", "node_y"}]


def test_the_channels_of_a_weight(tmp_path: Path) -> None:
    tensors = tensors_of(
        "(float[n,3] x) => (float[n,3] d, float[n,2] m) <float[3] k = {1.0, 2.0, 3.0}> "
        "{ y = Gemm(x, g) m = MatMul(x, g) t = Gemm<transB=1>(y, g) d = Mul(t, k) }",
        tmp_path,
    )
    axes = {constant.node: constant.axis for constant in tensors.constants}
    assert axes == {"node_y": 1, "node_m": 1, "node_t": 0, "node_d": None}


def test_q2_a_bias_goes_into_its_matmul(tmp_path: Path) -> None:
    tensors = tensors_of(
        "(float[n,4,3] x) => (float[n,4,2] y) <float[2] b = {1.0, 2.0}> "
        "{ a = MatMul(x, g) s = Add(a, b) y = Relu(s) }",
        tmp_path,
    )
    assert tensors.ops == {"node_a": "MatMul"}
    assert rounded(tensors) == {"x": [{"node_a"}], "y": [{"node_a"}]}


def test_q3_behind_a_float_op_floats_are_moved(tmp_path: Path) -> None:
    """Each part is rounded where a layer reads it, with a range of its own."""
    tensors = tensors_of(
        f"(float[n,3,8,8] x) => (float[n,3,8,8] y) {{ s = Elu(x) "
        f"t = Transpose<perm=[0,1,3,2]>(s) y = Conv{PAD}(t, w) }}",
        tmp_path,
    )
    assert rounded(tensors) == {"t": [{"node_y"}], "y": [{"node_y"}]}


def test_a_float_op_is_not_quantized(tmp_path: Path) -> None:
    tensors = tensors_of(
        f"(float[n,3,8,8] x) => (float[n,3,8,8] y) {{ a = Conv{PAD}(x, w) r = Add(a, x) "
        f"s = Softmax(r) y = Conv{PAD}(s, v) }}",
        tmp_path,
    )
    assert tensors.ops == {"node_a": "Conv", "node_y": "Conv"}
