"""What is written in other operators for onnx2tf and TensorFlow Lite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from torchopt2edge.converter import Environment, convert
from torchopt2edge.converter.rewrite import fuse_gelu, spell_norms

NUMBERS = {"root": 2**0.5, "inverse": 0.5**0.5, "one": 1.0, "half": 0.5, "two": 2.0}
ERF = ["v = Div(x, root)", "e = Erf(v)", "a = Add(e, one)"]
FORMS = {
    "x · (½ · a)": [*ERF, "m = Mul(half, a)", "y = Mul(x, m)"],
    "(x · a) · ½": [*ERF, "m = Mul(a, x)", "y = Mul(m, half)"],
    "(x · ½) · a": ["h = Mul(x, half)", *ERF, "y = Mul(h, a)"],
    "a product inside": ["v = Mul(inverse, x)", *ERF[1:], "m = Mul(a, half)", "y = Mul(m, x)"],
}
OTHERS = {
    "another constant": ["v = Div(x, two)", *FORMS["x · (½ · a)"][1:]],
    "a constant divided": ["v = Div(root, x)", *FORMS["x · (½ · a)"][1:]],
    "another factor": [*ERF, "m = Mul(two, a)", "y = Mul(x, m)"],
    "another source": [*ERF, "z = Neg(x)", "m = Mul(half, a)", "y = Mul(z, m)"],
    "a second reader": [*ERF, "m = Mul(half, a)", "n = Mul(x, m)", "y = Add(n, e)"],
    "an end inside": [*ERF, "y = Mul(half, a)"],
}


def model(lines: list[str], opset: int = 18) -> onnx.ModelProto:
    """Return the graph x → y of these nodes over a convolution-like batch."""
    nodes = []
    for line in ["x = Tanh(given)", *lines]:
        output, _, call = line.partition(" = ")
        kind, _, given = call.rstrip(")").partition("(")
        nodes.append(helper.make_node(kind, given.split(", "), [output], name=output))
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 8, 8]) for n in ("given", "y")
    ]
    held = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in NUMBERS.items()]
    body = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_order_of_the_factors_is_a_gelu(form: list[str]) -> None:
    proto = model(form)
    assert fuse_gelu(proto) == 1
    assert [node.op_type for node in proto.graph.node] == ["Tanh", "Gelu"]
    assert list(proto.graph.node[1].output) == ["y"]
    onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize("form", OTHERS.values(), ids=OTHERS)
def test_what_is_no_gelu_stays(form: list[str]) -> None:
    proto = model(form)
    before = proto.SerializeToString()
    assert fuse_gelu(proto) == 0
    assert proto.SerializeToString() == before


def test_constants_that_are_nodes_count() -> None:
    proto = model(FORMS["x · (½ · a)"])
    kept = [helper.make_node("Constant", [], [t.name], value=t) for t in proto.graph.initializer]
    del proto.graph.initializer[:]
    nodes = [*kept, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert fuse_gelu(proto) == 1


def test_litert_has_it(tmp_path: Path, env: Environment) -> None:
    """As in ViT and ConvNeXt: exact GELU had no file at all, for want of Erf."""
    proto = model([*FORMS["x · (½ · a)"][:-1], "g = Mul(x, m)", "y = Add(g, two)"])
    onnx.save(proto, tmp_path / "gelu.onnx")
    made = convert(tmp_path / "gelu.onnx", tmp_path / "gelu.tflite", env=env)
    assert made.parity_db > 100


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("kind", ["ReduceL1", "ReduceL2"])
def test_a_norm_becomes_a_sum(kind: str, keepdims: int, tmp_path: Path, env: Environment) -> None:
    """As `torch.nn.functional.normalize` has it, at the end of every embedding."""
    proto = model(["y = Neg(x)"])
    norm = helper.make_node(kind, ["x", "axes"], ["y"], name="norm", keepdims=keepdims)
    proto.graph.node[1].CopyFrom(norm)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    shape = proto.graph.output[0].type.tensor_type.shape
    shape.dim[1].dim_value = 1
    if not keepdims:
        del shape.dim[1]
    written = onnx.ModelProto()
    written.CopyFrom(proto)
    assert spell_norms(written) == 1
    onnx.checker.check_model(written, full_check=True)
    onnx.save(proto, tmp_path / "norm.onnx")
    made = convert(tmp_path / "norm.onnx", tmp_path / "norm.tflite", env=env)
    assert made.parity_db > 100


@pytest.mark.parametrize(
    ("mode", "nearest", "transformation"),
    [
        ("linear", "floor", "align_corners"),
        ("linear", "floor", "half_pixel"),
        ("linear", "floor", "asymmetric"),
        ("nearest", "floor", "asymmetric"),
    ],
)
def test_resize_keeps_its_coordinates(
    mode: str, nearest: str, transformation: str, tmp_path: Path, env: Environment
) -> None:
    """onnx2tf 1.x takes every Resize of opset 18 for half_pixel if it is let."""
    proto = model(["y = Neg(x)"])
    how = {"mode": mode, "nearest_mode": nearest, "coordinate_transformation_mode": transformation}
    proto.graph.node[1].CopyFrom(helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **how))
    sizes = numpy_helper.from_array(np.array([1, 4, 20, 20]), "sizes")
    proto.graph.initializer.append(sizes)
    for axis in (2, 3):
        proto.graph.output[0].type.tensor_type.shape.dim[axis].dim_value = 20
    onnx.save(proto, tmp_path / "resize.onnx")
    made = convert(tmp_path / "resize.onnx", tmp_path / "resize.tflite", env=env)
    assert made.parity_db > 90
