"""What the converter is fed: float, static, in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from torchopt2edge.converter import with_static_batch
from torchopt2edge.converter.graph import write_private_copy
from torchopt2edge.errors import ConverterError


def model(*shape: int | str | None) -> onnx.ModelProto:
    """Return a graph y = relu(x) with this input shape, and another input of the same batch."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y")]
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Add", ["r", "w"], ["y"])]
    weight = numpy_helper.from_array(np.arange(4096, dtype=np.float32).reshape(1, 1, 1, -1), "w")
    return helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]))


def dims(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("batch", ["batch", None, 0])
def test_a_free_batch_becomes_one(batch: str | int | None) -> None:
    source = model(batch, 3, 1, 4096)
    before = source.SerializeToString()
    fixed = with_static_batch(source)
    assert dims(fixed.graph.input[0]) == [1, 3, 1, 4096]
    assert dims(fixed.graph.output[0]) == [1, 3, 1, 4096]
    assert source.SerializeToString() == before


def test_a_fixed_batch_stays() -> None:
    assert dims(with_static_batch(model(4, 3, 1, 4096)).graph.input[0]) == [4, 3, 1, 4096]


def test_a_free_size_is_refused() -> None:
    with pytest.raises(ConverterError, match=r"Dimension 2 of input x is free.*fixed input size"):
        with_static_batch(model("batch", 3, "height", 4096))


def test_external_weights_are_carried(tmp_path: Path) -> None:
    source, target = tmp_path / "a" / "m.onnx", tmp_path / "b" / "m.onnx"
    source.parent.mkdir()
    target.parent.mkdir()
    onnx.save(model("n", 3, 1, 4096), source, save_as_external_data=True, location="w.bin")
    assert (tmp_path / "a" / "w.bin").exists()
    write_private_copy(source, target)
    (weight,) = onnx.load(target).graph.initializer
    assert numpy_helper.to_array(weight).sum() == 4095 * 4096 / 2


def test_what_is_not_onnx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"certainly not a model")
    with pytest.raises(ConverterError, match="cannot be read"):
        write_private_copy(path, tmp_path / "copy.onnx")
    with pytest.raises(ConverterError, match="cannot be read"):
        write_private_copy(tmp_path / "missing.onnx", tmp_path / "copy.onnx")
