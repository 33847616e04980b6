from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from tests.quantize.graphs import Arrays, floats, graph, kinds, run, saved
from torchopt2edge.errors import ExportError
from torchopt2edge.quantize.qdq_reader import is_qdq, split

# A net as a trainer writes it: the weight as int8 codes, the bias as int32, a quantized input.
TEXT = """(float[N,3,6,6] x) => (float[N,4] out) {
    xq = QuantizeLinear (x, xs, xz)
    xd = DequantizeLinear (xq, xs, xz)
    wd = DequantizeLinear <axis=0> (w, ws, wz)
    bd = DequantizeLinear <axis=0> (b, bs)
    c = Conv (xd, wd, bd)
    r = Relu (c)
    rq = QuantizeLinear (r, rs, rz)
    rd = DequantizeLinear (rq, rs, rz)
    rd2 = DequantizeLinear (rq, rs, rz)
    s = Sigmoid (rd2)
    j = Concat <axis=1> (rd, s)
    jq = QuantizeLinear (j, rs, rz)
    m = MaxPool <kernel_shape=[4,4]> (jq)
    md = DequantizeLinear (m, rs, rz)
    f = Flatten (md)
    hq = QuantizeLinear (h, hs, hz)
    hd = DequantizeLinear (hq, hs, hz)
    y = MatMul (f, hd)
    yq = QuantizeLinear (y, ys, yz)
    out = DequantizeLinear (yq, ys, yz)
}"""
I8, U8 = np.int8, np.uint8


def weights() -> Arrays:
    rng = np.random.default_rng(0)

    def scalar(value: float, dtype: type = np.float32) -> np.ndarray:
        return np.array(value, dtype)

    return {
        "xs": scalar(0.03),
        "xz": scalar(120, U8),
        "w": rng.integers(-127, 128, (5, 3, 3, 3)).astype(I8),
        "ws": np.linspace(0.001, 0.01, 5, dtype=np.float32),
        "wz": np.zeros(5, I8),
        "b": rng.integers(-5000, 5000, 5).astype(np.int32),
        "bs": np.linspace(0.001, 0.01, 5, dtype=np.float32) * np.float32(0.03),
        "rs": scalar(0.05),
        "rz": scalar(0, U8),
        "h": floats(10, 4),
        "hs": scalar(0.02),
        "hz": scalar(3, I8),
        "ys": scalar(0.25),
        "yz": scalar(-7, I8),
    }


def quantized() -> onnx.ModelProto:
    return graph(TEXT, weights())


def test_pairs_go_and_their_ranges_stay():
    proto, bounds = split(quantized())
    onnx.checker.check_model(proto, full_check=True)
    ops = ["Conv", "Relu", "Sigmoid", "Concat", "MaxPool", "Flatten", "MatMul"]
    assert kinds(proto) == ops
    assert is_qdq(quantized())
    assert not is_qdq(proto)
    want = {
        "x": (-120 * 0.03, 135 * 0.03),
        "r": (0.0, 255 * 0.05),
        "j": (0.0, 255 * 0.05),
        "out": (-121 * 0.25, 134 * 0.25),
    }
    assert {k: v for k, v in bounds.items() if k in want} == {
        name: pytest.approx(ends, rel=1e-6) for name, ends in want.items()
    }
    assert bounds.keys() - want.keys() <= {"m"}


def test_weights_are_what_their_codes_stand_for():
    given = weights()
    proto, _ = split(quantized())
    held = {value.name: numpy_helper.to_array(value) for value in proto.graph.initializer}
    assert set(held) == {"wd", "bd", "hd"}
    np.testing.assert_array_equal(held["wd"], given["w"] * given["ws"].reshape(5, 1, 1, 1))
    np.testing.assert_array_equal(held["bd"], given["b"].astype(np.float32) * given["bs"])
    codes = np.clip(np.rint(given["h"] / np.float64(given["hs"])) + 3, -128, 127)
    np.testing.assert_allclose(held["hd"], (codes - 3) * given["hs"], rtol=1e-6)
    assert all(value.dtype == np.float32 for value in held.values())


def test_the_float_graph_computes_the_same_up_to_rounding():
    images = floats(4, 3, 6, 6) / 4
    [got] = run(split(quantized())[0], {"x": images}).values()
    [wanted] = run(quantized(), {"x": images}).values()
    assert np.abs(got - wanted).max() < 0.5  # two steps of the output
    assert np.abs(wanted).max() > 1


def test_a_shared_tensor_gets_the_range_that_holds_all():
    proto = graph(
        """(float[2,2] x) => (float[2,2] y, float[2,2] z) {
            a = QuantizeLinear (x, s, u)
            y = DequantizeLinear (a, s, u)
            b = QuantizeLinear (x, t, v)
            z = DequantizeLinear (b, t, v)
        }""",
        {
            "s": np.float32(0.5).reshape(()),
            "u": np.array(0, U8),
            "t": np.float32(0.1).reshape(()),
            "v": np.array(100, I8),
        },
    )
    proto, bounds = split(proto)
    assert bounds == {"x": pytest.approx((-22.8, 127.5))}
    x = floats(2, 2)
    for value in run(proto, {"x": x}).values():
        np.testing.assert_array_equal(value, x)


def test_a_narrowed_grid_and_integer_ends():
    """Exporters write -127 … 127 as a Clip of integers; the input is given as integers."""
    proto = graph(
        """(int8[N,4] x) => (int8[N,4] y) {
            d = DequantizeLinear (x, s, z)
            r = Relu (d)
            q = QuantizeLinear (r, s, z)
            c = Clip (q, low, high)
            e = DequantizeLinear (c, s, z)
            n = Neg (e)
            y = QuantizeLinear (n, s, z)
        }""",
        {
            "s": np.float32(0.5).reshape(()),
            "z": np.array(0, I8),
            "low": np.array(-127, I8),
            "high": np.array(127, I8),
        },
    )
    proto, bounds = split(proto)
    onnx.checker.check_model(proto, full_check=True)
    assert kinds(proto) == ["Relu", "Neg"]
    assert bounds == {"x": (-64.0, 63.5), "r": (-63.5, 63.5), "y": (-64.0, 63.5)}
    [got] = run(proto, {"x": np.float32([[1, -1, 2, 0]])}).values()
    np.testing.assert_array_equal(got, np.float32([[-1, 0, -2, 0]]))


@settings(max_examples=40, deadline=None)
@given(
    codes=st.lists(st.integers(-128, 127), min_size=6, max_size=6),
    scales=st.lists(st.floats(2**-20, 1024, width=32), min_size=3, max_size=3),
    zero=st.integers(-128, 127),
    axis=st.sampled_from([0, 1]),
)
def test_any_weight_is_restored_exactly(
    codes: list[int], scales: list[float], zero: int, axis: int
):
    shape = (3, 2) if axis == 0 else (2, 3)
    given = {
        "w": np.array(codes, I8).reshape(shape),
        "s": np.float32(scales),
        "z": np.full(3, zero, I8),
    }
    text = f"""(float[{shape[0]},{shape[1]}] x) => (float[{shape[0]},{shape[1]}] y) {{
        d = DequantizeLinear <axis={axis}> (w, s, z)
        y = Add (x, d)
    }}"""
    proto = graph(text, given)
    x = np.zeros(shape, np.float32)
    [wanted] = run(proto, {"x": x}).values()
    [got] = run(split(proto)[0], {"x": x}).values()
    np.testing.assert_array_equal(got, wanted)


def test_what_cannot_be_taken_apart_is_named(tmp_path: Path):
    text = """(float[2] x, float s) => (float[2] y) {
        a = QuantizeLinear (x, s, z)
        y = DequantizeLinear (a, s, z)
    }"""
    file = saved(graph(text, {"z": np.array(0, U8)}), tmp_path / "moving.onnx")
    with pytest.raises(ExportError, match=r"not a constant.*moving\.onnx"):
        split(onnx.load(file), file)
    text = "(float[2] x) => (uint8[2] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear (x) }"
    with pytest.raises(ExportError, match="in integers"):
        split(graph(text))


def test_onnx_runtimes_own_files_split_too(tmp_path: Path):
    """A static quantization by ONNX Runtime, as a user may bring it; quantized again, the same."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"x": floats(4, 3, 6, 6, seed=seed)} for seed in range(4)]

        def get_next(self) -> Arrays | None:
            return self.left.pop() if self.left else None

    text = """(float[N,3,6,6] x) => (float[N,4] y) {
        a = Conv <pads=[1,1,1,1]> (x, w, b)
        r = Relu (a)
        d = Conv <pads=[1,1,1,1], group=5> (r, v)
        s = Add (r, d)
        g = GlobalAveragePool (s)
        f = Flatten (g)
        y = Gemm <transB=1> (f, h, k)
    }"""
    given = {
        "w": floats(5, 3, 3, 3),
        "b": floats(5),
        "v": floats(5, 1, 3, 3),
        "h": floats(4, 5),
        "k": floats(4),
    }
    source = saved(graph(text, given), tmp_path / "float.onnx")
    options = {
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
    }
    quantize_static(source, tmp_path / "q.onnx", Reader(), **options)
    proto, bounds = split(onnx.load(tmp_path / "q.onnx"))
    onnx.checker.check_model(proto, full_check=True)
    assert {"x", "r", "d", "s", "g", "y"} <= bounds.keys()
    images = floats(4, 3, 6, 6, seed=2)
    [got] = run(proto, {"x": images}).values()
    [wanted] = run(onnx.load(tmp_path / "q.onnx"), {"x": images}).values()
    assert kinds(proto) == ["Conv", "Relu", "Conv", "Add", "GlobalAveragePool", "Flatten", "Gemm"]
    noise = np.square(got - wanted).sum()
    assert 10 * np.log10(np.square(wanted).sum() / noise) > 25
    for name, value in given.items():
        if value.ndim == 4:
            kept = [numpy_helper.to_array(i) for i in proto.graph.initializer]
            same = next(k for k in kept if k.shape == value.shape)
            step = np.abs(value).max((1, 2, 3)) / 127
            assert (np.abs(same - value).max((1, 2, 3)) <= step).all(), name
