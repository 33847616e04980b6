"""Where the pairs go: as ONNX Runtime's own quantizer puts them where it is right; near floats."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from tests.hub import Made
from tests.quantize.graphs import Arrays, floats, graph, run, saved
from torchopt2edge.backends.ort.inspect import read_back
from torchopt2edge.errors import LowerError
from torchopt2edge.quantize.graph.activations import activations, with_outputs
from torchopt2edge.quantize.graph.host_session import host_session
from torchopt2edge.quantize.graph.macs import macs_of
from torchopt2edge.quantize.qdq_writer import IntegerTypes, quantize_graph
from torchopt2edge.types import Manifest, Ranges

U8, S8 = IntegerTypes(), IntegerTypes("int8")
U8S8 = IntegerTypes(exact_everywhere=False)  # what onnxruntime.quantization writes
CONV = {"w": floats(4, 3, 3, 3), "b": floats(4, seed=1)}
IMAGE = {"x": floats(4, 3, 8, 8, seed=2)}
NO_DATA = Manifest("calibration", ())


def ranges_of(file: Path, inputs: Arrays, *excluded: str) -> Ranges:
    """Return the exact extremes of every float activation."""
    proto = onnx.load(file)
    names = activations(proto)
    found = {**inputs, **run(with_outputs(proto, names), inputs)}
    bounds = {name: (float(found[name].min()), float(found[name].max())) for name in names}
    return Ranges(bounds, "calibrated:minmax", NO_DATA, excluded)


def shared(proto: onnx.ModelProto, folder: Path) -> Path:
    """Write a graph as the hub does: named nodes, inferred shapes."""
    for at, node in enumerate(proto.graph.node):
        node.name = node.name or f"n{at}"
    return saved(onnx.shape_inference.infer_shapes(proto), folder / "model.onnx")


def quantized(
    text: str, weights: Arrays, inputs: Arrays, folder: Path, *excluded: str, how: IntegerTypes = U8
) -> tuple[onnx.ModelProto, float]:
    """Quantize with exact ranges; return the graph and its dB against floats."""
    file = shared(graph(text, weights), folder)
    made = quantize_graph(onnx.load(file), ranges_of(file, inputs, *excluded), how)
    onnx.checker.check_model(made, full_check=True)
    return made, worst_db(run(onnx.load(file), inputs), run(made, inputs))


def worst_db(want: Arrays, got: Arrays) -> float:
    """Return the SQNR of the worst output."""
    noise = {name: np.square(want[name] - got[name]).sum() for name in want}
    return min(
        float(10 * np.log10(np.square(want[name]).sum() / max(noise[name], 1e-20))) for name in want
    )


def grids(proto: onnx.ModelProto) -> dict[str, tuple[float, int]]:
    """Return scale and zero point by the tensor that a QuantizeLinear reads."""
    held = {w.name: numpy_helper.to_array(w) for w in proto.graph.initializer}
    return {
        node.input[0].removesuffix("@float").removesuffix("_QuantizeLinear_Input"): (
            float(held[node.input[1]]),
            int(held[node.input[2]]),
        )
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear"
    }


def ops(proto: onnx.ModelProto) -> list[str]:
    """Name the operators but for the weights' DequantizeLinear, in order."""
    held = {weight.name for weight in proto.graph.initializer}
    short = {"QuantizeLinear": "Q", "DequantizeLinear": "DQ"}
    return [short.get(n.op_type, n.op_type) for n in proto.graph.node if n.input[0] not in held]


def reference(file: Path, ranges: Ranges) -> onnx.ModelProto:
    """Quantize with onnxruntime.quantization, the operators that we quantize."""
    bounds = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.bounds.items()
    }
    kinds = "Conv Gemm Add Concat MaxPool Clip Relu GlobalAveragePool Reshape Flatten".split()
    quantizer = QDQQuantizer(
        onnx.load(file),
        True,
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, bounds),
        [],
        [],
        kinds,
        {"WeightSymmetric": True, "ActivationSymmetric": False},
    )
    quantizer.quantize_model()
    return quantizer.model.model


def test_a_plain_net_is_quantized_as_onnx_runtime_does(tiny: Made) -> None:
    file = tiny.graph.path / "model.onnx"
    ours, theirs = quantize_graph(onnx.load(file), tiny.ranges, U8S8), reference(file, tiny.ranges)
    assert grids(ours) == grids(theirs)
    assert sorted(node.op_type for node in ours.graph.node) == sorted(
        node.op_type for node in theirs.graph.node
    )
    for dtype in (TensorProto.INT8, TensorProto.INT32):  # weights and biases
        codes = [
            [
                numpy_helper.to_array(w)
                for w in proto.graph.initializer
                if w.data_type == dtype and numpy_helper.to_array(w).any()
            ]
            for proto in (ours, theirs)
        ]
        for one, two in zip(*(sorted(c, key=lambda a: a.tobytes()) for c in codes), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("how", [U8, S8])
def test_ranges_come_back_as_scales(tiny: Made, how: IntegerTypes) -> None:
    made = quantize_graph(onnx.load(tiny.graph.path / "model.onnx"), tiny.ranges, how)
    found = grids(made)
    assert set(found) <= set(tiny.ranges.bounds)
    limits = np.iinfo(how.activation)
    own = [name for name in found if "max_pool" not in name and "view" not in name]
    assert len(own) >= 8
    for name in own:
        low, high = tiny.ranges.bounds[name]
        scale, zero = found[name]
        width = max(high, 0.0) - min(low, 0.0)
        assert scale * 255 == pytest.approx(width, rel=1e-6)
        assert (limits.min - zero) * scale == pytest.approx(min(low, 0.0), abs=0.51 * scale)


BODY = "h = Conv<pads=[1,1,1,1]>(x, w, b)"


def test_a_relu_goes_and_its_range_stays(tmp_path: Path) -> None:
    text = f"(float[n,3,8,8] x) => (float[n,4,8,8] y) {{ {BODY} y = Relu(h) }}"
    made, db = quantized(text, CONV, IMAGE, tmp_path)
    assert ops(made) == ["Q", "DQ", "Conv", "Q", "DQ"]
    assert set(grids(made)) == {"x", "y"}
    assert db > 30


def test_a_clip_narrower_than_its_range_stays(tmp_path: Path) -> None:
    """A learned range may be wider than the Clip; taken out, the Clip would cut nothing."""
    weights = {**CONV, "low": np.float32(-0.5), "high": np.float32(0.5)}
    text = f"(float[n,3,8,8] x) => (float[n,4,8,8] y) {{ {BODY} y = Clip(h, low, high) }}"
    file = shared(graph(text, weights), tmp_path)
    ranges = ranges_of(file, IMAGE)
    assert "Clip" not in ops(quantize_graph(onnx.load(file), ranges, U8))
    wide = dataclasses.replace(ranges, bounds={**ranges.bounds, "y": (-2.0, 2.0)})
    made = quantize_graph(onnx.load(file), wide, U8)
    assert ops(made) == ["Q", "DQ", "Conv", "Q", "DQ", "Clip"]
    found = run(made, IMAGE)["y"]
    assert np.abs(found).max() <= 0.5
    assert worst_db(run(onnx.load(file), IMAGE), {"y": found}) > 20


def test_a_relu_that_two_read_through_stays(tmp_path: Path) -> None:
    text = (
        "(float[n,3,8,8] x) => (float[n,4,8,8] y) "
        f"{{ {BODY} r = Relu(h) g = Conv<kernel_shape=[1,1]>(r, v) y = Add(h, g) }}"
    )
    weights = {**CONV, "v": floats(4, 4, 1, 1, seed=5)}
    made, db = quantized(text, weights, IMAGE, tmp_path)
    assert "Relu" in ops(made)
    assert db > 30


def test_nothing_is_rounded_between_excluded_nodes(tmp_path: Path) -> None:
    text = (
        "(float[n,3,8,8] x) => (float[n,4,8,8] y) "
        f"{{ {BODY} r = Relu(h) g = Conv<kernel_shape=[1,1]>(r, v) y = Sigmoid(g) }}"
    )
    weights = {**CONV, "v": floats(4, 4, 1, 1, seed=5)}
    made, _ = quantized(text, weights, IMAGE, tmp_path, "n0", "n2")
    assert ops(made) == ["Conv", "Relu", "Conv", "Q", "DQ", "Sigmoid", "Q", "DQ"]
    made, db = quantized(text, weights, IMAGE, tmp_path, "n0", "n2", "n3")
    assert ops(made) == ["Conv", "Relu", "Conv", "Sigmoid"]
    assert db > 150, "and the weights are floats"


def test_a_float_reader_of_a_float_tensor_reads_it_unrounded(tmp_path: Path) -> None:
    text = (
        "(float[n,3,8,8] x) => (float[n,3,8,8] y, float[n,4,8,8] z) "
        "{ y = HardSwish(x) z = Conv<pads=[1,1,1,1]>(x, w, b) }"
    )
    file = shared(graph(text, CONV), tmp_path)
    made = quantize_graph(onnx.load(file), ranges_of(file, IMAGE), U8)
    np.testing.assert_array_equal(run(made, IMAGE)["y"], run(onnx.load(file), IMAGE)["y"])


def test_shared_weights_are_held_once(tmp_path: Path) -> None:
    weights = {"w": floats(4, 4, 3, 3), "b": floats(4, seed=1)}
    text = (
        "(float[n,4,8,8] x) => (float[n,4,8,8] y) { "
        "h = Conv<pads=[1,1,1,1]>(x, w, b) y = Conv<pads=[1,1,1,1]>(h, w, b) }"
    )
    inputs = {"x": floats(4, 4, 8, 8, seed=2)}
    made, db = quantized(text, weights, inputs, tmp_path)
    held = [w for w in made.graph.initializer if w.data_type == TensorProto.UINT8]
    assert sum(len(w.dims) == 4 for w in held) == 1
    biases = [w for w in made.graph.initializer if w.data_type == TensorProto.INT32]
    assert sum(numpy_helper.to_array(w).any() for w in biases) == 2, "their inputs' scales differ"
    assert db > 25
    made, _ = quantized(text, weights, inputs, tmp_path, "n1")
    last = next(node for node in made.graph.node if node.name == "n1")
    assert list(last.input[1:]) == ["w", "b"], "a float node keeps the floats"


@pytest.mark.parametrize("how", [U8, S8])
def test_a_tensor_that_was_never_activated(tmp_path: Path, how: IntegerTypes) -> None:
    weights = {**CONV, "v": floats(4, 4, 1, 1, seed=5), "deep": np.float32(-1e4)}
    text = (
        "(float[n,3,8,8] x) => (float[n,4,8,8] y) "
        f"{{ {BODY} d = Add(h, deep) r = Relu(d) g = Conv<kernel_shape=[1,1]>(r, v, b) "
        "s = HardSwish(h) y = Add(g, s) }"
    )
    made, db = quantized(text, weights, IMAGE, tmp_path, how=how)
    assert grids(made)["r"] == (1.0, 0)
    assert np.isfinite(run(made, IMAGE)["y"]).all()
    assert db > 20


def test_ranges_without_zero_are_widened(tmp_path: Path) -> None:
    text = f"(float[n,3,8,8] x) => (float[n,4,8,8] y) {{ {BODY} y = Add(h, far) }}"
    inputs = {"x": IMAGE["x"] + 40}
    made, db = quantized(text, {**CONV, "far": np.float32(1e3)}, inputs, tmp_path)
    scale, zero = grids(made)["x"]
    assert (zero, scale * 255) == (0, pytest.approx(inputs["x"].max(), rel=1e-6))
    assert db > 20


NORM = {"s": floats(1, 4, 1, 1, seed=7), "t": floats(1, 4, 1, 1, seed=8)}


@pytest.mark.parametrize("how", [U8, S8])
def test_a_norm_written_as_mul_and_add_is_integer(tmp_path: Path, how: IntegerTypes) -> None:
    text = (
        "(float[n,3,8,8] x) => (float[n,4,8,8] y) "
        f"{{ {BODY} r = Relu(h) m = Mul(r, s) y = Add(m, t) }}"
    )
    made, db = quantized(text, {**CONV, **NORM}, IMAGE, tmp_path, how=how)
    file = saved(made, tmp_path / "int8.onnx")
    facts = read_back(onnx.load(file), macs_of(onnx.load(tmp_path / "model.onnx")))
    assert facts["integer_ops"] == {"QLinearConv": 1, "QLinearMul": 1, "QLinearAdd": 1}
    assert (facts["float_ops"], facts["unfused_qdq"]) == ({}, 0)
    kind = TensorProto.UINT8 if how is U8 else TensorProto.INT8
    held = [w.data_type for w in made.graph.initializer if list(w.dims) == [1, 4, 1, 1]]
    assert held == [kind, kind], "constants, in the activations' type"
    assert db > 30


MOVES = {
    "MaxPool<kernel_shape=[2,2], strides=[2,2]>(h)": "float[n,4,4,4] y",
    "Transpose<perm=[0,2,3,1]>(h)": "float[n,8,8,4] y",
    "Flatten<axis=1>(h)": "float[n,256] y",
    "Pad(h, pads)": "float[n,4,10,10] y",
    "Pad(h, pads, nothing)": "float[n,4,10,10] y",
    'Pad<mode="reflect">(h, pads)': "float[n,4,10,10] y",
    "DepthToSpace<blocksize=2>(h)": "float[n,1,16,16] y",
    "Slice(h, at, to, at)": "float[n,3,8,8] y",
}


@pytest.mark.parametrize("move", MOVES)
def test_what_moves_values_passes_the_grid_on(move: str, tmp_path: Path) -> None:
    weights = {
        **CONV,
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "nothing": np.float32(0),
        "at": np.array([1]),
        "to": np.array([4]),
    }
    text = f"(float[n,3,8,8] x) => ({MOVES[move]}) {{ {BODY} y = {move} }}"
    made, db = quantized(text, weights, IMAGE, tmp_path)
    facts = read_back(made, {"n0": 1})
    assert facts["unfused_qdq"] == 0
    if "Pad" not in move:  # it has no QuantizeLinear of its own
        assert grids(made)["y"] == grids(made)["h"]
    assert db > 30


def test_padding_with_another_number_has_a_range_of_its_own(tmp_path: Path) -> None:
    weights = {**CONV, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "far": np.float32(-9)}
    text = (
        "(float[n,3,8,8] x) => (float[n,4,5,5] y) "
        f"{{ {BODY} p = Pad(h, pads, far) m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(p) "
        "y = Sigmoid(m) }"
    )
    made, db = quantized(text, weights, IMAGE, tmp_path)
    assert {"h", "m", "y"} <= set(grids(made))
    assert db > 30


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,), ()])
def test_gemm_takes_any_bias_that_spreads_over_the_outputs(
    bias: tuple[int, ...], turned: int, tmp_path: Path
) -> None:
    weights = {"w": floats(*((5, 7) if turned else (7, 5))), "b": floats(*bias, seed=1)}
    text = f"(float[n,7] x) => (float[n,5] y) {{ y = Gemm<transB={turned}, beta=0.5>(x, w, b) }}"
    made, db = quantized(text, weights, {"x": floats(9, 7, seed=3)}, tmp_path)
    facts = read_back(made, {"n0": 35})
    assert facts["integer_ops"] == {"QGemm": 1}
    assert db > 30


def test_matmul_of_two_activations_and_of_weights(tmp_path: Path) -> None:
    text = (
        "(float[n,6,7] x) => (float[n,6,6] y) "
        "{ q = MatMul(x, w) k = Transpose<perm=[0,2,1]>(x) y = MatMul(q, k) }"
    )
    made, db = quantized(text, {"w": floats(7, 7)}, {"x": floats(3, 6, 7, seed=3)}, tmp_path)
    facts = read_back(made, {"n0": 1, "n2": 1})
    assert facts["integer_ops"] == {"QLinearMatMul": 1, "MatMulIntegerToFloat": 1}
    assert facts["int8_macs"] == 100.0
    assert db > 28, "the product of two activations is not rounded"


def test_integers_stay_what_they_are(tmp_path: Path) -> None:
    """An input of indices, and a shape that is computed."""
    text = (
        "(float[n,3,8,8] x, int64[n] i) => (float[n,4] y, int64[n] j) "
        f"{{ {BODY} p = GlobalAveragePool(h) s = Shape(i) t = Concat<axis=0>(s, four) "
        "y = Reshape(p, t) j = Add(i, i) }"
    )
    file = shared(graph(text, {**CONV, "four": np.array([4])}), tmp_path)
    inputs = {**IMAGE, "i": np.arange(4)}
    ranges = ranges_of(file, inputs)
    made = quantize_graph(onnx.load(file), ranges, U8)
    onnx.checker.check_model(made, full_check=True)
    found = run(made, inputs)
    np.testing.assert_array_equal(found["j"], 2 * inputs["i"])
    assert worst_db({"y": run(onnx.load(file), inputs)["y"]}, {"y": found["y"]}) > 25


@pytest.mark.parametrize("opset", [11, 13, 17, 21, 23])
def test_opsets(opset: int, tmp_path: Path) -> None:
    text = f"(float[n,3,8,8] x) => (float[n,4,8,8] y) {{ {BODY} y = Relu(h) }}"
    file = shared(graph(text, CONV, opset), tmp_path)
    made = quantize_graph(onnx.load(file), ranges_of(file, IMAGE), U8)
    onnx.checker.check_model(made, full_check=True)
    assert worst_db(run(onnx.load(file), IMAGE), run(made, IMAGE)) > 30


@pytest.mark.parametrize("bounds", [None, (float("nan"), 1.0), (0.0, float("inf"))])
def test_a_tensor_without_a_range(bounds: tuple[float, float] | None, tmp_path: Path) -> None:
    text = f"(float[n,3,8,8] x) => (float[n,4,8,8] y) {{ {BODY} y = Relu(h) }}"
    file = shared(graph(text, CONV), tmp_path)
    held = dict(ranges_of(file, IMAGE).bounds)
    held.pop("x")
    ranges = Ranges(held if bounds is None else {**held, "x": bounds}, "learned:qat", NO_DATA)
    with pytest.raises(LowerError, match="'x' has no finite range"):
        quantize_graph(onnx.load(file), ranges, U8)


def test_what_a_branch_reads_is_not_taken_away(tmp_path: Path) -> None:
    text = f"(float[n,3,8,8] x, bool c) => (float[n,4,8,8] y) {{ {BODY} r = Relu(h) y = Neg(r) }}"
    proto = graph(text, CONV)
    out = onnx.helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    body = [onnx.helper.make_node("Identity", ["h"], ["o"])], "b", [], [out]
    branch = onnx.helper.make_graph(*body)
    proto.graph.node.pop()
    proto.graph.node.append(
        onnx.helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    )
    proto.graph.node.append(onnx.helper.make_node("Add", ["r", "z"], ["y"]))
    file = shared(proto, tmp_path)
    inputs = {**IMAGE, "c": np.array(True)}
    made = quantize_graph(onnx.load(file), ranges_of(file, inputs), U8)
    assert worst_db(run(onnx.load(file), inputs), run(made, inputs)) > 30


STEPS = {
    "conv": "{o} = Conv<pads=[1,1,1,1]>({i}, w, b)",
    "point": "{o} = Conv({i}, v)",
    "relu": "{o} = Relu({i})",
    "relu6": "{o} = Clip({i}, zero, six)",
    "swish": "{o} = HardSwish({i})",
    "sigmoid": "{o} = Sigmoid({i})",
    "pool": "{o} = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>({i})",
    "mean": "{o} = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>({i})",
    "add": "{o} = Add({i}, {j})",
    "mul": "{o} = Mul({i}, s)",
}
HELD = {
    "w": floats(4, 4, 3, 3) / 6,
    "b": floats(4, seed=1),
    "v": floats(4, 4, 1, 1) / 2,
    "s": np.abs(floats(1, 4, 1, 1)) + np.float32(0.5),
    "zero": np.float32(0),
    "six": np.float32(6),
}


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from([*STEPS, "conv", "point"]), st.integers(0, 9)),
        min_size=2,
        max_size=7,
    ),
    excluded=st.sets(st.integers(0, 6)),
    how=st.sampled_from([U8, S8]),
)
def test_any_net_of_these_is_sound(
    steps: list[tuple[str, int]],
    excluded: set[int],
    how: IntegerTypes,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Valid, near the floats, and what is excluded computes in float."""
    names, body = ["x"], []
    for at, (step, other) in enumerate(steps):
        body.append(STEPS[step].format(o=f"t{at}", i=names[-1], j=names[other % len(names)]))
        names.append(f"t{at}")
    ends = ", ".join(f"float[n,4,6,6] {name}" for name in names[-2:])
    text = f"(float[n,4,6,6] x) => ({ends}) {{ {' '.join(body)} }}"
    folder = tmp_path_factory.mktemp("net")
    file = shared(graph(text, HELD), folder)
    inputs = {"x": floats(2, 4, 6, 6, seed=9)}
    left = [f"n{at}" for at in excluded]
    made = quantize_graph(onnx.load(file), ranges_of(file, inputs, *left), how)
    onnx.checker.check_model(made, full_check=True)
    assert worst_db(run(onnx.load(file), inputs), run(made, inputs)) > 15
    facts = read_back(made, macs_of(onnx.load(file)), left)
    there = {node.name: node.op_type for node in onnx.load(file).graph.node}
    assert set(facts["excluded"]) <= set(left) & set(there)
    convs = {name for name in there if there[name] == "Conv"}
    assert convs & set(left) <= set(facts["excluded"])
    wanted = share(file, convs - set(left)) if convs else 0.0
    assert facts["int8_macs"] == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("behind", ["y = Sigmoid(g)", "k = Relu(g) y = Sigmoid(k)"])
@pytest.mark.parametrize("layer", ["Conv<kernel_shape=[1,1]>", "ConvTranspose<kernel_shape=[1,1]>"])
def test_a_float_layer_between_integers_keeps_its_weights(
    layer: str, behind: str, tmp_path: Path
) -> None:
    """ONNX Runtime rounds them to one scale for the whole tensor when it opens the file."""
    wide = floats(4, 4, 1, 1, seed=5) * np.logspace(-4, 0, 4, dtype=np.float32)[:, None, None, None]
    text = f"(float[n,3,8,8] x) => (float[n,4,8,8] y) {{ {BODY} g = {layer}(h, v) {behind} }}"
    file = shared(graph(text, {**CONV, "v": wide}), tmp_path)
    made = quantize_graph(onnx.load(file), ranges_of(file, IMAGE, "n1"), U8)
    session = host_session(made)
    plain = run(made, IMAGE)["y"]
    assert worst_db({"y": plain}, {"y": session.run(["y"], IMAGE)[0]}) > 45, "as it is written"
    facts = read_back(made, macs_of(onnx.load(file)), ["n1"])
    assert facts["excluded"] == ["n1"]
    assert facts["int8_macs"] == pytest.approx(share(file, {"n0"}), abs=0.01)
    assert "FusedConv" in ran_as(made, tmp_path) or "Transpose" in layer, "and costs nothing"


def ran_as(proto: onnx.ModelProto, folder: Path) -> list[str]:
    """Name the operators of the graph as ONNX Runtime rewrites it for any processor."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "ran.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "ran.onnx").graph.node]


def share(file: Path, names: set[str]) -> float:
    """Return what those nodes compute, in per cent."""
    macs = macs_of(onnx.load(file))
    return 100 * sum(macs[name] for name in names) / sum(macs.values())
