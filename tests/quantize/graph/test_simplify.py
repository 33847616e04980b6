"""The named rules of the graph's simplification, and the constants that must survive them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quantize.graphs import floats, graph, kinds, run
from torchopt2edge.quantize.graph.simplify import IDENTITIES, RULES, simplify

SHAPE = "(float[n,4] x) => (float[n,4] y)"


@pytest.mark.parametrize("op", ["Log", "Sqrt", "Reciprocal"])
@given(exponent=st.floats(-12, np.log10(5e-9)), sign=st.sampled_from([1, -1]))
@settings(max_examples=12, deadline=None)
def test_a_guard_against_zero_survives(op: str, exponent: float, sign: int) -> None:
    """onnxscript's own rule drops a constant below 1e-8."""
    tiny = np.float32(sign * 10**exponent)
    how = "Add" if sign > 0 else "Sub"
    proto = graph(f"{SHAPE} {{ a = Abs(x) g = {how}(a, c) y = {op}(g) }}", {"c": tiny})
    assert kinds(simplify(proto)) == ["Abs", how, op]


@pytest.mark.parametrize(
    ("op", "constant"), [("Add", 0.0), ("Sub", 0.0), ("Mul", 1.0), ("Div", 1.0)]
)
def test_what_changes_nothing_goes(op: str, constant: float) -> None:
    weights = {"c": np.float32(constant)}
    proto = graph(f"{SHAPE} {{ h = Relu(x) i = {op}(h, c) y = Sigmoid(i) }}", weights)
    assert kinds(simplify(proto)) == ["Relu", "Sigmoid"]
    assert op in kinds(simplify(proto, [IDENTITIES]))


@pytest.mark.parametrize("constant", [np.nextafter(np.float32(1), np.float32(2)), 0.99999994])
def test_a_factor_next_to_one_stays(constant: float) -> None:
    proto = graph(f"{SHAPE} {{ h = Relu(x) y = Mul(h, c) }}", {"c": np.float32(constant)})
    assert kinds(simplify(proto)) == ["Relu", "Mul"]


def test_a_constant_that_adds_an_axis_stays() -> None:
    text = "(float[n,4] x) => (float[1,n,4] y) { h = Relu(x) y = Add(h, c) }"
    proto = graph(text, {"c": np.zeros((1, 1, 1), np.float32)})
    assert kinds(simplify(proto)) == ["Relu", "Add"]


def test_zero_minus_x_is_no_identity() -> None:
    proto = graph(f"{SHAPE} {{ h = Relu(x) y = Sub(c, h) }}", {"c": np.float32(0)})
    assert kinds(simplify(proto)) == ["Relu", "Sub"]


def test_without_any_rule_the_graph_computes_the_same() -> None:
    text = f"{SHAPE} {{ a = Relu(x) b = Relu(a) d = Add(c, c) y = Mul(b, d) }}"
    proto = graph(text, {"c": floats(4)})
    x = {"x": floats(3, 4)}
    few, many = simplify(proto), simplify(proto, RULES)
    assert len(kinds(few)) < len(kinds(many))
    for made in (few, many):
        np.testing.assert_array_equal(run(made, x)["y"], run(proto, x)["y"])
