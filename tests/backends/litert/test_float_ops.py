"""Which operators of a .tflite stay in float, on planted graphs."""

from __future__ import annotations

import onnx

from tests.backends.litert.test_op_map import onnx_graph, tflite_graph
from torchopt2edge.backends.litert.float_ops import Floats, floats_of
from torchopt2edge.backends.litert.tensor_map import Transfer

NET = onnx_graph(
    ("Conv", "x w", "c"), ("Elu", "c", "e"), ("Reshape", "e w", "t"), ("Conv", "t w", "d")
)
FILE = tflite_graph(
    ("CONV_2D", "X", "C"), ("ELU", "C", "E"), ("RESHAPE", "E", "T"), ("CONV_2D", "T", "D")
)
TWINS = {"X": ("x",), "C": ("c",), "E": ("e", "t"), "T": ("e", "t"), "D": ("d",)}


def floats(*excluded: str) -> Floats:
    """Find the float operators of the planted pair of files."""
    typed = onnx.ModelProto()
    typed.CopyFrom(NET)
    info = onnx.helper.make_tensor_value_info
    typed.graph.value_info.extend(info(name, onnx.TensorProto.FLOAT, None) for name in "cet")
    return floats_of(typed, FILE, TWINS, excluded)


def test_f1_what_is_excluded() -> None:
    found = floats("d")
    assert [op.outputs for op in found.excluded["d"]] == [("D",)]
    assert [op.kind for op in found.ops] == ["ELU", "RESHAPE", "CONV_2D"]


def test_f2_and_f3_a_float_operator_and_what_moves_its_output() -> None:
    assert [op.kind for op in floats().ops] == ["ELU", "RESHAPE"]


def test_f2_what_went_into_a_layer_goes_with_it() -> None:
    fused = tflite_graph(("CONV_2D", "X", "E"), ("RESHAPE", "E", "T"), ("CONV_2D", "T", "D"))
    assert floats_of(NET, fused, TWINS, ()).ops == ()


def test_ranges_are_told_of_tensors_that_are_rounded() -> None:
    bounds = dict.fromkeys("XCETD", (0.0, 1.0))
    told = floats().rounded(Transfer(bounds, TWINS, (), ("E",)))
    assert set(told.bounds) == {"X", "C", "T", "D"}
    assert told.calibrated == ()
