"""Equalization changes nothing but how the channels lie, and evens out what was planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hub import Made
from tests.quantize.graphs import Arrays, floats, graph, kept, kinds, run
from torchopt2edge.quantize.equalization import equalize

X = {"x": floats(4, 3, 8, 8)}
HEAD = "(float[n,3,8,8] x) => (float[n,p,q,s] y)"
CHAIN = "a = Conv(x, v, b) r = Relu(a) y = Conv(r, w)"


def net(body: str, weights: Arrays, head: str = HEAD) -> onnx.ModelProto:
    """Return a graph from images to whatever."""
    return graph(f"{head} {{ {body} }}", weights)


def weights(spread: float = 1.0) -> Arrays:
    """Return two layers' weights whose channels between lie up to ``spread`` apart."""
    factors = np.geomspace(1, spread, 8).astype(np.float32)
    return {
        "v": floats(8, 3, 3, 3) * factors.reshape(-1, 1, 1, 1),
        "b": floats(8, seed=1) * factors,
        "w": floats(5, 8, 3, 3, seed=2) / factors.reshape(1, -1, 1, 1),
    }


def equalized(
    proto: onnx.ModelProto, folder: Path, samples: Arrays | None = None, x: Arrays = X
) -> tuple[onnx.ModelProto, dict[str, float]]:
    """Equalize a graph, and require that it computes the same with the same nodes."""
    before = proto.SerializeToString()
    made, facts = equalize(proto, kept(samples, folder / "samples") if samples else None)
    assert proto.SerializeToString() == before, "the given graph stays as it is"
    onnx.checker.check_model(made, full_check=True)
    assert kinds(made) == kinds(proto)
    for name, value in run(proto, x).items():
        scale = float(np.abs(value).max())
        np.testing.assert_allclose(run(made, x)[name], value, rtol=1e-4, atol=1e-5 * scale)
    return made, facts


def inside(proto: onnx.ModelProto, tensor: str) -> np.ndarray:
    """Return a tensor between the layers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.append(
        onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None)
    )
    return run(copy, X)[tensor]


def peaks(proto: onnx.ModelProto, tensor: str) -> np.ndarray:
    """Return the largest activation of each channel."""
    return np.abs(inside(proto, tensor)).max((0, 2, 3))


@pytest.mark.parametrize("measured", [False, True])
def test_a_planted_spread_is_evened_out(tmp_path: Path, measured: bool) -> None:
    proto = net(CHAIN, weights(1e4))
    assert np.ptp(np.log10(peaks(proto, "r"))) > 3
    made, facts = equalized(proto, tmp_path, X if measured else None)
    assert facts["pairs"] == 1
    assert facts["largest_scale"] > 30
    assert np.ptp(np.log10(peaks(made, "r"))) < 0.6


def test_weights_on_both_sides_have_the_same_range(tmp_path: Path) -> None:
    given_weights = weights(100.0)
    given_weights["b"] *= np.float32(1e-3)  # the classic rule knows weights alone
    made, _ = equalized(net(CHAIN, given_weights), tmp_path)
    values = {w.name: onnx.numpy_helper.to_array(w) for w in made.graph.initializer}
    first, _, second = (
        values[name] for name in (*made.graph.node[0].input[1:], made.graph.node[2].input[1])
    )
    ours, theirs = np.abs(first).max((1, 2, 3)), np.abs(second).max((0, 2, 3))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


PASSED = {
    "nothing": "y = Conv(a, w)",
    "leaky": "r = LeakyRelu(a) y = Conv(r, w)",
    "slopes": "r = PRelu(a, slope) y = Conv(r, w)",
    "pool": "r = Relu(a) m = MaxPool<kernel_shape=[2,2]>(r) y = Conv(m, w)",
    "mean": "m = AveragePool<kernel_shape=[2,2]>(a) y = Conv(m, w)",
    "zeros": "p = Pad(a, pads) y = Conv(p, w)",
    "floor": "r = Clip(a, zero) y = Conv(r, w)",
    "norm": "r = Relu(a) m = Mul(r, k) p = Add(m, k) y = Conv(p, w)",
    "depthwise": "r = Relu(a) d = Conv<group=8>(r, dw, b) s = Relu(d) y = Conv(s, w)",
    "groups": "r = Relu(a) g = Conv<group=4>(r, gw) s = Relu(g) y = Conv(s, w)",
    "transposed": "r = Relu(a) y = ConvTranspose<group=2>(r, tw)",
    "twice": "r = Relu(a) t = ConvTranspose<group=2>(r, tw) s = Relu(t) y = Conv(s, w6)",
    "two": "r = Relu(a) c = Conv(r, w) d = Conv<pads=[1,1,1,1]>(r, w1) y = Add(c, d)",
    "head": "r = Relu(a) m = GlobalAveragePool(r) f = Flatten(m) "
    "g = Gemm(f, hw, hb) s = Relu(g) y = Gemm<transB=1>(s, iw)",
}
EXTRA = {
    "slope": abs(floats(8, 1, 1)),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "zero": np.zeros((), np.float32),
    "k": floats(1, 8, 1, 1, seed=7),
    "dw": floats(8, 1, 1, 1),
    "gw": floats(8, 2, 1, 1),
    "tw": floats(8, 3, 2, 2),
    "w6": floats(4, 6, 2, 2),
    "w1": floats(5, 8, 5, 5),
    "hw": floats(8, 6),
    "hb": floats(6),
    "iw": floats(4, 6),
}


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("case", PASSED)
def test_what_a_factor_passes_through(tmp_path: Path, case: str, measured: bool) -> None:
    head = "(float[n,3,8,8] x) => (float[n,4] y)" if case == "head" else HEAD
    proto = net(f"a = Conv(x, v, b) {PASSED[case]}", {**weights(1e3), **EXTRA}, head)
    made, facts = equalized(proto, tmp_path, X if measured else None)
    assert facts["pairs"] == (2 if case in ("depthwise", "groups", "twice", "head") else 1)
    assert facts["largest_scale"] > 5
    assert np.ptp(np.log10(peaks(made, "a"))) < np.ptp(np.log10(peaks(proto, "a"))) - 0.9


@pytest.mark.parametrize(
    "body",
    [
        "r = Clip(a, zero, six) y = Conv(r, w)",
        "r = Sigmoid(a) y = Conv(r, w)",
        "r = Relu(a) s = Slice(r, s0, s1, s2) c = Conv(r, w) y = Concat<axis=1>(c, s)",
        "r = Add(a, a) y = Conv(r, w)",
        "r = Add(a, one) y = Conv(r, w)",
        "p = Pad(a, pads, one) y = Conv(p, w)",
        "p = Pad(a, deep) y = Conv(p, w10)",
        "r = Clip(a, minus) y = Conv(r, w)",
        "f = Flatten(a) y = Gemm(f, flat)",
    ],
)
def test_what_a_factor_does_not_pass_through(tmp_path: Path, body: str) -> None:
    constants = {
        "zero": np.float32(0), "six": np.float32(6), "one": np.float32(1), "minus": np.float32(-1),
        "pads": EXTRA["pads"], "deep": np.array([0, 1, 0, 0, 0, 1, 0, 0]),
        "w10": floats(5, 10, 3, 3), "flat": floats(8 * 36, 4),
        "s0": np.array([0, 0]), "s1": np.array([4, 4]), "s2": np.array([2, 3]),
    }  # fmt: skip
    head = "(float[n,3,8,8] x) => (float[n,4] y)" if "Gemm" in body else HEAD
    values = {**weights(1e3), **{k: np.asarray(v) for k, v in constants.items()}}
    proto = net(f"a = Conv(x, v, b) {body}", values, head)
    _, facts = equalized(proto, tmp_path)
    assert facts == {"pairs": 0, "largest_scale": 1.0}


def test_a_tensor_that_is_given_out_keeps_its_values(tmp_path: Path) -> None:
    head = "(float[n,3,8,8] x) => (float[n,5,4,4] y, float[n,8,6,6] r)"
    _, facts = equalized(net(CHAIN, weights(100), head), tmp_path)
    assert facts["pairs"] == 0


def test_shared_weights_are_copied(tmp_path: Path) -> None:
    head = "(float[n,3,8,8] x) => (float[n,5,4,4] y, float[n,8,6,6] z)"
    body = f"{CHAIN} n = Neg(x) z = Conv(n, v, b)"
    made, facts = equalized(net(body, weights(100), head), tmp_path)
    assert facts["pairs"] == 1
    assert made.graph.node[-1].input[1:] == ["v", "b"]


def test_silent_channels_keep_their_weights(tmp_path: Path) -> None:
    values = weights(10)
    values["v"][2], values["b"][2] = 0, 0
    values["w"][:, 3] = 0
    made, _ = equalized(net(CHAIN, values), tmp_path, X)
    for weight in made.graph.initializer:
        assert np.isfinite(onnx.numpy_helper.to_array(weight)).all()


def test_a_channel_that_is_all_bias_is_not_blown_up(tmp_path: Path) -> None:
    values = weights()
    values["v"][2] *= np.float32(1e-8)
    values["b"][2] = 1
    made, _ = equalized(net(CHAIN, values), tmp_path)
    assert peaks(made, "a")[2] < 3 * np.median(peaks(made, "a"))


def test_a_real_net_is_the_same_afterwards(tiny: Made, tmp_path: Path) -> None:
    source = onnx.load(tiny.graph.path / "model.onnx")
    equalized, facts = equalize(source, tiny.kept)
    assert facts["pairs"] >= 0
    before, after = (run(proto, tiny.inputs) for proto in (source, equalized))
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-4, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 99),
    spread=st.floats(1, 1e5),
    group=st.sampled_from([1, 2, 4, 8]),
    measured=st.booleans(),
)
def test_any_chain_computes_the_same(
    tmp_path_factory: pytest.TempPathFactory, seed: int, spread: float, group: int, measured: bool
) -> None:
    values = weights(spread)
    factors = np.exp(floats(8, seed=seed))
    values["m"] = floats(8, 8 // group, 3, 3, seed=seed) * factors.reshape(-1, 1, 1, 1)
    body = (
        f"a = Conv(x, v, b) r = Relu(a) m1 = Conv<group={group}>(r, m) s = Relu(m1) y = Conv(s, w)"
    )
    _, facts = equalized(net(body, values), tmp_path_factory.mktemp("any"), X if measured else None)
    assert facts["pairs"] == 2


def rounded(value: np.ndarray, low: float, high: float, levels: int) -> np.ndarray:
    """Round to a grid of so many steps from low to high."""
    step = (high - low) / levels
    return (np.round(value / step) * step).astype(np.float32)


def int8_db(proto: onnx.ModelProto) -> float:
    """Return the SQNR of `CHAIN` with the tensor between and the second weights in 8 bits."""
    values = {w.name: onnx.numpy_helper.to_array(w) for w in proto.graph.initializer}
    second = values[proto.graph.node[2].input[1]]
    tops = np.abs(second).max((1, 2, 3))
    grid = np.stack([rounded(w, -top, top, 254) for w, top in zip(second, tops, strict=True)])
    between = inside(proto, "r")
    exact = graph("(float[n,8,6,6] r) => (float[n,5,4,4] y) { y = Conv(r, w) }", {"w": second})
    coarse = graph("(float[n,8,6,6] r) => (float[n,5,4,4] y) { y = Conv(r, w) }", {"w": grid})
    want = run(exact, {"r": between})["y"]
    got = run(coarse, {"r": rounded(between, 0, float(between.max()), 255)})["y"]
    return float(10 * np.log10(np.square(want).sum() / np.square(want - got).sum()))


def test_e4_a_spread_costs_little_any_more(tmp_path: Path) -> None:
    even, spread = net(CHAIN, weights()), net(CHAIN, weights(1e3))
    assert int8_db(spread) < int8_db(even) - 10
    made, _ = equalized(spread, tmp_path, X)
    assert int8_db(made) > int8_db(even) - 3


def test_e4_what_is_even_gets_no_worse(tmp_path: Path) -> None:
    proto = net(CHAIN, weights())
    made, _ = equalized(proto, tmp_path, X)
    assert int8_db(made) > int8_db(proto) - 0.5
