"""Each scheme of LiteRT is what its label says, read back from the file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from tests.backends.conftest import Lower
from torchopt2edge.backends.litert.backend import LiteRT
from torchopt2edge.backends.litert.flatbuffer import Op, Tensor, TfliteGraph, read_graph
from torchopt2edge.backends.litert.inspect import (
    check_label,
    facts_of,
    macs_of,
    partitions,
    plan_of,
)
from torchopt2edge.backends.litert.recipe import RECIPES, alive, numbers, quantize, recipe_of
from torchopt2edge.errors import LowerError
from torchopt2edge.evaluation.parity import parity
from torchopt2edge.interfaces import Sources
from torchopt2edge.types import SCHEMES, Artifact

FIND = Callable[[str, str], Sources]


@pytest.mark.parametrize("scheme", LiteRT.schemes)
@pytest.mark.parametrize("net", ["tiny", "two"])
def test_a_file_reads_as_what_it_was_made_as(net: str, scheme: str, lowered: Lower) -> None:
    found = lowered(net, "litert", scheme)
    assert LiteRT().read_scheme(found.file) == scheme
    assert found.facts["excluded"] == []
    assert json.loads(json.dumps(found.facts)) == found.facts


def test_what_computes_in_what(lowered: Lower) -> None:
    facts = {scheme: lowered("tiny", "litert", scheme).facts for scheme in LiteRT.schemes}
    ways = ("integer_ops", "hybrid_ops", "float_ops")
    shares = {scheme: found["int8_macs"] for scheme, found in facts.items()}
    assert shares["fp32"] == shares["fp16"] == shares["int8_weights"] == 0.0
    assert shares["int8"] == shares["int8_io"] == shares["int16x8"] == 100.0
    assert 90 < shares["int8_dynamic"] < 100, "the depthwise convolution stays in float"
    assert facts["int8_dynamic"]["hybrid_ops"] == {"CONV_2D": 3, "FULLY_CONNECTED": 1}
    assert facts["int8_dynamic"]["float_ops"]["DEPTHWISE_CONV_2D"] == 1
    for found in facts.values():
        total: dict[str, int] = {}
        for way in ways:
            for kind, count in found[way].items():
                total[kind] = total.get(kind, 0) + count
        assert total == facts["fp32"]["float_ops"], "every operator computes in something"


def test_smaller_numbers_make_smaller_files(lowered: Lower) -> None:
    order = ("fp32", "fp16", "int8_weights")
    large, half, small = (lowered("tiny", "litert", s).file.stat().st_size for s in order)
    assert large > half > small


def test_more_bits_are_nearer(lowered: Lower) -> None:
    def sqnr_db(scheme: str) -> float:
        found = lowered("tiny", "litert", scheme)
        return parity(found.reference(8), found.open()(found.inputs(8))).sqnr_db

    assert sqnr_db("fp32") > sqnr_db("fp16") > sqnr_db("int8_weights") > sqnr_db("int8")
    assert sqnr_db("int16x8") > sqnr_db("int8")


def test_int16_warns_of_its_kernels(lowered: Lower) -> None:
    (warning,) = lowered("tiny", "litert", "int16x8").facts["notes"]
    assert "reference kernels" in warning
    assert lowered("tiny", "litert", "int16x8").facts["partitions"] == 0
    assert lowered("tiny", "litert", "int8").facts["notes"] == []


# Partitions


def test_what_leaves_the_delegate_is_counted(lowered: Lower, tmp_path: Path) -> None:
    found = lowered("two", "litert", "int8")
    base = lowered("two", "litert", "fp32").file
    graph = read_graph(base)
    bounds = {name: (-4.0, 4.0) for name in graph.activations.values()}
    rules = [rule for rule in recipe_of("int8") if rule["operation"] != "HARD_SWISH"]
    quantize(base, rules, numbers(graph, bounds, "int8"), tmp_path / "x.tflite")
    # Why a hard-swish is left in float: XNNPACK has no integer kernel for it.
    assert partitions(plan_of(tmp_path / "x.tflite")) > found.facts["partitions"]


def test_a_depthwise_convolution_with_int8_weights_leaves_it_too(
    lowered: Lower, tmp_path: Path
) -> None:
    base = lowered("tiny", "litert", "fp32").file
    rules = [rule for rule in recipe_of("int8_dynamic") if rule["algorithm_key"] != "no_quantize"]
    quantize(base, rules, numbers(read_graph(base), {}, "int8_dynamic"), tmp_path / "x.tflite")
    kept = lowered("tiny", "litert", "int8_dynamic").facts["partitions"]
    assert partitions(plan_of(tmp_path / "x.tflite")) > kept


def test_a_file_that_kills_litert_is_an_error_and_not_our_end(
    lowered: Lower, tmp_path: Path
) -> None:
    """XNNPACK frees twice what it made where one scale is far beyond the next."""
    base = lowered("two", "litert", "fp32").file
    graph = read_graph(base)
    names = sorted(graph.activations.values())
    bounds = {name: (-1e-30, 1e-30) if at % 2 else (-1.0, 1.0) for at, name in enumerate(names)}
    quantize(base, recipe_of("int8"), numbers(graph, bounds, "int8"), tmp_path / "x.tflite")
    with pytest.raises(LowerError, match=r"LiteRT dies of this file \(SIG\w+\).*infinite, or huge"):
        plan_of(tmp_path / "x.tflite")


# The numbers: ranges and weights that were learned come back


def test_activations_get_the_given_ranges(sources: FIND, tmp_path: Path) -> None:
    given = sources("tiny", "litert")
    assert given.ranges is not None
    # One tensor may have several names (before and behind a Flatten): they keep one range.
    ends = {high: 0.7 + 0.05 * at for at, (_, high) in enumerate(given.ranges.bounds.values())}
    learned = {
        n: (ends[high] * low, ends[high] * high) for n, (low, high) in given.ranges.bounds.items()
    }
    ranges = dataclasses.replace(given.ranges, bounds=learned, origin="learned:qat")
    facts = LiteRT().lower(dataclasses.replace(given, ranges=ranges), SCHEMES["int8"], tmp_path)
    assert facts["ranges_origin"] == "learned:qat"
    wanted = {(high - min(low, 0.0)) / 255 for low, high in learned.values()}
    for op in read_graph(tmp_path / "model.tflite").ops:
        for tensor in op.made if op.kind in ("CONV_2D", "ADD", "CONCATENATION", "MEAN") else ():
            assert min(abs(tensor.scales[0] / scale - 1) for scale in wanted) < 1e-3, op.kind


@pytest.mark.parametrize("levels", [127, 100, 7])
def test_weights_on_a_grid_come_back_exactly(
    tiny_tflite: Artifact, tmp_path: Path, levels: int
) -> None:
    base = tmp_path / "float.tflite"
    trained = on_grid(tiny_tflite.path / "model.tflite", base, levels)
    graph = read_graph(base)
    bounds = {name: (-4.0, 4.0) for name in graph.activations.values()}
    quantize(base, recipe_of("int8"), numbers(graph, bounds, "int8"), tmp_path / "x.tflite")
    found = {t.name: t for op in read_graph(tmp_path / "x.tflite").ops for t in op.given if t}
    assert {len(value.shape) for value in trained.values()} == {2, 4}
    for name, wanted in trained.items():
        held = found[name]
        assert held.data is not None
        shape = [-1 if at == held.axis else 1 for at in range(wanted.ndim)]
        values = held.data * np.reshape(held.scales, shape)
        np.testing.assert_allclose(values, wanted, rtol=3e-7, err_msg=name)


def on_grid(source: Path, target: Path, levels: int) -> dict[str, np.ndarray]:
    """Put every layer's weights on a grid whose ends are ``levels`` steps away; return them.

    Each channel has a step of its own.
    """
    model = flatbuffer_utils.read_model(str(source))
    graph, rng, trained = model.subgraphs[0], np.random.default_rng(levels), {}
    for op in graph.operators:
        kind = model.operatorCodes[op.opcodeIndex].builtinCode
        axis = {schema.BuiltinOperator.DEPTHWISE_CONV_2D: 3}.get(kind, 0)
        if kind not in (
            schema.BuiltinOperator.CONV_2D,
            schema.BuiltinOperator.DEPTHWISE_CONV_2D,
            schema.BuiltinOperator.FULLY_CONNECTED,
        ):
            continue
        weights = graph.tensors[op.inputs[1]]
        made = rng.integers(-levels, levels + 1, weights.shape)
        first = np.moveaxis(made, axis, 0)
        first[(slice(None), *[0] * (made.ndim - 1))] = levels  # its largest magnitude
        shape = [-1 if at == axis else 1 for at in range(made.ndim)]
        steps = rng.uniform(1e-3, 1e-1, weights.shape[axis]).reshape(shape)
        values = (made * steps).astype(np.float32)
        model.buffers[weights.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
        trained[weights.name.decode()] = values
    flatbuffer_utils.write_model(model, str(target))
    return trained


def test_a_range_has_steps_and_holds_zero() -> None:
    assert alive(0.0, 0.0) == (0.0, 1.0)
    assert alive(2.0, 5.0) == (0.0, 5.0)
    assert alive(-5.0, -2.0) == (-5.0, 0.0)
    assert alive(-1.0, 3.0) == (-1.0, 3.0)


def test_tensors_that_were_never_activated(sources: FIND, tmp_path: Path) -> None:
    given = sources("tiny", "litert")
    assert given.ranges is not None
    dead = dict.fromkeys(given.ranges.bounds, (0.0, 0.0))
    ranges = dataclasses.replace(given.ranges, bounds=dead)
    facts = LiteRT().lower(dataclasses.replace(given, ranges=ranges), SCHEMES["int8"], tmp_path)
    assert facts["int8_macs"] == 100.0
    assert LiteRT().read_signature(tmp_path / "model.tflite").inputs


def test_a_bias_beside_weights_that_are_nearly_dead_fits() -> None:
    weights = Tensor("w", (2, 1, 1, 1), data=np.array([[[[1e-12]]], [[[1.0]]]], np.float32))
    bias = Tensor("b", (2,), data=np.array([3.0, 3.0], np.float32))
    graph = TfliteGraph((Op("CONV_2D", (Tensor("x"), weights, bias), (Tensor("y"),)),), {})
    ends = numbers(graph, {"x": (0.0, 2.55)}, "int8")["w"]["max"].ravel()
    assert 3.0 / (0.01 * ends[0] / 127) < 2**31 - 1
    assert ends[1] == 1.0


# What is refused, and the share of what is read back


def test_a_file_that_is_not_what_it_says_is_refused(lowered: Lower) -> None:
    file = lowered("tiny", "litert", "fp32").file
    graph = read_graph(file)
    for scheme in RECIPES:
        with pytest.raises(LowerError, match=rf"nothing in this file is {scheme}"):
            check_label(graph, SCHEMES[scheme], facts_of(graph, file), file)


def test_everything_excluded_is_no_int8(sources: FIND, tmp_path: Path) -> None:
    import onnx

    given = sources("tiny", "litert")
    assert given.ranges is not None
    proto = onnx.load(given.graph.path / "model.onnx")
    heavy = tuple(n.name for n in proto.graph.node if n.op_type in ("Conv", "Gemm", "MatMul"))
    ranges = dataclasses.replace(given.ranges, excluded=heavy)
    with pytest.raises(LowerError, match="nothing in this file is int8"):
        LiteRT().lower(dataclasses.replace(given, ranges=ranges), SCHEMES["int8"], tmp_path)


@pytest.mark.parametrize(
    ("kind", "given", "made", "count"),
    [
        ("CONV_2D", [(1, 8, 8, 3), (16, 3, 3, 3), (16,)], (1, 4, 4, 16), 4 * 4 * 16 * 27),
        ("CONV_2D", [(1, 8, 8, 8), (16, 3, 3, 4)], (1, 8, 8, 16), 8 * 8 * 16 * 36),
        ("DEPTHWISE_CONV_2D", [(1, 8, 8, 6), (1, 3, 3, 6)], (1, 8, 8, 6), 8 * 8 * 6 * 9),
        ("FULLY_CONNECTED", [(1, 20), (10, 20), (10,)], (1, 10), 200),
        ("TRANSPOSE_CONV", [(4,), (5, 2, 2, 3), (1, 4, 4, 3)], (1, 8, 8, 5), 4 * 4 * 3 * 20),
        ("BATCH_MATMUL", [(2, 5, 7), (2, 7, 3)], (2, 5, 3), 2 * 5 * 7 * 3),
        ("BATCH_MATMUL", [(2, 7, 5), (2, 7, 3)], (2, 5, 3), 2 * 5 * 7 * 3),
        ("ADD", [(1, 8), (1, 8)], (1, 8), 0),
    ],
)
def test_multiplications_by_shape(
    kind: str, given: list[tuple[int, ...]], made: tuple[int, ...], count: int
) -> None:
    op = Op(kind, tuple(Tensor("x", shape) for shape in given), (Tensor("y", made),))
    assert macs_of(op) == count
