"""What the tests of the simulation share: ranges by hand, and ONNX Runtime's own int8 file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from tests.quantize.graphs import Arrays, graph, saved
from torchopt2edge.quantize.graph.activations import activations, with_outputs
from torchopt2edge.quantize.graph.host_session import host_session
from torchopt2edge.samples.calibration_set import Samples, write_samples
from torchopt2edge.types import Manifest, Ranges, TensorSpec


def inferred(text: str, weights: Arrays, path: Path, opset: int = 18) -> Path:
    """Write a graph whose nodes are named after what they make, with inferred shapes."""
    proto = graph(text, weights, opset)
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
    return saved(onnx.shape_inference.infer_shapes(proto), path)


def samples_of(arrays: Arrays, folder: Path) -> Samples:
    """Keep samples of any dtype."""
    folder.mkdir(parents=True)
    specs = [
        TensorSpec(name, (-1, *array.shape[1:]), str(array.dtype)) for name, array in arrays.items()
    ]
    write_samples([dict(arrays)], specs, len(next(iter(arrays.values()))), "calibration", folder)
    return Samples(folder)


def values_of(file: Path, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """Compute every float activation."""
    proto = onnx.load(file)
    names = [name for name in activations(proto) if name not in inputs]
    found = host_session(with_outputs(proto, names)).run(names, dict(inputs))
    given = {name: value for name, value in inputs.items() if name in activations(proto)}
    return {**given, **dict(zip(names, found, strict=True))}


def ranges_of(file: Path, inputs: Mapping[str, np.ndarray], part: float = 100.0) -> Ranges:
    """Return the extremes of every activation, or the percentiles that hold ``part`` of it."""
    tail = (100.0 - part) / 2
    bounds = {
        name: (float(np.percentile(value, tail)), float(np.percentile(value, 100 - tail)))
        for name, value in values_of(file, inputs).items()
    }
    return Ranges(bounds, "calibrated:percentile", Manifest("calibration", ()))
