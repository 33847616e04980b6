"""The rules by which a tensor takes another's range."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.quantize.graphs import floats, graph
from torchopt2edge.quantize.graph.activations import activations
from torchopt2edge.quantize.shared_ranges import may_overflow, shared_ranges

WEIGHTS = {
    "w": floats(4, 4, 1, 1),
    "six": np.array(6, np.float32),
    "none": np.array(0, np.float32),
    "shape": np.array([-1, 64], np.int64),
}


def rules(text: str, **how: bool) -> dict[str, str]:
    """Return what takes whose range."""
    proto = graph(f"(float[n,4,4,4] x) => {text}", WEIGHTS)
    proto = onnx.shape_inference.infer_shapes(proto)
    return shared_ranges(proto, activations(proto), **how)


@pytest.mark.parametrize(
    "move", ["Identity(h)", "Reshape(h, shape)", "Flatten(h)", "Transpose<perm=[0,2,3,1]>(h)"]
)
def test_d1_what_moves_values_keeps_their_range(move: str) -> None:
    assert rules(f"(float y) {{ h = Sigmoid(x) y = {move} }}") == {"y": "h"}


def test_d1_goes_by_the_first_of_several() -> None:
    text = "(float y) { h = Sigmoid(x) a = Flatten(h) b = Identity(a) y = Transpose(b) }"
    assert rules(text) == {"a": "h", "b": "h", "y": "h"}


@pytest.mark.parametrize("end", ["Relu(h)", "Clip(h, none, six)"])
@pytest.mark.parametrize("made", ["Conv(x, w)", "Add(x, x)"])
def test_d2_what_is_fused_takes_the_range_behind(made: str, end: str) -> None:
    text = f"(float y) {{ h = {made} y = {end} }}"
    assert rules(text) == {"h": "y"}
    assert rules(text, fuse=False) == {}


@pytest.mark.parametrize(
    "text",
    [
        "(float y) { h = Conv(x, w) r = Relu(h) y = Add(r, h) }",
        "(float y, float h) { h = Conv(x, w) y = Relu(h) }",
        "(float y) { h = Sqrt(x) y = Relu(h) }",
        "(float y) { h = Conv(x, x) y = Relu(h) }",
        "(float y) { h = Conv(x, w) y = LeakyRelu(h) }",
        "(float y) { y = Relu(x) }",
    ],
    ids=["two readers", "an output", "not bounded", "no weight", "no grid's end", "an input"],
)
def test_d2_stays_out_of_the_rest(text: str) -> None:
    assert rules(text) == {}


def test_both_rules_meet() -> None:
    text = "(float y) { h = Conv(x, w) r = Relu(h) y = Flatten(r) }"
    assert rules(text) == {"h": "r", "y": "r"}


@pytest.mark.parametrize(("greatest", "beyond"), [(1.0, False), (1e30, False), (1e37, True)])
def test_what_could_overflow(greatest: float, beyond: bool) -> None:
    proto = graph(
        "(float[n,4,4,4] x) => (float y) { h = Conv(x, w) y = Relu(h) }", {"w": WEIGHTS["w"]}
    )
    assert may_overflow(proto, {"x": (-greatest, 1.0)}, {"h"}) is beyond
    assert not may_overflow(proto, {"x": (-greatest, 1.0)}, set())


def test_only_what_is_fused_could_overflow() -> None:
    """Reshape's second input is a shape and has no range, also where the graph computes it."""
    text = "(float y) { s = Shape(x) h = Sigmoid(x) y = Reshape(h, s) }"
    proto = onnx.shape_inference.infer_shapes(graph(f"(float[n,4,4,4] x) => {text}", {}))
    twins = shared_ranges(proto, activations(proto))
    assert twins == {"y": "h"}
    assert not may_overflow(proto, {"x": (0.0, 1.0), "h": (0.0, 1.0)}, twins)
