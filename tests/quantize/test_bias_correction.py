"""Bias correction: the means come out right, for every kind of layer, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tests.hub import Made
from tests.quantize.graphs import Arrays, floats, kinds, saved
from tests.quantize.simulated import inferred, ranges_of, samples_of
from torchopt2edge.quantize.bias_correction import correct_bias
from torchopt2edge.quantize.fake_quant import simulation
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.types import Ranges

X = {"x": floats(20, 4, 8, 8) + np.float32(0.5)}
NET = """(float[n,4,8,8] x) => (float[n,5] y) {
    a = Conv<pads=[1,1,1,1], group=4>(x, wa) ra = Relu(a)
    b = Conv<pads=[1,1,1,1]>(ra, wb, shared) rb = Relu(b)
    c = Conv<pads=[1,1,1,1]>(rb, wc, shared)
    s = Add(ra, c) p = GlobalAveragePool(s) f = Flatten(p)
    y = Gemm<transB=1, beta=2.0>(f, g, gb)
}"""
W = {
    "wa": floats(4, 1, 3, 3, seed=1),
    "wb": floats(4, 4, 3, 3, seed=2) * np.float32(0.3),
    "wc": floats(4, 4, 3, 3, seed=3) * np.float32(0.3),
    "shared": floats(4, seed=4),
    "g": floats(5, 4, seed=5),
    "gb": floats(5, seed=6),
}


def narrow(ranges: Ranges, *ends: str) -> Ranges:
    """Cut the ranges, which shifts every mean, but not those of the ``ends``."""
    bounds = {
        name: (low, high) if name in ends else (0.6 * low, 0.6 * high)
        for name, (low, high) in ranges.bounds.items()
    }
    return replace(ranges, bounds=bounds)


def corrected(file: Path, inputs: Arrays, ranges: Ranges, folder: Path) -> tuple[Path, dict]:
    """Correct a graph's biases on all inputs."""
    folder.mkdir(exist_ok=True)
    samples = samples_of(inputs, folder / "samples")
    proto, facts = correct_bias(onnx.load(file), ranges, samples)
    return saved(proto, folder / "corrected.onnx"), facts


def weights(file: Path) -> Arrays:
    """Return the initializers of a graph."""
    return {w.name: numpy_helper.to_array(w) for w in onnx.load(file).graph.initializer}


def mean_error(file: Path, ranges: Ranges, source: Path, samples: Samples) -> float:
    """Return the greatest error in the mean of an output's channel, of the graph quantized."""
    sim = simulation(onnx.load(file), samples, reference=onnx.load(source))
    feeds = sim.graph.feeds(ranges)
    errors = [
        value - wanted[name]
        for batch, wanted in zip(samples.batches(sim.batch), sim.reference, strict=True)
        for name, value in sim.outputs(feeds, batch).items()
    ]
    return float(np.abs(np.concatenate(errors).astype(float).mean(0)).max())


def test_the_mean_of_what_comes_out_is_the_float_one(tmp_path: Path) -> None:
    file = inferred(NET, W, tmp_path / "net.onnx")
    ranges = narrow(ranges_of(file, X), "y")
    out, facts = corrected(file, X, ranges, tmp_path)
    assert facts == {"corrected": 4, "left": [], "samples": 20}
    low, high = ranges.bounds["y"]
    step = (high - low) / 255
    samples = samples_of(X, tmp_path / "again")
    assert mean_error(file, ranges, file, samples) > 3 * step
    assert mean_error(out, ranges, file, samples) < step / 2


def test_it_helps_and_changes_biases_alone(tmp_path: Path) -> None:
    file = inferred(NET, W, tmp_path / "net.onnx")
    ranges = narrow(ranges_of(file, X), "y")
    out, _ = corrected(file, X, ranges, tmp_path)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    samples = samples_of(X, tmp_path / "again")
    before = simulation(onnx.load(file), samples).sqnr(ranges)
    assert simulation(onnx.load(out), samples, reference=onnx.load(file)).sqnr(ranges) > before + 3
    assert kinds(onnx.load(out)) == kinds(onnx.load(file))
    for name in ("wa", "wb", "wc", "g"):
        assert (weights(out)[name] == W[name]).all()


def test_a_shared_bias_is_parted_and_one_that_was_not_there_is_added(tmp_path: Path) -> None:
    file = inferred(NET, W, tmp_path / "net.onnx")
    out, _ = corrected(file, X, narrow(ranges_of(file, X)), tmp_path)
    nodes = {node.name: node for node in onnx.load(out).graph.node}
    biases = [nodes[f"node_{name}"].input[2] for name in "abcy"]
    assert len(set(biases)) == 4
    held = weights(out)
    assert "shared" not in held, "nothing reads it any more"
    assert not np.allclose(held[biases[1]], held[biases[2]])
    assert held[biases[0]].shape == (4,)
    assert np.abs(held[biases[0]]).max() > 0


def test_what_is_in_float_is_left_alone(tmp_path: Path) -> None:
    file = inferred(NET, W, tmp_path / "net.onnx")
    ranges = replace(narrow(ranges_of(file, X)), excluded=("node_b",))
    out, facts = corrected(file, X, ranges, tmp_path)
    assert facts["corrected"] == 3
    nodes = {node.name: node for node in onnx.load(out).graph.node}
    assert nodes["node_b"].input[2] == "shared"
    assert (weights(out)["shared"] == W["shared"]).all()


def test_nothing_to_correct_when_quantizing_costs_nothing(tmp_path: Path) -> None:
    """Weights and activations that are all on their grids."""
    grid = {"x": np.tile(np.arange(256, dtype=np.float32).reshape(4, 64), (2, 1, 1))}
    weight = (127 * np.eye(4)[:, :, None, None]).astype(np.float32)
    text = "(float[n,4,64] x) => (float[n,4,64] y) { y = Conv(x, w) }"
    file = inferred(text, {"w": weight[..., 0]}, tmp_path / "net.onnx")
    out, facts = corrected(file, grid, ranges_of(file, grid), tmp_path)
    assert facts["corrected"] == 1
    np.testing.assert_allclose(weights(out)["node_y/corrected"], 0.0, atol=1e-3)


def test_a_transposed_convolution_and_layers_that_cannot_have_a_bias(tmp_path: Path) -> None:
    file = inferred(
        "(float[n,4,8,8] x, float[n,6,4,3,3] k) => (float[n,6] y, float[n,6] z) {"
        " a = ConvTranspose<strides=[2,2], group=2>(x, wt) p = GlobalAveragePool(a)"
        " f = Flatten(p) y = MatMul(f, m) z = Gemm(y, m, wide) }",
        {"wt": floats(4, 3, 2, 2), "m": floats(6, 6), "wide": floats(1, 6)},
        tmp_path / "net.onnx",
    )
    inputs = {**X, "k": floats(20, 6, 4, 3, 3)}
    proto = onnx.load(file)
    proto.graph.node[-1].name = ""
    out, facts = corrected(saved(proto, file), inputs, narrow(ranges_of(file, inputs)), tmp_path)
    assert facts["corrected"] == 1
    assert facts["left"] == ["node_y", "z"]
    assert weights(out)["node_a/corrected"].shape == (6,)


def test_a_batch_fixed_to_one_gives_the_same(tmp_path: Path) -> None:
    file = inferred(NET, W, tmp_path / "net.onnx")
    single = inferred(NET.replace("float[n", "float[1"), W, tmp_path / "one.onnx")
    ranges = narrow(ranges_of(file, X))
    free = weights(corrected(file, X, ranges, tmp_path / "a")[0])
    fixed = weights(corrected(single, X, ranges, tmp_path / "b")[0])
    for name, value in free.items():
        np.testing.assert_allclose(fixed[name], value, atol=2e-2, err_msg=name)


def test_only_so_many_samples_and_progress(tmp_path: Path) -> None:
    file = inferred(NET, W, tmp_path / "net.onnx")
    told: list[tuple[int, int]] = []
    _, facts = correct_bias(
        onnx.load(file),
        ranges_of(file, X),
        samples_of(X, tmp_path / "samples"),
        3,
        lambda done, total: told.append((done, total)),
    )
    assert facts["samples"] == 3
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_real_network(tiny: Made, tmp_path: Path) -> None:
    file = tiny.graph.path / "model.onnx"
    ends = [value.name for value in onnx.load(file).graph.output]
    ranges = narrow(tiny.ranges, *ends)
    proto, facts = correct_bias(onnx.load(file), ranges, tiny.kept)
    assert facts["corrected"] == 5
    out = saved(proto, tmp_path / "out.onnx")
    before = mean_error(file, ranges, file, tiny.kept)
    assert mean_error(out, ranges, file, tiny.kept) < before / 5
