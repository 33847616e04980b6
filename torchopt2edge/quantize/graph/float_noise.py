"""Measure how far float32 itself moves the outputs of a model.

An ill-conditioned model multiplies the rounding of its kernels, and kernels of bounded functions
(Sigmoid, Softmax, Tanh) are exact to a part of their full scale, not of a small result. So every
weight and input is moved by a few units in the last place, the output of every bounded function by
as much of its full scale, and the outputs are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.quantize.graph.host_session import host_session
from torchopt2edge.stats.noise import Noise

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

Array = np.ndarray[Any, Any]

UNIT = 2.0**-22  # two roundings of float32
BOUNDED = frozenset("Sigmoid HardSigmoid Softmax Tanh Erf LogSoftmax".split())


def float_noise(model: ModelProto, batches: Sequence[Mapping[str, Array]]) -> Noise:
    """Measure the noise of a float ONNX model.

    Args:
        model: any graph that ONNX Runtime opens.
        batches: inputs by name, each a batch that the graph takes.
    """
    rng = np.random.default_rng(0)
    plain, moved = host_session(model, optimize=False), host_session(_moved(model, rng))
    names = [value.name for value in plain.get_outputs()]
    squares: dict[str, list[float]] = {}
    for batch in batches:
        want = plain.run(names, dict(batch))
        found = moved.run(names, {name: _shaken(value, rng) for name, value in batch.items()})
        for name, one, other in zip(names, want, found, strict=True):
            if np.issubdtype(one.dtype, np.floating) and one.shape == other.shape and one.size:
                error = other.astype(np.float64) - one
                square = np.square(error[np.isfinite(error)])
                squares.setdefault(name, []).append(float(square.mean()) if square.size else 0.0)
    return Noise({name: float(np.sqrt(np.mean(found))) for name, found in squares.items()})


def _moved(model: ModelProto, rng: np.random.Generator) -> ModelProto:
    """Return a copy with every float weight and every bounded function's output moved."""
    from onnx import TensorProto, helper, numpy_helper

    copy = type(model)()
    copy.CopyFrom(model)
    for weight in copy.graph.initializer:
        # Vectors stay: among them are scales of a Resize, which decide a shape.
        if weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1:
            _replace(weight, _shaken(numpy_helper.to_array(weight), rng))
    graph, nodes = copy.graph, []
    for at, node in enumerate(graph.node):
        nodes.append(node)
        if node.op_type in BOUNDED and node.domain in ("", "ai.onnx"):
            target, inner = node.output[0], f"{node.output[0]}/bounded{at}"
            node.output[0] = inner
            nodes.append(helper.make_node("Add", [inner, "float_noise_unit"], [target]))
    if len(nodes) > len(graph.node):
        unit = numpy_helper.from_array(np.asarray(UNIT, np.float32), "float_noise_unit")
        graph.initializer.append(unit)
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)
    return copy


def _replace(weight: TensorProto, values: Array) -> None:
    from onnx import numpy_helper

    weight.CopyFrom(numpy_helper.from_array(np.asarray(values), weight.name))


def _shaken(value: Array, rng: np.random.Generator) -> Array:
    """Move every float up or down by a share of itself; integers stay."""
    if not np.issubdtype(value.dtype, np.floating):
        return value
    signs = rng.integers(0, 2, value.shape) * 2 - 1
    return np.asarray(value * (1.0 + UNIT * signs)).astype(value.dtype)
