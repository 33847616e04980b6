"""Learned ranges, carried over to the prepared graph and completed by calibrated ones."""

from __future__ import annotations

from pathlib import Path

from tests.quantize.graphs import graph
from tests.quantize.test_qdq_reader import quantized
from torchopt2edge.quantize.graph.prepare import prepared
from torchopt2edge.quantize.qat_ranges import carry, learned, merge, unquantize
from torchopt2edge.types import Manifest, Ranges


def test_a_users_file_becomes_a_float_file_and_ranges(tmp_path: Path):
    proto, ranges = unquantize(quantized())
    assert ranges.origin == "learned:qat"
    proto = prepared(proto, tmp_path / "q.onnx")
    kept = carry(ranges, proto)
    names = {name for node in proto.graph.node for name in node.output}
    assert kept.bounds.keys() >= names - {"y"}
    assert kept.bounds["c"] == kept.bounds["r"]  # fused
    assert kept.bounds["s"] == kept.bounds["m"] == kept.bounds["j"]  # joined, moved


def test_padding_by_its_own_values_keeps_the_range():
    text = "(float[1,1,4,4] x) => (float[1,1,6,6] y) "
    text += "<int64[8] p = {0,0,1,1,0,0,1,1}, float v = {7}> "
    reflected = graph(text + '{ y = Pad<mode="reflect">(x, p) }')
    constant = graph(text + "{ y = Pad(x, p, v) }")
    ranges = learned({"x": (-1.0, 2.0)})
    assert carry(ranges, reflected).bounds["y"] == (-1.0, 2.0)
    assert "y" not in carry(ranges, constant).bounds


def test_learned_and_calibrated_are_merged():
    first = Ranges({"a": (0.0, 1.0)}, "learned:qat", Manifest("train", (), seed=3))
    second = Ranges(
        {"a": (0.0, 9.0), "b": (-1.0, 2.0)},
        "calibrated:mse",
        Manifest("calibration", ("1", "2")),
        ("node",),
        {"instability": 0.5},
    )
    both = merge(first, second)
    assert both.bounds == {"a": (0.0, 1.0), "b": (-1.0, 2.0)}
    assert (both.origin, both.excluded) == ("learned:qat", ("node",))
    assert both.manifest.hashes == ("1", "2")
    assert both.facts == {
        "instability": 0.5,
        "learned": 1,
        "calibrated": ["b"],
        "calibrated_by": "calibrated:mse",
    }
