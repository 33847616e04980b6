"""The model as it came is the reference: a rewrite that moves it is left out by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.quantize.graphs import Arrays, floats, graph, run, saved
from torchopt2edge.errors import ExportError
from torchopt2edge.quantize.graph import prepare
from torchopt2edge.quantize.graph.leave_out import smallest
from torchopt2edge.store import Store
from torchopt2edge.types import Artifact
from torchopt2edge.workflow import calibration
from torchopt2edge.workflow.faithful import hold
from torchopt2edge.workflow.float_graph import file_digest, share_graph

NORM = "(float[n,3,8,8] x) => (float[n,4,8,8] y) { h = Conv<pads=[1,1,1,1]>(x, w) y = Mul(h, s) }"
WEIGHTS = {"w": floats(4, 3, 3, 3), "s": np.array([2, 3, 4, 5], np.float32).reshape(1, 4, 1, 1)}


def shared(proto: onnx.ModelProto, samples: Arrays, tmp_path: Path) -> tuple[Artifact, Artifact]:
    """Return the graph that `hold` gives, and that which it was given."""
    store, file = Store(tmp_path / "store"), saved(proto, tmp_path / "net.onnx")
    given = share_graph(file, file_digest(file), store)
    kept = calibration.keep_samples([samples], given, 8, "calibration", store)
    return hold(given, kept, store), given


def test_a_graph_that_holds_is_handed_on(tmp_path: Path) -> None:
    held, given = shared(graph(NORM, WEIGHTS), {"x": floats(8, 3, 8, 8)}, tmp_path)
    assert held == given
    assert [node.op_type for node in onnx.load(held.path / "model.onnx").graph.node] == ["Conv"]


def test_a_rewrite_that_moves_an_output_is_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = prepare.settle_affine

    def wrong(proto: onnx.ModelProto) -> None:
        right(proto)
        for weight in proto.graph.initializer:
            values = numpy_helper.to_array(weight)
            weight.CopyFrom(numpy_helper.from_array(values * np.float32(1.001), weight.name))

    monkeypatch.setattr(prepare, "settle_affine", wrong)
    proto, x = graph(NORM, WEIGHTS), {"x": floats(8, 3, 8, 8)}
    held, _ = shared(proto, x, tmp_path)
    assert held.facts["left_out"] == [prepare.AFFINE]
    assert prepare.AFFINE in held.facts["notes"][0]
    out = onnx.load(held.path / "model.onnx")
    np.testing.assert_allclose(run(out, x)["y"], run(proto, x)["y"], rtol=1e-5, atol=1e-5)


def test_a_graph_that_holds_without_no_rewrite_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(proto: onnx.ModelProto, pooling: bool = True) -> int:
        proto.graph.node[0].op_type = "Sigmoid"
        return 0

    monkeypatch.setattr(prepare, "canonicalize", wrong)
    with pytest.raises(ExportError, match="something else"):
        shared(
            graph("(float[n,4] x) => (float[n,4] y) { y = Tanh(x) }"), {"x": floats(8, 4)}, tmp_path
        )


def test_a_net_that_looks_at_its_whole_batch_is_shipped_with_one(tmp_path: Path) -> None:
    text = "(float[n,4] x) => (float[n,4] y) { m = ReduceMax<keepdims=1>(x) y = Div(x, m) }"
    held, _ = shared(graph(text), {"x": np.abs(floats(8, 4))}, tmp_path)
    assert "batch of 1" in held.facts["notes"][0]
    made = onnx.load(held.path / "model.onnx").graph
    assert [v.type.tensor_type.shape.dim[0].dim_value for v in (made.input[0], made.output[0])] == [
        1,
        1,
    ]
    assert calibration.signature_in(held.path).inputs[0].shape == (1, 4)


@pytest.mark.parametrize("guilty", [(), ("c",), ("a", "h"), ("b", "c", "d"), tuple("abcdefgh")])
def test_the_fewest_are_found(guilty: tuple[str, ...]) -> None:
    asked: list[tuple[str, ...]] = []

    def holds(left_out: tuple[str, ...]) -> bool:
        asked.append(tuple(left_out))
        return set(guilty) <= set(left_out)

    assert set(smallest("abcdefgh", holds)) == set(guilty)
    assert len(asked) <= 40
