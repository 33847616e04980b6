"""Which operators of a .tflite stay in float, on planted graphs."""

from __future__ import annotations

from pathlib import Path

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


def floats(folder: Path, *excluded: str) -> Floats:
    """Find the float operators of the planted pair of files."""
    typed = onnx.ModelProto()
    typed.CopyFrom(NET)
    info = onnx.helper.make_tensor_value_info
    typed.graph.value_info.extend(info(name, onnx.TensorProto.FLOAT, None) for name in "cet")
    onnx.save(typed, folder / "net.onnx")
    return floats_of(folder / "net.onnx", FILE, TWINS, excluded)


def test_f1_what_is_excluded(tmp_path: Path) -> None:
    found = floats(tmp_path, "d")
    assert [op.outputs for op in found.excluded["d"]] == [("D",)]
    assert [op.kind for op in found.ops] == ["ELU", "RESHAPE", "CONV_2D"]


def test_f2_and_f3_an_island_and_what_moves_its_floats(tmp_path: Path) -> None:
    assert [op.kind for op in floats(tmp_path).ops] == ["ELU", "RESHAPE"]


def test_f2_what_went_into_a_layer_goes_with_it(tmp_path: Path) -> None:
    fused = tflite_graph(("CONV_2D", "X", "E"), ("RESHAPE", "E", "T"), ("CONV_2D", "T", "D"))
    onnx.save(NET, tmp_path / "net.onnx")
    assert floats_of(tmp_path / "net.onnx", fused, TWINS, ()).ops == ()


def test_ranges_are_told_of_tensors_that_are_rounded(tmp_path: Path) -> None:
    bounds = dict.fromkeys("XCETD", (0.0, 1.0))
    told = floats(tmp_path).rounded(Transfer(bounds, TWINS, (), ("E",)))
    assert set(told.bounds) == {"X", "C", "T", "D"}
    assert told.calibrated == ()
