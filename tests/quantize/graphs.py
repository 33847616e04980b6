"""Small ONNX graphs written as text, and what ONNX Runtime says that they compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser

from torchopt2edge.samples.calibration_set import Samples, write_samples
from torchopt2edge.types import TensorSpec

Arrays = dict[str, np.ndarray]


def graph(text: str, weights: Arrays | None = None, opset: int = 18) -> onnx.ModelProto:
    """Parse ``(inputs) => (outputs) { nodes }`` and add the weights."""
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\ng {text}')
    for name, value in (weights or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.checker.check_model(proto)
    return proto


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    """Write the graph and return its path."""
    onnx.save(proto, path)
    return path


def kinds(proto: onnx.ModelProto) -> list[str]:
    """Name the operators, in order."""
    return [node.op_type for node in proto.graph.node]


def run(proto: onnx.ModelProto, inputs: Arrays) -> Arrays:
    """Compute the outputs with ONNX Runtime, the graph taken as it is."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options)
    names = [value.name for value in proto.graph.output]
    return dict(zip(names, session.run(names, inputs), strict=True))


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    """Return normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def norm(channels: int, name: str) -> Arrays:
    """Return a BatchNormalization's four vectors, none of them trivial."""
    scale, bias, mean = (floats(channels, seed=seed) for seed in range(3))
    variance = np.abs(floats(channels, seed=3)) + np.float32(0.5)
    return dict(
        zip(
            (f"{name}s", f"{name}b", f"{name}m", f"{name}v"),
            (scale, bias, mean, variance),
            strict=True,
        )
    )


def kept(arrays: Arrays, folder: Path, batch: int | None = None) -> Samples:
    """Write calibration samples, given in batches of that size."""
    folder.mkdir(parents=True, exist_ok=True)
    specs = [TensorSpec(name, (-1, *array.shape[1:])) for name, array in arrays.items()]
    count = len(next(iter(arrays.values())))
    size = batch or count
    items = [{n: a[at : at + size] for n, a in arrays.items()} for at in range(0, count, size)]
    write_samples(items, specs, count, "calibration", folder)
    return Samples(folder)
