"""What is said of a file is read off it: shares by nodes left out, formats by what is inside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.backends.conftest import Lower
from tests.quantize.graphs import floats, graph, run, saved
from torchopt2edge.backends.ort.backend import Ort
from torchopt2edge.backends.ort.inspect import read_back, scheme_of, unsigned
from torchopt2edge.interfaces import Sources
from torchopt2edge.quantize.graph.macs import macs_of
from torchopt2edge.types import SCHEMES

Given = Callable[[str, str], Sources]
INT8 = SCHEMES["int8"]


def test_a_net_that_is_all_integer(lowered: Lower) -> None:
    facts = lowered("tiny", "ort", "int8").facts
    assert facts["int8_macs"] == 100.0
    assert facts["integer_ops"]["QLinearConv"] == 4
    assert facts["integer_ops"]["QGemm"] == 1
    assert facts["float_ops"] == {}
    assert (facts["unfused_qdq"], facts["excluded"]) == (0, [])
    assert facts["facts_host"]


def test_a_float_island_is_counted(lowered: Lower) -> None:
    facts = lowered("two", "ort", "int8").facts
    assert facts["int8_macs"] == 100.0
    assert facts["float_ops"] == {"HardSwish": 1}
    assert facts["unfused_qdq"] == 1


@pytest.mark.parametrize("isa", ["x86-vnni", "arm64"])
def test_an_excluded_layer_takes_its_share_along(isa: str, sources: Given, tmp_path: Path) -> None:
    given = sources("tiny", "ort")
    proto = onnx.load(given.graph.path / "model.onnx")
    macs = macs_of(proto)
    weights = {w.name for w in proto.graph.initializer if w.data_type == onnx.TensorProto.FLOAT}
    for name, count in macs.items():
        assert given.ranges is not None
        ranges = dataclasses.replace(given.ranges, excluded=(name,))
        out = tmp_path / str(count)
        out.mkdir(exist_ok=True)
        facts = Ort(isa=isa).lower(dataclasses.replace(given, ranges=ranges), INT8, out)
        left = 100 * (1 - count / sum(macs.values()))
        assert facts["int8_macs"] == pytest.approx(left, abs=1e-3)
        assert facts["excluded"] == [name]
        node = next(node for node in proto.graph.node if node.name == name)
        assert facts["float_ops"].pop(node.op_type) == 1
        assert set(facts["float_ops"]) <= {"Clip"}, "its own, no longer in a rounding"
        held = {w.name for w in onnx.load(out / "model.onnx").graph.initializer}
        assert held & weights >= {node.input[1]}


def test_an_excluded_name_that_is_not_there_is_not_listed(sources: Given, tmp_path: Path) -> None:
    given = sources("tiny", "ort")
    assert given.ranges is not None
    ranges = dataclasses.replace(given.ranges, excluded=("nobody",))
    facts = Ort().lower(dataclasses.replace(given, ranges=ranges), INT8, tmp_path)
    assert (facts["excluded"], facts["int8_macs"]) == ([], 100.0)


def test_a_net_without_layers(tmp_path: Path) -> None:
    text = "(float[n,3,8,8] x) => (float[n,3,8,8] y) { y = Relu(x) }"
    file = saved(graph(text), tmp_path / "model.onnx")
    facts = read_back(onnx.load(file), macs_of(onnx.load(file)))
    assert (facts["int8_macs"], facts["integer_ops"]) == (0.0, {})
    assert scheme_of(onnx.load(file)) == "fp32"


def test_the_unsigned_twin_computes_the_same(sources: Given, tmp_path: Path) -> None:
    """Every code is 128 higher, and so is every zero point; constants of light nodes too."""
    given = sources("two", "ort")
    Ort(isa="arm64").lower(given, INT8, tmp_path)
    signed = onnx.load(tmp_path / "model.onnx")
    twin = unsigned(signed)
    onnx.checker.check_model(twin, full_check=True)
    inputs = {"image": floats(2, 3, 16, 16), "meta": floats(2, 6)}
    one, two = run(signed, inputs), run(twin, inputs)
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
    types = {w.data_type for w in twin.graph.initializer if not w.dims}
    assert onnx.TensorProto.INT8 not in types
