"""Ranges to the bit: against numpy over every activation, in any order and any batches."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.hub import Made
from tests.quantize.graphs import Arrays, floats, graph, kept, saved
from torchopt2edge.errors import DataError
from torchopt2edge.quantize.calibrate import BATCH, activations, batch_of, calibrate, with_outputs
from torchopt2edge.quantize.runtime import host_session

X = floats(11, 3, 8, 8)
# A convolution, a branch, a pool and a head; and what must not be among the ranges.
NET = """(float[n,3,8,8] x) => (float[n,2] y, int64[4] size) {
    size = Shape(x)
    h = Conv<pads=[1,1,1,1]>(x, w)
    r = Relu(h)
    s = Sigmoid(h)
    m = Mul(r, s)
    p = GlobalAveragePool(m)
    f = Flatten(p)
    y = Gemm(f, v)
}"""
WEIGHTS = {"w": floats(4, 3, 3, 3, seed=1), "v": floats(4, 2, seed=2)}


def net(tmp_path: Path, batch: str = "n") -> Path:
    """Write the network with inferred shapes."""
    proto = graph(NET.replace("float[n", f"float[{batch}"), WEIGHTS)
    return saved(onnx.shape_inference.infer_shapes(proto), tmp_path / "net.onnx")


def exhaustive(file: Path, inputs: Arrays) -> dict[str, tuple[float, float]]:
    """Return the extremes of every activation, all of them held in memory at once."""
    proto = onnx.load(file)
    names = activations(proto)
    session = host_session(with_outputs(proto, names))
    values = {**inputs}
    computed = [name for name in names if name not in inputs]
    count = len(next(iter(inputs.values())))
    pieces = [
        session.run(computed, {k: v[at : at + BATCH] for k, v in inputs.items()})
        for at in range(0, count, BATCH)
    ]
    for name, parts in zip(computed, zip(*pieces, strict=True), strict=True):
        values[name] = np.concatenate(parts)
    return {name: (float(values[name].min()), float(values[name].max())) for name in names}


def test_the_activations_are_the_float_tensors(tmp_path: Path) -> None:
    assert activations(onnx.load(net(tmp_path))) == ["x", "h", "r", "s", "m", "p", "f", "y"]


def test_ranges_are_those_of_numpy_to_the_bit(tmp_path: Path) -> None:
    found = calibrate(net(tmp_path), kept({"x": X}, tmp_path / "s"))
    assert found.bounds == exhaustive(net(tmp_path), {"x": X})
    assert found.bounds["x"] == (float(X.min()), float(X.max()))
    assert found.bounds["r"][0] == 0.0
    assert all(low < high for low, high in found.bounds.values())


def test_ranges_of_a_real_network_are_those_of_numpy_to_the_bit(tiny: Made) -> None:
    assert tiny.ranges.bounds == exhaustive(tiny.graph.path / "model.onnx", tiny.inputs)
    assert len(tiny.ranges.bounds) == 14


def test_the_order_and_the_batches_do_not_matter(tmp_path: Path) -> None:
    file = net(tmp_path)
    first = calibrate(file, kept({"x": X}, tmp_path / "a")).bounds
    shuffled = X[np.random.default_rng(3).permutation(len(X))]
    for name, arrays in {"b": shuffled, "c": X[::-1]}.items():
        assert calibrate(file, kept({"x": arrays}, tmp_path / name, batch=3)).bounds == first


def test_a_batch_of_one_and_a_free_batch_agree(tmp_path: Path) -> None:
    samples = kept({"x": X}, tmp_path / "s")
    free = calibrate(net(tmp_path), samples).bounds
    single = calibrate(net(tmp_path, "1"), samples).bounds
    assert batch_of(onnx.load(net(tmp_path, "1"))) == 1
    assert single.keys() == free.keys()
    for name, bounds in free.items():  # a product of one row is summed in another order
        assert single[name] == pytest.approx(bounds, rel=1e-5)


def test_one_outlier_counts_wherever_it_is(tmp_path: Path) -> None:
    for place in (0, 7, 10):
        arrays = X.copy()
        arrays[place, 1, 2, 3] = 99.0
        found = calibrate(net(tmp_path), kept({"x": arrays}, tmp_path / str(place)))
        assert found.bounds["x"][1] == 99.0


def test_two_inputs(tmp_path: Path) -> None:
    proto = graph("(float[n,3] a, float[n,3] b) => (float[n,3] y) { h = Sub(a, b) y = Relu(h) }")
    file = saved(onnx.shape_inference.infer_shapes(proto), tmp_path / "two.onnx")
    arrays = {"a": floats(9, 3), "b": floats(9, 3, seed=1)}
    found = calibrate(file, kept(arrays, tmp_path / "s", batch=2))
    assert found.bounds == exhaustive(file, arrays)


def test_weights_listed_as_inputs_are_not_fed(tmp_path: Path) -> None:
    proto = onnx.load(net(tmp_path, "1"))
    proto.graph.input.insert(0, onnx.helper.make_tensor_value_info("w", 1, [4, 3, 3, 3]))
    file = saved(proto, tmp_path / "listed.onnx")
    assert batch_of(proto) == 1
    assert "w" not in calibrate(file, kept({"x": X}, tmp_path / "s")).bounds


@pytest.mark.parametrize(("text", "value"), [("Sqrt(x)", "nan"), ("Log(x)", "-inf|nan")])
def test_an_activation_that_is_no_number(tmp_path: Path, text: str, value: str) -> None:
    proto = graph(f"(float[n,3] x) => (float[n,3] y) {{ h = {text} y = Relu(h) }}")
    file = saved(onnx.shape_inference.infer_shapes(proto), tmp_path / "bad.onnx")
    arrays = np.ones((9, 3), np.float32)
    arrays[8, 1] = 0.0 if "Log" in text else -1.0
    with pytest.raises(DataError, match=f"activation 'h' is ({value}) on a calibration sample"):
        calibrate(file, kept({"x": arrays}, tmp_path / "s"))


def test_the_ranges_say_where_they_came_from(tmp_path: Path) -> None:
    samples = kept({"x": X}, tmp_path / "s")
    found = calibrate(net(tmp_path), samples)
    assert found.origin == "calibrated:minmax"
    assert found.manifest == samples.manifest
    assert all(math.isfinite(bound) for pair in found.bounds.values() for bound in pair)
