"""The rules by which a Concat and what it joins get one grid."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from torchopt2edge.quantize.concat_ranges import join_ranges
from torchopt2edge.quantize.qparams import quant_params

Row = tuple[str, str, str]


def graph(*rows: Row, outputs: str = "end") -> onnx.ModelProto:
    """Return nodes, each its kind, what it is given, what it makes."""
    nodes = [
        helper.make_node(kind, given.split(), [made], **({"axis": 1} if kind == "Concat" else {}))
        for kind, given, made in rows
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs.split()]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    return helper.make_model(helper.make_graph(nodes, "g", given, ends))


WHOLE = (0.0, 9.0)
FIRE = graph(
    ("Conv", "x w", "a"),
    ("Relu", "a", "ra"),
    ("Conv", "x v", "b"),
    ("Relu", "b", "rb"),
    ("Concat", "ra rb", "end"),
)


def test_j1_what_is_joined_gets_the_whole_range() -> None:
    bounds = {"a": (0.0, 3.0), "ra": (0.0, 3.0), "b": (-5.0, 9.0), "rb": WHOLE, "end": WHOLE}
    found = join_ranges(FIRE, bounds)
    assert found == dict.fromkeys(bounds, WHOLE), "J3: and what is fused with it"
    assert bounds["ra"] == (0.0, 3.0), "the given ranges are left alone"


def test_j1_what_others_read_keeps_its_own() -> None:
    rows = [("Conv", "x w", "a"), ("Conv", "a v", "b"), ("Concat", "a b", "end")]
    bounds = {"a": (-1.0, 3.0), "b": (-2.0, 4.0), "end": (-2.0, 4.0)}
    assert join_ranges(graph(*rows), bounds)["a"] == (-1.0, 3.0)
    alone = [("Conv", "x w", "a"), ("Conv", "x v", "b"), ("Concat", "a b", "end")]
    assert join_ranges(graph(*alone), bounds)["a"] == (-2.0, 4.0)
    assert join_ranges(graph(*alone, outputs="a end"), bounds)["a"] == (-1.0, 3.0)


@pytest.mark.parametrize("kind", ["MaxPool", "Transpose", "Slice"])
def test_j1_what_moves_values_keeps_its_inputs_grid(kind: str) -> None:
    rows = [("Conv", "x w", "c"), (kind, "c", "a"), ("Relu", "x", "b"), ("Concat", "a b", "end")]
    bounds = {"c": (0.0, 3.0), "a": (0.0, 3.0), "b": WHOLE, "end": WHOLE}
    assert join_ranges(graph(*rows), bounds) == bounds


def test_j2_a_relu_does_its_work_by_the_end_of_its_grid() -> None:
    rows = [("Relu", "x", "a"), ("Conv", "x w", "b"), ("Concat", "a b", "end")]
    bounds = {"a": (0.0, 3.0), "b": (-2.0, 4.0), "end": (-2.0, 4.0)}
    assert join_ranges(graph(*rows), bounds)["a"] == (0.0, 3.0)


@pytest.mark.parametrize(("whole", "wanted"), [((0.0, 6.0), (0.0, 6.0)), (WHOLE, (0.0, 5.999))])
def test_j2_a_clip_too(whole: tuple[float, float], wanted: tuple[float, float]) -> None:
    rows = [("Clip", "x lo hi", "a"), ("Conv", "x w", "b"), ("Concat", "a b", "end")]
    bounds = {"a": (0.0, 5.999), "b": (0.0, 1.0), "end": whole}
    assert join_ranges(graph(*rows), bounds)["a"] == wanted


def test_a_concat_of_a_concat_hands_its_range_down() -> None:
    rows = [("Conv", "x w", "a"), ("Conv", "x v", "b"), ("Concat", "a b", "c")]
    rows += [("Conv", "x u", "d"), ("Concat", "c d", "end")]
    bounds = {"a": (0.0, 1.0), "b": (0.0, 2.0), "c": (0.0, 2.0), "d": WHOLE, "end": WHOLE}
    assert join_ranges(graph(*rows), bounds) == dict.fromkeys(bounds, WHOLE)


def test_a_tensor_without_a_range_is_left_out() -> None:
    assert join_ranges(FIRE, {"end": WHOLE}) == {"end": WHOLE}
    assert join_ranges(FIRE, {"ra": (0.0, 3.0)}) == {"ra": (0.0, 3.0)}


@pytest.mark.parametrize(
    ("kind", "reach"), [("Sigmoid", (0.0, 255 / 256)), ("Tanh", (-1.0, 127 / 128))]
)
def test_j4_what_litert_has_one_scale_for(kind: str, reach: tuple[float, float]) -> None:
    rows = [("Conv", "x w", "c"), (kind, "c", "s"), ("Flatten", "s", "f"), ("Relu", "f", "end")]
    bounds = {"c": (-1.0, 1.0), "s": (0.1, 0.4), "f": (0.1, 0.4), "end": (0.1, 0.4)}
    assert join_ranges(graph(*rows), bounds) == {**bounds, "s": reach, "f": reach}
    assert quant_params(*reach, "uint8").scale in (1 / 256, 1 / 128)


def test_j4_comes_before_j1() -> None:
    rows = [("Sigmoid", "x", "a"), ("Conv", "x w", "b"), ("Concat", "a b", "end")]
    bounds = {"a": (0.1, 0.4), "b": (0.0, 3.0), "end": WHOLE}
    assert join_ranges(graph(*rows), bounds) == {"a": (0.0, 255 / 256), "b": WHOLE, "end": WHOLE}
