"""The same raw images reach the model as the same bits, whoever runs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from tests.backends.conftest import CASES, Lower
from torchopt2edge.backends.ort.backend import Ort
from torchopt2edge.backends.torch_cpu import TorchCpu
from torchopt2edge.evaluation.score import score
from torchopt2edge.preprocessing.preprocess import Preprocess
from torchopt2edge.samples.calibration_set import Samples, write_samples
from torchopt2edge.samples.raw_images import with_preprocess
from torchopt2edge.types import Signature, TensorSpec

HOW = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=36, crop=(32, 32))
PHOTOS = np.random.default_rng(3).integers(0, 256, (4, 40, 50, 3), dtype=np.uint8)
MADE = HOW(PHOTOS)
SHAPE = (-1, 3, 32, 32)
SCALE, ZERO = 4.7 / 255, -13


class Same(torch.nn.Module):
    """Gives its input back."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Copy."""
        return image.clone()


def signature(dtype: str = "float32", scale: float | None = None) -> Signature:
    """Describe a file that gives its input back, and how that is made of a raw image."""
    zero = None if scale is None else ZERO
    one = TensorSpec("image", SHAPE, "float32", "x", dtype, None, scale, zero)
    return with_preprocess(Signature((one,), (replace(one, name="y", file_name="y"),)), HOW)


def same(file: Path, kind: int) -> Path:
    """Write an ONNX that gives its input back."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "same",
        [value("x", kind, ["n", *SHAPE[1:]])],
        [value("y", kind, ["n", *SHAPE[1:]])],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), file)
    return file


def test_torch(tmp_path: Path) -> None:
    free = torch.export.Dim("n")
    program = torch.export.export(Same(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: free},))
    torch.export.save(program, tmp_path / "model.pt2")
    found = TorchCpu().open(tmp_path / "model.pt2", signature(), 1)({"image": PHOTOS})
    assert found["y"].tobytes() == MADE.tobytes()
    module = Same()(torch.from_numpy(HOW(PHOTOS)))
    assert module.numpy().tobytes() == MADE.tobytes()


def test_onnx_runtime(tmp_path: Path) -> None:
    file = same(tmp_path / "same.onnx", TensorProto.FLOAT)
    found = Ort().open(file, signature(), 1)({"image": PHOTOS})
    assert found["y"].tobytes() == MADE.tobytes()


@pytest.mark.parametrize(("dtype", "kind"), [("int8", "INT8"), ("uint8", "UINT8")])
def test_a_file_with_integer_inputs(dtype: str, kind: str, tmp_path: Path) -> None:
    """It gets what ONNX Runtime's own QuantizeLinear makes of the preprocessed images."""
    zero = ZERO if dtype == "int8" else ZERO + 128
    told = signature(dtype, SCALE)
    told = Signature(
        tuple(replace(spec, zero_point=zero) for spec in told.inputs),
        tuple(replace(spec, zero_point=zero) for spec in told.outputs),
    )
    file = same(tmp_path / "same.onnx", getattr(TensorProto, kind))
    session = Ort().open(file, told, 1)
    inside = session.run(session.prepare({"image": PHOTOS}))["y"]
    np.testing.assert_array_equal(inside, quantized(MADE, zero, dtype))
    assert len(np.unique(inside)) > 200
    found = session({"image": PHOTOS})["y"]
    assert np.abs(found - MADE).max() <= SCALE / 2 * 1.001


def quantized(array: np.ndarray, zero: int, dtype: str) -> np.ndarray:
    """Quantize in ONNX Runtime."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])],
        "quantize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, array.shape)],
        [helper.make_tensor_value_info("y", kind, array.shape)],
        [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [SCALE]),
            helper.make_tensor("zero", kind, [], [zero]),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    made: np.ndarray = session.run(None, {"x": array})[0]
    return made


def test_calibration(tmp_path: Path) -> None:
    write_samples(
        [PHOTOS[:1], PHOTOS[1], PHOTOS[2:]], signature().inputs, 4, "calibration", tmp_path
    )
    (batch,) = Samples(tmp_path).batches(9)
    assert batch["image"].tobytes() == MADE.tobytes()


@pytest.mark.parametrize(("backend", "scheme"), CASES)
def test_every_file_takes_raw_images(backend: str, scheme: str, lowered: Lower) -> None:
    made = lowered("tiny", backend, scheme)
    session = replace(made, signature=with_preprocess(made.signature, HOW)).open()
    raw, ready = session.prepare({"image": PHOTOS[:1]}), session.prepare({"image": MADE[:1]})
    assert {name: one.tobytes() for name, one in raw.items()} == {
        name: one.tobytes() for name, one in ready.items()
    }
    np.testing.assert_array_equal(
        *(session({"image": images})[session.output_names[0]] for images in (PHOTOS, MADE))
    )


def test_raw_images_are_scored(lowered: Lower) -> None:
    made = lowered("tiny", "ort", "fp32")
    told = with_preprocess(made.signature, HOW)
    session = replace(made, signature=told).open()
    labels = session({"image": MADE})[session.output_names[0]].argmax(axis=1)
    labels[0] += 1
    found = score(session, [(PHOTOS[:3], labels[:3]), (PHOTOS[3:], labels[3:])], told.inputs)
    assert found.metrics["top1"] == 75.0
    assert found.facts["correct"] == "0111"
