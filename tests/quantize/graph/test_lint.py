"""Each rule: a graph that it names, and the nearest one that it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.quantize.graphs import Arrays, floats, graph, norm, saved
from torchopt2edge.quantize.graph.lint import RULES, Lint, lint
from torchopt2edge.quantize.graph.prepare import prepare
from torchopt2edge.types import Manifest, Ranges

HEAD = "(float[n,4,8,8] x) => (float[n,a,b,c] y)"
PADS = {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
POOL = "MaxPool<kernel_shape=[2,2]>"


def found(
    proto: onnx.ModelProto, folder: Path, bounds: dict[str, tuple[float, float]] | None = None
) -> dict[str, Lint]:
    """Return the findings by rule."""
    ranges = Ranges(bounds, "calibrated:minmax", Manifest("train", ())) if bounds else None
    return {one.rule: one for one in lint(onnx.load(saved(proto, folder / "g.onnx")), ranges)}


def net(body: str, weights: Arrays | None = None, head: str = HEAD) -> onnx.ModelProto:
    """Return a graph of these nodes, each named by its output."""
    proto = graph(f"{head} {{ {body} }}", weights)
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
    return proto


@pytest.mark.parametrize(
    ("rule", "body", "node"),
    [
        ("pad-value", f"h = Pad(x, p, low) y = {POOL}(h)", "node_h"),
        ("pad-value", "h = Pad(x, p, low) y = Relu(h)", "node_h"),
        ("silu", "s = Sigmoid(x) y = Mul(x, s)", "node_y"),
        ("silu", "s = Sigmoid(x) y = Mul(s, x)", "node_y"),
        ("hard-swish", "y = HardSwish(x)", "node_y"),
        ("hard-swish", "y = HardSigmoid(x)", "node_y"),
        ("leaky-relu", "y = LeakyRelu(x)", "node_y"),
        ("leaky-relu", "y = PRelu(x, c)", "node_y"),
        ("smooth-activation", "y = Elu(x)", "node_y"),
        ("late-norm", "r = Relu(x) y = BatchNormalization(r, ns, nb, nm, nv)", "node_y"),
        ("late-norm", "r = Relu(x) h = Mul(r, c) y = Add(h, c)", "node_h"),
        ("attention", "h = MatMul(x, x) y = Relu(h)", "node_h"),
        ("attention", "h = Softmax(x) y = Relu(h)", "node_h"),
        ("channel-spread", "y = Conv<group=4>(x, w)", "node_y"),
    ],
)
def test_a_rule_names_the_node(tmp_path: Path, rule: str, body: str, node: str) -> None:
    low, channel = np.float32(-np.inf), floats(4, 1, 1)
    weight = np.ones((4, 1, 1, 1), np.float32)
    weight[0] = 100
    weights = {"low": np.array(low), "c": channel, "w": weight, **PADS, **norm(4, "n")}
    one = found(net(body, weights), tmp_path)[rule]
    assert (one.nodes, one.count) == ((node,), 1)
    assert "{" not in one.says
    assert one.says.endswith(".")
    assert one.hint.endswith(".")


@pytest.mark.parametrize(
    "body",
    [
        f"h = Pad(x, p) y = {POOL}(h)",
        f"h = Pad(x, p, z) y = {POOL}(h)",
        f'h = Pad<mode = "reflect">(x, p, low) y = {POOL}(h)',
        "s = Sigmoid(x) r = Relu(x) y = Mul(r, s)",
        "h = Relu(x) y = Softmax(h)",
        "r = Relu(x) h = Mul(r, c) y = Relu(h)",
        "r = Relu(x) h = Mul(r, r) y = Add(h, c)",
        "r = Relu(x) h = Mul(r, z) y = Add(h, z)",
        "y = Conv<group=4>(x, w)",
        "y = Conv<group=4>(x, dead)",
        "y = Conv(x, wide)",
        "y = BatchNormalization(x, ns, nb, nm, nv)",
    ],
)
def test_what_is_well_is_not_named(tmp_path: Path, body: str) -> None:
    dead = np.ones((4, 1, 1, 1), np.float32)
    dead[0] = 0
    wide = np.full((2, 4, 1, 1), 100, np.float32)
    wide[0] = 1
    weights = {"low": np.float32(-1), "z": np.float32(0), "c": floats(4, 1, 1), "wide": wide}
    weights |= {"dead": dead, "w": 1 + abs(floats(4, 1, 3, 3)), **PADS, **norm(4, "n")}
    given = {name: np.asarray(value) for name, value in weights.items()}
    assert found(net(body, given), tmp_path) == {}


def test_the_norm_is_named_after_it_was_written_out_too(tmp_path: Path) -> None:
    body = "r = Relu(x) y = BatchNormalization(r, ns, nb, nm, nv)"
    path = saved(net(body, norm(4, "n")), tmp_path / "in.onnx")
    prepare(path, tmp_path / "out.onnx")
    (one,) = lint(onnx.load(tmp_path / "out.onnx"))
    assert one.rule == "late-norm"


def test_concatenated_ranges(tmp_path: Path) -> None:
    proto = net("a = Relu(x) b = Neg(x) c = Abs(x) y = Concat<axis=1>(a, b, c)")
    far = {"a": (0.0, 40.0), "b": (-2.0, 1.0), "c": (0.0, 0.0), "x": (-1.0, 1.0)}
    assert found(proto, tmp_path) == {}, "without ranges there is nothing to say"
    one = found(proto, tmp_path, far)["concat-ranges"]
    assert one.nodes == ("node_y",)
    assert "20 times" in one.says
    near = {**far, "b": (-6.0, 1.0)}
    assert "concat-ranges" not in found(proto, tmp_path, near)


def test_a_tensor_that_never_changed(tmp_path: Path) -> None:
    proto = net("a = Relu(x) y = Neg(a)")
    bounds = {"x": (-2.0, -1.0), "a": (0.0, 0.0), "y": (0.0, 1.0)}
    assert found(proto, tmp_path, bounds)["never-active"].nodes == ("node_a",)


def test_inputs_outputs_and_opset(tmp_path: Path) -> None:
    head = "(float[n,4,h,8] x, float[n,4] z) => (int64[n,1,h,8] y, float[n,4] u)"
    one = found(net("y = ArgMax<axis=1>(x) u = Relu(z)", head=head), tmp_path)
    assert one["free-size"].nodes == ("x",)
    assert one["integer-output"].nodes == ("y",)
    assert "old-opset" not in one
    old = graph(f"{HEAD} {{ y = Relu(x) }}", opset=11)
    assert found(old, tmp_path)["old-opset"].nodes == ("opset 11",)


def test_a_weight_listed_as_an_input_has_no_free_size(tmp_path: Path) -> None:
    head = "(float[n,4,8,8] x, float[4,k,1,1] w) => (float[n,4,8,8] y)"
    proto = net("y = Conv(x, w)", head=head)
    assert set(found(proto, tmp_path)) == {"free-size"}
    proto.graph.initializer.append(onnx.numpy_helper.from_array(floats(4, 4, 1, 1), "w"))
    assert found(proto, tmp_path) == {}


def test_repeated_findings_are_one_the_worst_first(tmp_path: Path) -> None:
    weights = {}
    for index, ratio in enumerate((40, 90, 50, 60)):
        weights[f"w{index}"] = np.array([1, 1, 1, ratio], np.float32).reshape(4, 1, 1, 1)
    body = " ".join(f"t{i + 1} = Conv<group=4>(t{i}, w{i})" for i in range(4))
    proto = net(body, weights, "(float[n,4,8,8] t0) => (float[n,4,8,8] t4)")
    one = found(proto, tmp_path)["channel-spread"]
    assert (one.nodes, one.count) == (("node_t2", "node_t4", "node_t3"), 4)
    assert " 90 times" in one.says


def test_every_rule_has_a_name_of_its_own() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
