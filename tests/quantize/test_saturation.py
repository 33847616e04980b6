"""Which layers saturate without VNNI: by numpy's emulation of the kernel, and by the real one.

The emulation is that of ``vpmaddubsw``: neighbouring products of an unsigned and a signed byte are
added in 16 bits with saturation. On x86 with VNNI the real kernels of a processor without it run in
a child (`benchmarks.without_vnni`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from benchmarks import without_vnni
from tests.quantize.graphs import Arrays, graph, saved
from torchopt2edge.backends.ort.dynamic_int8 import to_dynamic_int8
from torchopt2edge.backends.ort.inspect import read_back
from torchopt2edge.quantize import isa
from torchopt2edge.quantize.graph.macs import macs_of
from torchopt2edge.quantize.qdq_writer import IntegerTypes, quantize_graph
from torchopt2edge.quantize.saturation import can_saturate, kernel_rows
from torchopt2edge.runner import system_info
from torchopt2edge.types import Manifest, Ranges

SIGNED, EXACT = IntegerTypes(exact_everywhere=False), IntegerTypes()
CHILD = """
import json, sys
import numpy as np, onnxruntime as ort
for file in sys.argv[1:]:
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    given = {v.name: np.full(v.shape, 255, np.float32) for v in session.get_inputs()}
    print(json.dumps(session.run(None, given)[0].ravel().tolist()))
"""


def pair_sums(rows: np.ndarray, activations: np.ndarray) -> np.ndarray:
    """Return each output channel's sum as the kernel without VNNI computes it."""
    products = rows.astype(np.int64) * activations.astype(np.int64)
    if products.shape[1] % 2:
        products = np.pad(products, ((0, 0), (0, 1)))
    pairs = products[:, 0::2] + products[:, 1::2]
    return np.asarray(np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 127))
def test_rows_that_cannot_saturate_are_exact(seed: int, length: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-most, most + 1, (3, length))
    activations = rng.choice([0, 1, 254, 255], length)
    exact = (rows * activations).sum(axis=1)
    if not can_saturate(rows):
        assert (pair_sums(rows, activations) == exact).all()
        return
    worst = [np.where(np.sign(row) == sign, 255, 0) for row in rows for sign in (1, -1)]
    assert any((pair_sums(rows, a) != (rows * a).sum(axis=1)).any() for a in worst)


@pytest.mark.parametrize(
    ("row", "saturates"),
    [
        ([64, 64], False),
        ([65, 64], True),
        ([-64, -64], False),
        ([-65, -64], True),
        ([127, -127], False),
        ([127, 0, 127], False),
        ([0, 127, 127, 0], False),
        ([0, 0, 127, 2], True),
        ([], False),
    ],
)
def test_the_bound_is_exact(row: list[int], saturates: bool) -> None:
    assert can_saturate(np.array([row], np.int32).reshape(1, -1)) is saturates


def test_a_convolutions_row_is_height_width_channel() -> None:
    weight = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    rows = kernel_rows(weight, 0, convolution=True)
    assert rows[1].tolist() == [
        weight[1, c, h, w] for h in (0, 1) for w in (0, 1) for c in range(3)
    ]


def planted(shape: tuple[int, ...], *places: tuple[int, ...]) -> np.ndarray:
    """Return float weights of zeros, with codes 127 and 126 at two places of every output."""
    weight = np.zeros(shape, np.float32)
    for place, code in zip(places, (127, 126), strict=True):
        weight[(slice(None), *place)] = code / 127
    return weight


def conv(attributes: str = "", channels: int = 4, size: int = 6) -> str:
    shape = f"1,{channels},{size},{size}"
    return f"(float[{shape}] x) => (float[1,n,h,k] y) {{ y = Conv{attributes}(x, w) }}"


FLAT = "(float[1,6] x) => (float[1,n] y) { y = %s(x, w) }"
LAYERS = {
    # name: graph, weights, whether a pair can saturate
    "pointwise, one pair": (conv(), planted((8, 4, 1, 1), (0, 0, 0), (1, 0, 0)), True),
    "pointwise, two pairs": (conv(), planted((8, 4, 1, 1), (1, 0, 0), (2, 0, 0)), False),
    "3x3, neighbouring channels": (conv(), planted((8, 4, 3, 3), (2, 1, 1), (3, 1, 1)), True),
    "3x3, neighbouring columns": (conv(), planted((8, 4, 3, 3), (0, 1, 1), (0, 1, 2)), False),
    "3x3, odd channels wrap": (
        conv(channels=3),
        planted((8, 3, 3, 3), (2, 0, 0), (0, 0, 1)),
        True,
    ),
    "two groups": (conv("<group=2>"), planted((8, 2, 3, 3), (0, 0, 0), (1, 0, 0)), True),
    "depthwise": (conv("<group=4>"), planted((4, 1, 3, 3), (0, 0, 0), (0, 0, 1)), False),
    "depthwise, two per channel": (
        conv("<group=4>"),
        planted((8, 1, 3, 3), (0, 0, 0), (0, 0, 1)),
        True,
    ),
    "Gemm": (FLAT % "Gemm", planted((6, 8)[::-1], (2,), (3,)).T, True),
    "Gemm transB": (FLAT % "Gemm<transB=1>", planted((8, 6), (2,), (3,)), True),
    "MatMul": (FLAT % "MatMul", planted((8, 6), (2,), (3,)).T, True),
    "MatMul, two pairs": (FLAT % "MatMul", planted((8, 6), (1,), (2,)).T, False),
}
EVERY = pytest.mark.parametrize("layer", LAYERS)


def written(layer: str, how: IntegerTypes, folder: Path) -> Path:
    """Write an int8 file of the layer: input codes are 0 to 255 of scale 1, output scale 2."""
    text, weight, _ = LAYERS[layer]
    proto = graph(text, {"w": np.ascontiguousarray(weight)})
    proto.graph.node[0].name = "layer"
    folder.mkdir(exist_ok=True)
    file = saved(onnx.shape_inference.infer_shapes(proto), folder / "float.onnx")
    bounds = {"x": (0.0, 255.0), "y": (0.0, 510.0)}
    ranges = Ranges(bounds, "calibrated:minmax", Manifest("calibration", ()))
    return saved(quantize_graph(onnx.load(file), ranges, how), folder / "model.onnx")


def weight_types(file: Path) -> set[int]:
    """Return the integer types of a file's weights."""
    return {w.data_type for w in onnx.load(file).graph.initializer if len(w.dims) > 1}


@EVERY
def test_a_layer_that_can_saturate_gets_unsigned_weights(layer: str, tmp_path: Path) -> None:
    signed = written(layer, SIGNED, tmp_path / "signed")
    assert weight_types(signed) == {TensorProto.INT8}
    exact = written(layer, EXACT, tmp_path / "exact")
    wanted = TensorProto.UINT8 if LAYERS[layer][2] else TensorProto.INT8
    assert weight_types(exact) == {wanted}


@EVERY
def test_a_file_says_where_it_is_exact(layer: str, tmp_path: Path) -> None:
    for how, saturating in ((SIGNED, LAYERS[layer][2]), (EXACT, False)):
        file = written(layer, how, tmp_path / str(saturating))
        facts = read_back(onnx.load(file), macs_of(onnx.load(file.with_name("float.onnx"))))
        assert facts["int8_macs"] == 100.0, "the layer is integer with either type of weights"
        assert facts["saturating_layers"] == int(saturating)
        assert (isa.X86 in facts["exact_on"]) is not saturating
        assert set(isa.KINDS) - {isa.X86} <= set(facts["exact_on"])


def test_weights_of_few_bits_stay_signed(tmp_path: Path) -> None:
    """On their coarsest grid the codes are at most 7, so no pair of them can saturate."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-7, 8, (8, 4, 3, 3))
    codes[:, 0, 0, :2] = 7, 1
    proto = graph(conv(), {"w": (codes * 0.125).astype(np.float32)})
    file = saved(onnx.shape_inference.infer_shapes(proto), tmp_path / "float.onnx")
    bounds = {"x": (0.0, 255.0), "y": (-510.0, 510.0)}
    ranges = Ranges(bounds, "learned:qat", Manifest("train", ()))
    made = saved(quantize_graph(onnx.load(file), ranges, EXACT), tmp_path / "model.onnx")
    assert weight_types(made) == {TensorProto.INT8}
    held = {w.name: numpy_helper.to_array(w) for w in onnx.load(made).graph.initializer}
    node = next(n for n in onnx.load(made).graph.node if held.get(n.input[0], codes[0]).ndim == 4)
    values = held[node.input[0]] * held[node.input[1]][:, None, None, None]
    assert np.abs(held[node.input[0]]).max() == 7
    np.testing.assert_allclose(values, codes * 0.125, rtol=1e-6)


@pytest.fixture(scope="module")
def without_vnni_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[float]]]:
    """Run the files of every layer with the kernels of a processor without VNNI."""
    kind = isa.kind_of(system_info.machine())
    if kind not in (isa.X86, isa.X86_VNNI):
        pytest.skip("the kernels in question are those of x86 processors")
    if kind == isa.X86_VNNI and (lacking := without_vnni.missing()):
        pytest.skip(f"{', '.join(lacking)} missing: apt-get install gcc binutils")
    folder = tmp_path_factory.mktemp("saturation")
    files = [
        written(layer, how, folder / f"{number}{name}")
        for number, layer in enumerate(LAYERS)
        for name, how in (("signed", SIGNED), ("exact", EXACT))
    ]
    child = [sys.executable, "-c", CHILD, *map(str, files)]
    hidden = without_vnni.overlay(without_vnni.cached()) if kind == isa.X86_VNNI else None
    ran = subprocess.run(
        child,
        env=hidden.environment() if hidden else None,
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    return {layer: answers[at * 2 : at * 2 + 2] for at, layer in enumerate(LAYERS)}


@EVERY
def test_the_kernel_without_vnni_does_what_the_emulation_says(
    layer: str, without_vnni_run: dict[str, list[list[float]]]
) -> None:
    signed, exact = (np.array(answer) for answer in without_vnni_run[layer])
    assert exact.max() == 508.0, "255 · (127 + 126) ÷ 127, in steps of 2"
    saturates = LAYERS[layer][2]
    assert bool(signed.max() < 300.0) is saturates
    if not saturates:
        assert (signed == exact).all()


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_ranges_found_in_every_run_obey_the_same_rule(op: str) -> None:
    for exact, wanted in ((False, TensorProto.INT8), (True, TensorProto.UINT8)):
        text, weight, _ = LAYERS[op]
        proto = graph(text, {"w": np.ascontiguousarray(weight)})
        to_dynamic_int8(proto, exact_everywhere=exact)
        held = {w.data_type for w in proto.graph.initializer if len(w.dims) > 1}
        assert held == {wanted}
        assert _run(proto, {"x": np.full((1, 6), 255, np.float32)}) is not None


def _run(proto: onnx.ModelProto, inputs: Arrays) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def test_the_codes_of_both_types_are_the_same_integers(tmp_path: Path) -> None:
    """On a processor that adds exactly, both files give the same outputs."""
    texts = {"signed": SIGNED, "exact": EXACT}
    held = {}
    for name, how in texts.items():
        proto = onnx.load(written("3x3, neighbouring channels", how, tmp_path / name))
        arrays = [numpy_helper.to_array(w) for w in proto.graph.initializer if len(w.dims) > 1]
        held[name] = [a.astype(int) - (128 if a.dtype == np.uint8 else 0) for a in arrays]
    assert (held["signed"][0] == held["exact"][0]).all()
