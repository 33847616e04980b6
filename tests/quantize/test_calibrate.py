"""Ranges to the bit: against numpy over every activation, in any order."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.hub import Made
from tests.quantize.graphs import Arrays, floats, graph, kept, saved
from torchopt2edge.errors import ConfigError, DataError
from torchopt2edge.quantize.calibrate import calibrate
from torchopt2edge.quantize.graph.activations import activations, batch_size_of, with_outputs
from torchopt2edge.quantize.graph.host_session import host_session
from torchopt2edge.quantize.histogram import OBSERVERS, Histogram
from torchopt2edge.quantize.range_search import TAIL, entropy, mse, percentile
from torchopt2edge.quantize.shared_ranges import shared_ranges
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.types import Ranges

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


def values_of(file: Path, inputs: Arrays) -> Arrays:
    """Return every activation's values, one sample after the other, all of them in memory.

    Where rule D2 holds, the values are those of what follows: asked for both, ONNX Runtime does
    not fuse them, and sums elsewhere in another order.
    """
    proto = onnx.load(file)
    twins = shared_ranges(proto, activations(proto))
    names = [name for name in activations(proto) if name not in twins]
    session = host_session(with_outputs(proto, names))
    computed = [name for name in names if name not in inputs]
    count = len(next(iter(inputs.values())))
    pieces = [
        session.run(computed, {k: v[at : at + 1] for k, v in inputs.items()}) for at in range(count)
    ]
    found = {
        n: np.stack(parts) for n, parts in zip(computed, zip(*pieces, strict=True), strict=True)
    }
    found.update(inputs)
    return {name: found[twins.get(name, name)] for name in activations(proto)}


def exhaustive(file: Path, inputs: Arrays) -> dict[str, tuple[float, float]]:
    """Return the extremes of every activation."""
    values = values_of(file, inputs)
    return {name: (float(array.min()), float(array.max())) for name, array in values.items()}


def by_minmax(file: Path, samples: Samples) -> Ranges:
    """Calibrate in the simplest way."""
    return calibrate(onnx.load(file), samples)["minmax"]


def test_the_activations_are_the_float_tensors(tmp_path: Path) -> None:
    assert activations(onnx.load(net(tmp_path))) == ["x", "h", "r", "s", "m", "p", "f", "y"]


def test_ranges_are_those_of_numpy_to_the_bit(tmp_path: Path) -> None:
    found = by_minmax(net(tmp_path), kept({"x": X}, tmp_path / "s"))
    assert found.bounds == exhaustive(net(tmp_path), {"x": X})
    assert found.bounds["x"] == (float(X.min()), float(X.max()))
    assert found.bounds["r"][0] == 0.0
    assert all(low < high for low, high in found.bounds.values())


def test_ranges_of_a_real_network_are_those_of_numpy_to_the_bit(tiny: Made) -> None:
    assert tiny.ranges.bounds == exhaustive(tiny.graph.path / "model.onnx", tiny.inputs)
    assert len(tiny.ranges.bounds) == 14


def test_only_the_moving_average_knows_the_order(tmp_path: Path) -> None:
    file = net(tmp_path)
    first = calibrate(onnx.load(file), kept({"x": X}, tmp_path / "a"), OBSERVERS)
    shuffled = X[np.random.default_rng(3).permutation(len(X))]
    for name, arrays in {"b": shuffled, "c": X[::-1]}.items():
        other = calibrate(onnx.load(file), kept({"x": arrays}, tmp_path / name, batch=3), OBSERVERS)
        for observer in OBSERVERS:
            same = observer != "ema"
            assert (other[observer].bounds == first[observer].bounds) is same
            assert (other[observer].facts == first[observer].facts) is same


def test_a_batch_of_one_and_a_free_batch_agree(tmp_path: Path) -> None:
    samples = kept({"x": X}, tmp_path / "s")
    free = by_minmax(net(tmp_path), samples).bounds
    assert batch_size_of(onnx.load(net(tmp_path, "1"))) == 1
    assert by_minmax(net(tmp_path, "1"), samples).bounds == free


def test_one_outlier_counts_wherever_it_is(tmp_path: Path) -> None:
    for place in (0, 7, 10):
        arrays = X.copy()
        arrays[place, 1, 2, 3] = 99.0
        found = by_minmax(net(tmp_path), kept({"x": arrays}, tmp_path / str(place)))
        assert found.bounds["x"][1] == 99.0


def test_two_inputs(tmp_path: Path) -> None:
    proto = graph("(float[n,3] a, float[n,3] b) => (float[n,3] y) { h = Sub(a, b) y = Relu(h) }")
    file = saved(onnx.shape_inference.infer_shapes(proto), tmp_path / "two.onnx")
    arrays = {"a": floats(9, 3), "b": floats(9, 3, seed=1)}
    found = by_minmax(file, kept(arrays, tmp_path / "s", batch=2))
    assert found.bounds == exhaustive(file, arrays)


def test_weights_listed_as_inputs_are_not_fed(tmp_path: Path) -> None:
    proto = onnx.load(net(tmp_path, "1"))
    proto.graph.input.insert(0, onnx.helper.make_tensor_value_info("w", 1, [4, 3, 3, 3]))
    file = saved(proto, tmp_path / "listed.onnx")
    assert batch_size_of(proto) == 1
    assert "w" not in by_minmax(file, kept({"x": X}, tmp_path / "s")).bounds


@pytest.mark.parametrize(("text", "value"), [("Sqrt(x)", "nan"), ("Log(x)", "-inf|nan")])
def test_an_activation_that_is_no_number(tmp_path: Path, text: str, value: str) -> None:
    proto = graph(f"(float[n,3] x) => (float[n,3] y) {{ h = {text} y = Relu(h) }}")
    file = saved(onnx.shape_inference.infer_shapes(proto), tmp_path / "bad.onnx")
    arrays = np.ones((9, 3), np.float32)
    arrays[8, 1] = 0.0 if "Log" in text else -1.0
    with pytest.raises(DataError, match=f"activation 'h' is ({value}) on a calibration sample"):
        by_minmax(file, kept({"x": arrays}, tmp_path / "s"))


def test_the_ranges_say_where_they_came_from(tmp_path: Path) -> None:
    samples = kept({"x": X}, tmp_path / "s")
    found = by_minmax(net(tmp_path), samples)
    assert found.origin == "calibrated:minmax"
    assert found.manifest == samples.manifest
    assert all(math.isfinite(bound) for pair in found.bounds.values() for bound in pair)


def test_every_observer_sees_the_same_values_in_one_pass(tmp_path: Path) -> None:
    file = net(tmp_path)
    found = calibrate(onnx.load(file), kept({"x": X}, tmp_path / "s"), OBSERVERS)
    assert [ranges.origin for ranges in found.values()] == [f"calibrated:{n}" for n in OBSERVERS]
    for name, values in values_of(file, {"x": X}).items():
        counted = Histogram()
        counted.add(values)
        for observer, search in {"percentile": percentile, "mse": mse, "entropy": entropy}.items():
            assert found[observer].bounds[name] == search(counted.bins()), name
        low, high = values[0].min(), values[0].max()
        for one in values[1:]:
            low, high = 0.95 * low + 0.05 * one.min(), 0.95 * high + 0.05 * one.max()
        assert found["ema"].bounds[name] == pytest.approx((low, high), rel=1e-6)


def test_percentiles_are_those_of_all_values(tmp_path: Path) -> None:
    file, images = net(tmp_path), floats(200, 3, 8, 8)
    samples = kept({"x": images}, tmp_path / "s")
    found = calibrate(onnx.load(file), samples, ("percentile",))["percentile"]
    for name, values in values_of(file, {"x": images}).items():
        ordered, cut = np.sort(values.ravel()), int(values.size * TAIL)
        width = float(ordered[-1] - ordered[0]) / 4096  # or less: there are 4097 to 8192 bins
        exact = ordered[cut], ordered[-cut - 1]
        assert found.bounds[name] == pytest.approx(exact, abs=width), name
    assert found.bounds["x"] != (images.min(), images.max()), "it does cut"


@pytest.mark.parametrize("observers", [("minmax",), ("mse",)])
@pytest.mark.parametrize("channels", [8, 20, 24, 32])
def test_padded_channels_of_the_blocked_layout_are_not_seen(
    tmp_path: Path, channels: int, observers: tuple[str, ...]
) -> None:
    text = f"""(float[n,3,16,16] x) => (float[n,{channels},16,16] y) {{
        h = Conv<pads=[1,1,1,1]>(x, w, b)
        s = Sigmoid(h)
        y = Conv(s, v, b)
    }}"""
    wide = {
        "w": floats(channels, 3, 3, 3, seed=1) / 8,
        "v": np.abs(floats(channels, channels, 1, 1, seed=2)),
        "b": np.full(channels, 9, np.float32),
    }
    file = saved(onnx.shape_inference.infer_shapes(graph(text, wide)), tmp_path / "net.onnx")
    inputs = {"x": floats(5, 3, 16, 16)}
    found = calibrate(onnx.load(file), kept(inputs, tmp_path / "s"), (*observers, "minmax"))
    assert found["minmax"].bounds == exhaustive(file, inputs)
    assert all(low > 0 for low, _ in list(found[observers[0]].bounds.values())[1:])


def test_one_sample_has_no_halves(tmp_path: Path) -> None:
    found = calibrate(onnx.load(net(tmp_path)), kept({"x": X[:1]}, tmp_path / "s"), OBSERVERS)
    assert all(ranges.facts == {"instability": None} for ranges in found.values())
    assert found["ema"].bounds == found["minmax"].bounds == exhaustive(net(tmp_path), {"x": X[:1]})


def test_the_halves_of_like_samples_are_alike(tmp_path: Path) -> None:
    images = np.repeat(X[:1], 6, axis=0)
    found = calibrate(onnx.load(net(tmp_path)), kept({"x": images}, tmp_path / "s"), OBSERVERS)
    for ranges in found.values():
        assert ranges.facts["instability"]["worst_pct"] == 0.0


def test_an_odd_sample_makes_the_ranges_unstable(tmp_path: Path) -> None:
    images = X.copy()
    images[4] *= 10
    facts = by_minmax(net(tmp_path), kept({"x": images}, tmp_path / "s")).facts["instability"]
    assert facts["worst_pct"] > 50
    assert facts["median_pct"] > 50
    assert facts["worst"] in {"x", "h", "r", "m", "p", "y"}


def test_constant_images_and_a_tensor_that_is_never_activated(tmp_path: Path) -> None:
    weights = {**WEIGHTS, "w": np.full((4, 3, 3, 3), -1, np.float32)}
    proto = onnx.shape_inference.infer_shapes(graph(NET, weights))
    file = saved(proto, tmp_path / "net.onnx")
    found = calibrate(
        onnx.load(file), kept({"x": np.ones((4, 3, 8, 8), np.float32)}, tmp_path / "s"), OBSERVERS
    )
    for ranges in found.values():
        assert ranges.bounds["x"] == (1.0, 1.0)
        assert ranges.bounds["r"] == (0.0, 0.0)
        assert all(low <= high for low, high in ranges.bounds.values())


PAIR = """(float[n,3,4,4] x) => (float[n,2,4,4] y, float[n,2,4,4] z) {
    h = Conv(x, w)
    y = Relu(h)
    g = Conv(x, w)
    z = Sigmoid(g)
}"""


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_what_a_rectifier_hides_is_named(tmp_path: Path, odd: float) -> None:
    weights = np.ones((2, 3, 1, 1), np.float32)
    weights[1, 1] = odd
    proto = graph(PAIR, {"w": weights})
    file = saved(onnx.shape_inference.infer_shapes(proto), tmp_path / "net.onnx")
    with pytest.raises(DataError, match="activation 'h'"):
        by_minmax(file, kept({"x": floats(2, 3, 4, 4)}, tmp_path / "s"))


def test_an_overflow_that_a_rectifier_hides_is_named(tmp_path: Path) -> None:
    proto = graph(
        "(float[n,3,4,4] x) => (float[n,2,4,4] y) { h = Conv(x, w) y = Relu(h) }",
        {"w": np.full((2, 3, 1, 1), -1e38, np.float32)},
    )
    file = saved(onnx.shape_inference.infer_shapes(proto), tmp_path / "net.onnx")
    ones = np.ones((2, 3, 4, 4), np.float32)
    with pytest.raises(DataError, match="activation 'h' is -inf"):
        by_minmax(file, kept({"x": 5 * ones}, tmp_path / "s"))
    ranges = by_minmax(file, kept({"x": 0.1 * ones}, tmp_path / "t")).bounds
    assert ranges["h"] == pytest.approx((-3e37, -3e37)), "looked at, for it could have"


def test_an_unknown_observer(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no observer 'max'"):
        calibrate(onnx.load(net(tmp_path)), kept({"x": X}, tmp_path / "s"), ("minmax", "max"))
