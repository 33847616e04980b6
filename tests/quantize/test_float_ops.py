"""What stays in float in every runtime, rule by rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.quantize.graphs import Arrays, floats
from tests.quantize.simulated import inferred
from torchopt2edge.quantize.float_ops import float_ops

HALF, ONE, ROOT = (np.float32(value) for value in (0.5, 1.0, 1.4142135))
W: Arrays = {
    "w": floats(4, 4),
    "v": floats(4, 4, seed=1),
    "b": floats(4, seed=2),
    "k": floats(4, 4, 3, 3, seed=3),
    "m": floats(4, 4, 3, 3, seed=4),
    "c": floats(1, 4, 1, 1, seed=5),
    "half": np.array(HALF),
    "one": np.array(ONE),
    "root": np.array(ROOT),
    "point": floats(4, 4, 1, 1, seed=6),
}
TOKENS, IMAGE = "(float[n,6,4] x) => (float[n,6,4] y)", "(float[n,4,8,8] x) => (float[n,4,8,8] y)"
PAD = "<pads=[1,1,1,1]>"


def found(text: str, folder: Path) -> set[str]:
    """Name the tensors that the islands of a graph make."""
    proto = onnx.load(inferred(text, W, folder / "net.onnx", opset=18))
    return {name.removeprefix("node_") for name in float_ops(proto)}


@pytest.mark.parametrize(
    "op", ["LayerNormalization(a, b)", "Softmax(a)", "Erf(a)", "HardSwish(a)", "Div(a, root)"]
)
def test_i1_types_without_an_integer_kernel(op: str, tmp_path: Path) -> None:
    assert found(f"{TOKENS} {{ a = MatMul(x, w) s = {op} y = MatMul(s, v) }}", tmp_path) == {"s"}


def test_i2_a_product_of_two_activations(tmp_path: Path) -> None:
    text = "{ q = MatMul(x, w) u = MatMul(x, v) t = Transpose<perm=[0,2,1]>(u) p = MatMul(q, t) "
    assert found(f"(float[n,6,4] x) => (float[n,6,6] p) {text} }}", tmp_path) == {"p"}


GELU = "d = Div(a, root) e = Erf(d) f = Add(e, one) g = Mul(f, half) s = Mul(a, g)"
SWISH = "h = HardSigmoid(a) s = Mul(h, a)"
MISH = "p = Softplus(a) t = Tanh(p) s = Mul(a, t)"
TANH = "t = Mul(a, half) u = Tanh(t) f = Add(u, one) s = Mul(f, a)"


@pytest.mark.parametrize("text", [GELU, SWISH, MISH, TANH])
def test_i3_a_function_that_is_spelled_out(text: str, tmp_path: Path) -> None:
    inside = {part.split()[0] for part in text.split(")")[:-1]}
    made = found(f"{TOKENS} {{ a = MatMul(x, w) {text} y = MatMul(s, v) }}", tmp_path)
    assert made == inside, "and not the layers around it"


def test_i3_not_one_that_both_runtimes_have_in_integers(tmp_path: Path) -> None:
    text = "{ a = MatMul(x, w) g = Sigmoid(a) s = Mul(a, g) y = MatMul(s, v) }"
    assert found(f"{TOKENS} {text}", tmp_path) == set(), "a SiLU"


def test_i3_not_a_gate_of_another_tensor(tmp_path: Path) -> None:
    text = (
        f"{{ a = Conv{PAD}(x, k) p = GlobalAveragePool(a) q = Conv(p, point) h = HardSigmoid(q) "
        f"s = Mul(h, a) y = Conv{PAD}(s, m) }}"
    )
    assert found(f"{IMAGE} {text}", tmp_path) == {"h"}, "a squeeze-and-excitation"


def test_i4_the_scale_and_shift_of_a_norm(tmp_path: Path) -> None:
    text = (
        f"{{ a = Conv{PAD}(x, k) i = InstanceNormalization(a, b, b) t = Identity(i) s = Mul(t, c) "
        f"o = Add(s, c) r = Relu(o) y = Conv{PAD}(r, m) }}"
    )
    assert found(f"{IMAGE} {text}", tmp_path) == {"i", "s", "o", "r"}


def test_i5_the_residual_stream_of_a_transformer(tmp_path: Path) -> None:
    text = (
        "{ o = MatMul(x, w) z = Add(o, b) l = LayerNormalization(z, b) p = MatMul(l, w) "
        "q = Add(p, b) r = Add(z, q) m2 = LayerNormalization(r, b) y = MatMul(m2, v) }"
    )
    assert found(f"{TOKENS} {text}", tmp_path) == {"l", "r", "m2"}, "z and q are biases"


def test_i5_not_what_a_layer_reads_too(tmp_path: Path) -> None:
    text = f"{{ a = Conv{PAD}(x, k) r = Add(a, x) e = Elu(r) f = Conv{PAD}(r, m) y = Add(e, f) }}"
    assert found(f"{IMAGE} {text}", tmp_path) == {"e"}


def test_i5_not_a_layer_or_the_relu_in_it(tmp_path: Path) -> None:
    text = f"{{ a = Conv{PAD}(x, k) r = Relu(a) s = Softmax(r) y = Conv{PAD}(s, m) }}"
    assert found(f"{IMAGE} {text}", tmp_path) == {"s"}


def test_i5_not_an_output(tmp_path: Path) -> None:
    text = "(float[n,4,8,8] x) => (float[n,4,8,8] y, float[n,4,8,8] a) { a = Add(x, x) y = Elu(a) }"
    assert found(text, tmp_path) == {"y"}


def test_a_plain_cnn_has_none(tmp_path: Path) -> None:
    text = (
        f"{{ a = Conv{PAD}(x, k) r = Relu(a) d = Conv{PAD}(r, m) s = Add(d, x) q = Relu(s) "
        f"p = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(q) y = Conv{PAD}(p, k) }}"
    )
    assert found(f"{IMAGE} {text}", tmp_path) == set()
