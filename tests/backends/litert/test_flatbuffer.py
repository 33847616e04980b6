"""Reading a float .tflite that the real converter wrote, and what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from torchopt2edge.backends.litert.flatbuffer import activation_values, extremes, read_graph
from torchopt2edge.errors import LowerError
from torchopt2edge.types import Artifact


def test_operators_and_activations(tiny_tflite: Artifact) -> None:
    graph = read_graph(tiny_tflite.path / "model.tflite")
    kinds = {op.kind for op in graph.ops}
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "CONCATENATION", "MEAN"} <= kinds
    made = {name for op in graph.ops for name in op.outputs}
    assert made < set(graph.activations.values()), "the inputs are activations too"
    assert len(set(graph.activations.values())) == len(graph.activations)


def test_tensors_are_described_as_the_file_holds_them(tiny_tflite: Artifact) -> None:
    graph = read_graph(tiny_tflite.path / "model.tflite")
    first = next(op for op in graph.ops if op.kind == "CONV_2D")
    given, weights, bias = first.given
    assert given is not None
    assert given.data is None
    assert weights is not None
    assert weights.data is not None
    assert weights.data.shape == weights.shape == (32, 3, 3, 3)
    assert bias is not None
    assert bias.data is not None
    assert np.isfinite(bias.data).all()
    assert {t.dtype for t in (given, weights, bias, *first.made)} == {"float32"}
    assert not weights.scales
    (end,) = graph.outputs
    assert end.shape == (1, 10)


def test_values_and_their_extremes(tiny_tflite: Artifact) -> None:
    file = tiny_tflite.path / "model.tflite"
    graph = read_graph(file)
    rng = np.random.default_rng(0)
    (name,) = (name for name in graph.activations.values() if "image" in name)
    samples = [rng.standard_normal((1, 32, 32, 3)).astype(np.float32) for _ in range(3)]
    values = list(activation_values(file, graph, iter([{"image": sample} for sample in samples])))
    assert [set(value) for value in values] == [set(graph.activations.values())] * 3
    for sample, value in zip(samples, values, strict=True):
        np.testing.assert_array_equal(value[name], sample)
    low, high = extremes(iter(values), {name})[name]
    assert (low, high) == (float(np.min(samples)), float(np.max(samples)))


@pytest.mark.parametrize(
    "content",
    [b"", b"TFL3", b"not a tflite", b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64, bytes(4) + b"TFL3"],
    ids=["empty", "magic", "text", "damaged", "cut"],
)
def test_a_file_that_is_no_tflite(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.tflite"
    file.write_bytes(content)
    with pytest.raises(LowerError, match=r"(not a|damaged) \.tflite"):
        read_graph(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LowerError, match=r"not a \.tflite"):
        read_graph(tmp_path / "absent.tflite")
