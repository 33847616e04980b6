"""Where the integers are, rule by rule, on graphs small enough to see it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.quantize.graphs import floats
from tests.quantize.simulated import inferred
from torchopt2edge.quantize.quantized_tensors import END, Placement, placement

W = {"w": floats(3, 3, 3, 3, seed=1), "v": floats(3, 3, 3, 3, seed=2), "g": floats(3, 2, seed=3)}
PAD = "<pads=[1,1,1,1]>"


def placed(text: str, path: Path) -> Placement:
    """Place the integers of a graph from x [n, 3, 8, 8] to y."""
    return placement(onnx.load(inferred(text, W, path / "net.onnx")))


def spots(plan: Placement) -> dict[str, list[set[str]]]:
    """Return the sets of ops that round each tensor."""
    found: dict[str, list[set[str]]] = {}
    for spot in plan.spots:
        found.setdefault(spot.tensor, []).append(set(spot.by))
    return found


def test_q1_an_op_reads_and_makes_integers(tmp_path: Path) -> None:
    plan = placed(
        f"(float[n,3,8,8] x) => (float[n,3,8,8] y) {{ a = Conv{PAD}(x, w) y = Sin(a) }}", tmp_path
    )
    assert plan.ops == {"node_a": "Conv"}, "no runtime has a Sin in integers"
    assert spots(plan) == {"x": [{"node_a"}], "a": [{"node_a"}]}
    assert [(one.node, one.index, one.name, one.axis) for one in plan.constants] == [
        ("node_a", 1, "w", 0)
    ]


@pytest.mark.parametrize("cut", ["Relu(a)", "Clip(a, zero, six)"])
def test_q2_what_lies_before_a_fused_activation_is_never_rounded(tmp_path: Path, cut: str) -> None:
    text = "(float[n,3,8,8] x) => (float[n,3,8,8] y) <float zero = {0}, float six = {6}>"
    plan = placed(f"{text} {{ a = Conv{PAD}(x, w) y = {cut} }}", tmp_path)
    assert plan.ops == {"node_a": "Conv"}
    assert spots(plan) == {"x": [{"node_a"}], "y": [{"node_a"}]}
    assert plan.spots[-1].readers == {END}


def test_q2_not_when_another_reads_it(tmp_path: Path) -> None:
    plan = placed(
        f"(float[n,3,8,8] x) => (float[n,3,8,8] y) "
        f"{{ a = Conv{PAD}(x, w) r = Relu(a) y = Add(a, r) }}",
        tmp_path,
    )
    assert list(plan.ops) == ["node_a", "node_r", "node_y"]
    assert set(spots(plan)) == {"x", "a", "r", "y"}


def test_q3_what_moves_has_no_rounding_of_its_own(tmp_path: Path) -> None:
    plan = placed(
        f"(float[n,3,8,8] x) => (float[n,3,7,7] y) {{ a = Conv{PAD}(x, w) "
        "m = MaxPool<kernel_shape=[2,2]>(a) t = Transpose<perm=[0,1,3,2]>(m) "
        "y = Conv<pads=[1,1,1,1]>(t, v) }",
        tmp_path,
    )
    assert list(plan.ops) == ["node_a", "node_y"]
    assert spots(plan)["a"] == [{"node_a", "node_y"}]
    assert not {"m", "t"} & set(spots(plan))


def test_q4_a_pool_keeps_the_grid(tmp_path: Path) -> None:
    plan = placed(
        "(float[n,3,8,8] x) => (float[n,3,7,7] y) { y = AveragePool<kernel_shape=[2,2]>(x) }",
        tmp_path,
    )
    assert plan.same == {"y": "x"}


def test_q5_a_float_readers_tensor_stays_as_it_is(tmp_path: Path) -> None:
    plan = placed(
        f"(float[n,3,8,8] x) => (float[n,3,8,8] y, float[n,3,8,8] z) {{ s = Sin(x) "
        f"a = Conv{PAD}(s, w) y = Add(a, s) z = Exp(s) }}",
        tmp_path,
    )
    by = {reader: set(s.by) for s in plan.spots if s.tensor == "s" for reader in s.readers}
    assert by == {"node_a": {"node_a"}, "node_y": {"node_y"}}, "and Exp reads the float"
    assert spots(plan)["a"] == [{"node_a", "node_y"}]


def test_the_channels_of_a_weight(tmp_path: Path) -> None:
    plan = placed(
        "(float[n,3] x) => (float[n,3] d, float[n,2] m) <float[3] k = {1.0, 2.0, 3.0}> "
        "{ y = Gemm(x, g) m = MatMul(x, g) t = Gemm<transB=1>(y, g) d = Mul(t, k) }",
        tmp_path,
    )
    axes = {one.node: one.axis for one in plan.constants}
    assert axes == {"node_y": 1, "node_m": 1, "node_t": 0, "node_d": None}


def test_q2_a_bias_goes_into_its_matmul(tmp_path: Path) -> None:
    plan = placed(
        "(float[n,4,3] x) => (float[n,4,2] y) <float[2] b = {1.0, 2.0}> "
        "{ a = MatMul(x, g) s = Add(a, b) y = Relu(s) }",
        tmp_path,
    )
    assert plan.ops == {"node_a": "MatMul"}
    assert spots(plan) == {"x": [{"node_a"}], "y": [{"node_a"}]}


def test_q3_behind_a_float_op_floats_are_moved(tmp_path: Path) -> None:
    """Each part is rounded where a layer reads it, with a range of its own."""
    plan = placed(
        f"(float[n,3,8,8] x) => (float[n,3,8,8] y) {{ s = Elu(x) "
        f"t = Transpose<perm=[0,1,3,2]>(s) y = Conv{PAD}(t, w) }}",
        tmp_path,
    )
    assert spots(plan) == {"t": [{"node_y"}], "y": [{"node_y"}]}


def test_an_island_is_no_op(tmp_path: Path) -> None:
    plan = placed(
        f"(float[n,3,8,8] x) => (float[n,3,8,8] y) {{ a = Conv{PAD}(x, w) r = Add(a, x) "
        f"s = Softmax(r) y = Conv{PAD}(s, v) }}",
        tmp_path,
    )
    assert plan.ops == {"node_a": "Conv", "node_y": "Conv"}
