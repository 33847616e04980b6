"""The simulation against numpy, against the float graph, and against ONNX Runtime's int8 file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.hub import Made
from tests.quantize.graphs import Arrays, floats, graph, saved
from tests.quantize.simulated import inferred, ranges_of, samples_of, values_of
from torchopt2edge.errors import DataError
from torchopt2edge.quantize.fake_quant import Simulation, simulation
from torchopt2edge.quantize.graph.host_session import host_session
from torchopt2edge.quantize.graph.op_types import LAYERS
from torchopt2edge.quantize.qdq_writer import IntegerTypes, quantize_graph
from torchopt2edge.quantize.qparams import quant_params
from torchopt2edge.stats.sqnr import SAMPLE_LIMITS_DB
from torchopt2edge.types import Ranges

X = {"x": floats(12, 3, 8, 8)}
W = {"w": floats(4, 3, 3, 3, seed=1), "v": floats(4, 4, 3, 3, seed=2), "g": floats(4, 5, seed=3)}
NET = """(float[n,3,8,8] x) => (float[n,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w)
    r = Relu(a)
    b = Conv<pads=[1,1,1,1]>(r, v)
    s = Add(r, b)
    m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(s)
    p = GlobalAveragePool(m)
    f = Flatten(p)
    y = Gemm(f, g)
}"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Return a network of two convolutions, a residual, two pools and a head."""
    return inferred(NET, W, tmp_path / "net.onnx")


def simulated(file: Path, inputs: Arrays, folder: Path) -> Simulation:
    """Simulate a graph on all of its inputs."""
    return simulation(onnx.load(file), samples_of(inputs, folder / "samples"))


def outputs(sim: Simulation, ranges: Ranges, floating: Collection[str] = ()) -> Arrays:
    """Run the simulation on its first batch."""
    feeds = sim.graph.feeds(ranges, floating)
    return sim.outputs(feeds, next(sim.samples.batches(sim.batch)))


def decibels(wanted: Arrays, found: Arrays) -> float:
    """Return the mean over the samples of the ratio, at the worst output."""
    worst = []
    for name, value in wanted.items():
        signal = np.square(value.astype(float)).reshape(len(value), -1).sum(1)
        noise = np.square(value.astype(float) - found[name]).reshape(len(value), -1).sum(1)
        worst.append(float(np.mean(10 * np.log10(signal / noise))))
    return min(worst)


def test_all_in_float_is_the_float_graph(net: Path, tmp_path: Path) -> None:
    sim, ranges = simulated(net, X, tmp_path), ranges_of(net, X)
    assert sim.ops == ("node_a", "node_b", "node_s", "node_p", "node_y")
    assert sim.sqnr(ranges, sim.ops) == SAMPLE_LIMITS_DB[1]
    assert sim.sqnr(replace(ranges, excluded=sim.ops)) == SAMPLE_LIMITS_DB[1]


def test_one_op_alone_is_what_numpy_says(tmp_path: Path) -> None:
    file = inferred(
        "(float[n,3] x) => (float[n,3] y) { s = Sin(x) y = Add(s, s) }",
        {},
        tmp_path / "add.onnx",
    )
    inputs = {"x": floats(5, 3)}
    ranges = ranges_of(file, inputs)

    def rounded(value: np.ndarray, name: str) -> np.ndarray:
        params = quant_params(*ranges.bounds[name], "uint8")
        return (params.quantize(value).astype(int) - params.zero_point) * np.float32(params.scale)

    halves = rounded(np.sin(inputs["x"]), "s")
    wanted = rounded(halves + halves, "y")
    found = outputs(simulated(file, inputs, tmp_path), ranges)
    np.testing.assert_allclose(found["y"], wanted, atol=1e-6)


def test_the_ratio_is_the_mean_over_the_samples(net: Path, tmp_path: Path) -> None:
    sim, ranges = simulated(net, X, tmp_path), ranges_of(net, X)
    feeds = sim.graph.feeds(ranges)
    pieces = [sim.outputs(feeds, batch)["y"] for batch in sim.samples.batches(sim.batch)]
    found = {"y": np.concatenate(pieces)}
    assert len(found["y"]) == sim.count == 12
    assert sim.sqnr(ranges) == pytest.approx(decibels({"y": values_of(net, X)["y"]}, found))


def test_noise_falls_as_ops_go_back_to_float(net: Path, tmp_path: Path) -> None:
    sim, ranges = simulated(net, X, tmp_path), ranges_of(net, X)
    found = [sim.sqnr(ranges, sim.ops[:count]) for count in range(len(sim.ops) + 1)]
    assert 20 < found[0] < 50
    assert found[-1] == SAMPLE_LIMITS_DB[1]
    assert found[0] < found[3] < found[-1]


def own_int8(file: Path, ranges: Ranges, inputs: Arrays) -> Arrays:
    """Run what the ONNX Runtime backend writes, one sample at a time."""
    session = host_session(quantize_graph(onnx.load(file), ranges, IntegerTypes()))
    names = [value.name for value in session.get_outputs()]
    count = len(next(iter(inputs.values())))
    rows = [
        session.run(names, {name: value[at : at + 1] for name, value in inputs.items()})
        for at in range(count)
    ]
    return {
        name: np.concatenate(parts)
        for name, parts in zip(names, zip(*rows, strict=True), strict=True)
    }


@pytest.mark.parametrize("excluded", [(), ("node_a",), ("node_b", "node_s")])
def test_it_agrees_with_onnx_runtimes_file(
    net: Path, tmp_path: Path, excluded: tuple[str, ...]
) -> None:
    ranges = replace(ranges_of(net, X), excluded=excluded)
    wanted = {"y": values_of(net, X)["y"]}
    real = decibels(wanted, own_int8(net, ranges, X))
    assert simulated(net, X, tmp_path).sqnr(ranges) == pytest.approx(real, abs=1.0)


def test_it_agrees_with_onnx_runtimes_file_of_a_real_network(tiny: Made) -> None:
    file = tiny.graph.path / "model.onnx"
    sim = simulation(onnx.load(file), tiny.kept)
    name = onnx.load(file).graph.output[0].name
    wanted = {name: values_of(file, tiny.inputs)[name]}
    layers = [op for op, kind in sim.graph.tensors.ops.items() if kind in LAYERS]
    for excluded in ((), tuple(layers[:2]), tuple(sim.ops[-2:])):
        ranges = replace(tiny.ranges, excluded=excluded)
        real = decibels(wanted, own_int8(file, ranges, tiny.inputs))
        assert sim.sqnr(ranges) == pytest.approx(real, abs=1.0), excluded


def test_a_batch_fixed_to_one_agrees_with_a_free_one(net: Path, tmp_path: Path) -> None:
    single = inferred(NET.replace("float[n", "float[1"), W, tmp_path / "one.onnx")
    ranges = ranges_of(net, X)
    free = simulated(net, X, tmp_path / "a").sqnr(ranges)
    assert simulated(single, X, tmp_path / "b").sqnr(ranges) == pytest.approx(free, abs=0.01)


def test_two_inputs_one_of_integers_and_two_outputs(tmp_path: Path) -> None:
    file = inferred(
        "(float[n,3] a, int64[n,2] i) => (float[n,5] y, float[n,2] z, int64[n,1] k) {"
        " h = Gemm(a, w) y = Relu(h) f = Cast<to=1>(i) z = Mul(f, f)"
        " k = ArgMax<axis=1>(y) }",
        {"w": floats(3, 5, seed=4)},
        tmp_path / "two.onnx",
    )
    inputs = {"a": floats(6, 3), "i": np.arange(12).reshape(6, 2)}
    ranges = ranges_of(file, inputs)
    sim = simulated(file, inputs, tmp_path)
    assert set(sim.reference[0]) == {"y", "z"}, "a class number has no noise"
    both, first, second = (sim.sqnr(ranges, off) for off in ((), ("node_z",), ("node_h",)))
    assert both == pytest.approx(min(first, second))
    assert first != second


def test_weights_that_two_nodes_share_are_rounded_for_each(tmp_path: Path) -> None:
    shared = floats(4, 4, seed=5)
    file = inferred(
        "(float[n,4] x) => (float[n,4] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, w) }",
        {"w": shared},
        tmp_path / "shared.onnx",
    )
    inputs = {"x": floats(6, 4)}
    sim = simulated(file, inputs, tmp_path)
    feeds = sim.graph.feeds(ranges_of(file, inputs), ["node_y"])
    assert (feeds["weight/node_y/1"] == shared).all()
    assert not (feeds["weight/node_h/1"] == shared).all()


def test_weights_listed_as_inputs_are_not_fed(net: Path, tmp_path: Path) -> None:
    proto = onnx.load(net)
    proto.graph.input.insert(0, onnx.helper.make_tensor_value_info("w", 1, [4, 3, 3, 3]))
    listed = saved(proto, tmp_path / "listed.onnx")
    ranges = ranges_of(net, X)
    usual = simulated(net, X, tmp_path / "a").sqnr(ranges)
    assert simulated(listed, X, tmp_path / "b").sqnr(ranges) == pytest.approx(usual, abs=0.01)


@pytest.mark.parametrize("opset", [11, 13, 21])
def test_opsets(opset: int, tmp_path: Path) -> None:
    file = inferred(NET, W, tmp_path / "net.onnx", opset)
    assert 20 < simulated(file, X, tmp_path).sqnr(ranges_of(file, X)) < 50


def test_a_tensor_that_is_never_activated(tmp_path: Path) -> None:
    text = NET.replace("b = Conv<pads=[1,1,1,1]>(r, v)", "b = Mul(r, zero)")
    file = inferred(text, {**W, "zero": np.zeros((), np.float32)}, tmp_path / "dead.onnx")
    ranges = ranges_of(file, X)
    assert ranges.bounds["b"] == (0.0, 0.0)
    assert 20 < simulated(file, X, tmp_path).sqnr(ranges) < 50


def test_another_reference_is_held_against(net: Path, tmp_path: Path) -> None:
    proto = onnx.load(net)
    moved = next(w for w in proto.graph.initializer if w.name == "g")
    moved.CopyFrom(onnx.numpy_helper.from_array(W["g"] * np.float32(1.1), "g"))
    other, samples = saved(proto, tmp_path / "other.onnx"), samples_of(X, tmp_path / "samples")
    sim = simulation(onnx.load(other), samples, reference=onnx.load(net))
    assert sim.sqnr(ranges_of(other, X), sim.ops) == pytest.approx(20.0, abs=0.01)


def test_ranges_that_lack_a_tensor(net: Path, tmp_path: Path) -> None:
    ranges = ranges_of(net, X)
    less = replace(ranges, bounds={n: b for n, b in ranges.bounds.items() if n != "r"})
    sim = simulated(net, X, tmp_path)
    with pytest.raises(DataError, match="no range for the tensor 'r'"):
        sim.sqnr(less)
    sim.sqnr(less, ["node_a", "node_b", "node_s"])


def test_a_graph_without_a_float_output(tmp_path: Path) -> None:
    proto = graph("(float[n,3] x) => (int64[n,1] k) { h = Relu(x) k = ArgMax<axis=1>(h) }")
    file = saved(onnx.shape_inference.infer_shapes(proto), tmp_path / "class.onnx")
    samples = samples_of({"x": floats(4, 3)}, tmp_path / "samples")
    with pytest.raises(DataError, match="no output of this graph is float"):
        simulation(onnx.load(file), samples)


def test_only_so_many_samples(net: Path, tmp_path: Path) -> None:
    sim = simulation(onnx.load(net), samples_of(X, tmp_path / "samples"), limit=3)
    assert sim.count == 3
    assert [len(batch["y"]) for batch in sim.reference] == [3]
    np.testing.assert_allclose(sim.reference[0]["y"], values_of(net, X)["y"][:3], rtol=1e-5)


def test_one_samples_outlier_does_not_hide_the_others(net: Path, tmp_path: Path) -> None:
    inputs = {"x": X["x"].copy()}
    inputs["x"][4] *= 1000.0
    sim, wide = simulated(net, inputs, tmp_path), ranges_of(net, inputs)
    narrow = replace(wide, bounds=ranges_of(net, X).bounds)
    assert sim.sqnr(narrow) > 20, "eleven of twelve samples are as good as ever"
    assert sim.sqnr(wide) < 10, "though in sum over all samples it is the better one"


def test_a_large_map_is_compared_at_evenly_spread_places(tmp_path: Path) -> None:
    text = "(float[n,3,256,256] x) => (float[n,4,256,256] y) { y = Conv<pads=[1,1,1,1]>(x, w) }"
    file = inferred(text, W, tmp_path / "map.onnx")
    inputs = {"x": floats(2, 3, 256, 256)}
    sim, ranges = simulated(file, inputs, tmp_path), ranges_of(file, inputs)
    assert sim.reference[0]["y"].shape == (2, 52429)
    whole = decibels({"y": values_of(file, inputs)["y"]}, outputs(sim, ranges))
    assert sim.sqnr(ranges) == pytest.approx(whole, abs=0.1)


def test_an_output_that_is_all_zero_has_no_say(tmp_path: Path) -> None:
    file = inferred(
        "(float[n,3] x) => (float[n,5] y, float[n,3] z) "
        "{ y = MatMul(x, w) n = Abs(x) m = Neg(n) z = Relu(m) }",
        {"w": floats(3, 5)},
        tmp_path / "zero.onnx",
    )
    inputs = {"x": floats(6, 3)}
    sim, ranges = simulated(file, inputs, tmp_path), ranges_of(file, inputs)
    wanted = {"y": values_of(file, inputs)["y"]}
    assert sim.sqnr(ranges) == pytest.approx(decibels(wanted, outputs(sim, ranges)))
