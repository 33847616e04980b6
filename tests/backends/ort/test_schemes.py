"""Every format of ONNX Runtime on two tiny nets: what the file holds, how near, how large."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tests.backends.conftest import Lower
from tests.quantize.graphs import floats, graph, run
from torchopt2edge.backends.ort.backend import Ort
from torchopt2edge.backends.ort.dynamic_int8 import to_dynamic_int8
from torchopt2edge.backends.ort.weight_only import to_int8_weights
from torchopt2edge.errors import LowerError
from torchopt2edge.evaluation.parity import parity, verify
from torchopt2edge.interfaces import Sources
from torchopt2edge.types import SCHEMES, Ranges
from torchopt2edge.workflow.lowering import signature_in

NETS = pytest.mark.parametrize("net", ["tiny", "two"])
Given = Callable[[str, str], Sources]


@NETS
@pytest.mark.parametrize("scheme", Ort.schemes)
def test_it_is_above_the_schemes_floor(net: str, scheme: str, lowered: Lower) -> None:
    found = lowered(net, "ort", scheme)
    parity = verify(found.open(), found.inputs(16), found.reference(16), SCHEMES[scheme])
    assert parity.sqnr_db >= SCHEMES[scheme].min_sqnr_db


def test_files_shrink_with_their_weights(lowered: Lower) -> None:
    sizes = {s: lowered("tiny", "ort", s).file.stat().st_size for s in Ort.schemes}
    assert sizes["fp16"] == pytest.approx(sizes["fp32"] / 2, rel=0.03)
    for scheme in ("int8_weights", "int8_dynamic", "int8", "int8_io"):
        assert sizes[scheme] == pytest.approx(sizes["fp32"] / 4, rel=0.15)
    assert sizes["int8_io"] < sizes["int8"]


def test_fp16_holds_half_floats_and_takes_floats(lowered: Lower) -> None:
    found = lowered("two", "ort", "fp16")
    graph_of = onnx.load(found.file).graph
    kinds = {w.data_type for w in graph_of.initializer if len(w.dims) > 1}
    assert kinds == {TensorProto.FLOAT16}
    ends = (*graph_of.input, *graph_of.output)
    assert {end.type.tensor_type.elem_type for end in ends} == {TensorProto.FLOAT}
    assert "gains no speed" in found.facts["notes"][0]


def optimized(file: Path, out: Path) -> list[str]:
    """Name the operators that ONNX Runtime runs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(out)
    ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(out).graph.node]


def test_int8_weights_are_floats_again_when_opened(lowered: Lower, tmp_path: Path) -> None:
    """Nothing is brought back in every run, and no activation is rounded."""
    found = lowered("tiny", "ort", "int8_weights")
    ran = optimized(found.file, tmp_path / "o.onnx")
    assert not {"Cast", "Mul", "DequantizeLinear", "MatMulNBits"} & set(ran)
    assert "Gemm" in ran
    assert found.facts["int8_macs"] == 0.0
    assert found.facts["integer_ops"] == {}
    assert found.facts["float_ops"]["Conv"] == 4


LAYERS = {
    "y = Conv<pads=[1,1,1,1], group=2>(x, w)": ((2, 4, 5, 5), (6, 2, 3, 3)),
    "y = ConvTranspose<group=2>(x, w)": ((2, 4, 5, 5), (4, 3, 2, 2)),
    "y = Gemm(x, w, b)": ((3, 8), (8, 6)),
    "y = Gemm<transB=1, beta=0.5>(x, w, b)": ((3, 8), (6, 8)),
    "y = MatMul(x, w)": ((3, 5, 8), (8, 6)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_with_int8_weights(layer: str) -> None:
    proto, inputs = net_of(layer)
    want = run(proto, inputs)
    to_int8_weights(proto)
    onnx.checker.check_model(proto, full_check=True)
    assert sum(w.data_type == TensorProto.INT8 for w in proto.graph.initializer) == 1
    assert parity(want, run(proto, inputs)).sqnr_db > 35


@pytest.mark.parametrize("layer", [one for one in LAYERS if "Transpose" not in one])
def test_layers_with_ranges_found_in_every_run(layer: str) -> None:
    proto, inputs = net_of(layer)
    want = run(proto, inputs)
    to_dynamic_int8(proto, exact_everywhere=True)
    onnx.checker.check_model(proto, full_check=True)
    held = (
        numpy_helper.to_array(w).astype(int) for w in proto.graph.initializer if len(w.dims) > 1
    )
    codes = next(held) - (0 if "Conv" in layer else 128)
    assert np.abs(codes).max() == 127
    assert parity(want, run(proto, inputs)).sqnr_db > 30
    louder = {"x": inputs["x"] * 1000}
    want = run(net_of(layer)[0], louder)
    assert parity(want, run(proto, louder)).sqnr_db > 30, "no range is fixed"


def test_what_has_no_integer_kernel_stays_in_float() -> None:
    proto, inputs = net_of("y = ConvTranspose(x, w)", ((2, 4, 5, 5), (4, 3, 2, 2)))
    to_dynamic_int8(proto, exact_everywhere=True)
    assert [node.op_type for node in proto.graph.node] == ["ConvTranspose"]
    assert run(proto, inputs)["y"].shape == (2, 3, 6, 6)


def test_weights_that_two_layers_share_are_held_once() -> None:
    def dynamic(proto: onnx.ModelProto) -> None:
        to_dynamic_int8(proto, exact_everywhere=True)

    for write, kind in (
        (to_int8_weights, TensorProto.INT8),
        (dynamic, TensorProto.UINT8),
    ):
        proto, inputs = net_of("h = MatMul(x, w) y = MatMul(h, w)", ((3, 8), (8, 8)))
        want = run(proto, inputs)
        write(proto)
        held = [w for w in proto.graph.initializer if list(w.dims) == [8, 8]]
        assert [w.data_type for w in held] == [kind]
        assert parity(want, run(proto, inputs)).sqnr_db > 28


def net_of(
    layer: str, shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a graph of one layer and an input for it."""
    given, held = shapes or LAYERS[layer]
    dims = ["n", *map(str, given[1:])]
    made = ["n", *("c" + str(at) for at in range(1, len(given)))]
    text = f"(float[{','.join(dims)}] x) => (float[{','.join(made)}] y) {{ {layer} }}"
    weights = {"w": floats(*held)}
    if ", b)" in layer:
        weights["b"] = floats(6, seed=1)
    proto = graph(text, weights)
    proto.graph.node[0].name = "layer"
    return proto, {"x": floats(*given, seed=2)}


def test_dynamic_int8_runs_on_integers_and_says_what_that_costs(lowered: Lower) -> None:
    facts = lowered("tiny", "ort", "int8_dynamic").facts
    assert facts["int8_macs"] == 100.0
    assert facts["integer_ops"] == {"ConvInteger": 4, "DynamicQuantizeMatMul": 1}
    assert "slower than in fp32" in facts["notes"][0]
    assert "warnings" not in lowered("tiny", "ort", "int8").facts


@NETS
def test_integer_ends_say_what_they_mean(net: str, lowered: Lower) -> None:
    found, inside = lowered(net, "ort", "int8_io"), lowered(net, "ort", "int8")
    bounds = found.made.ranges.bounds
    graph_of = onnx.load(found.file).graph
    kinds = {end.type.tensor_type.elem_type for end in (*graph_of.input, *graph_of.output)}
    assert kinds == {TensorProto.UINT8}
    for spec in (*found.signature.inputs, *found.signature.outputs):
        assert (spec.dtype, spec.file_dtype) == ("float32", "uint8")
        low, high = bounds[spec.file_name]
        assert spec.scale is not None
        assert spec.scale * 255 == pytest.approx(max(high, 0) - min(low, 0), rel=1e-6)
    assert (found.signature, inside.signature) != (inside.signature, found.signature)
    inputs = found.inputs(5)
    same, other = inside.open()(inputs), found.open()(inputs)
    for name, value in same.items():
        np.testing.assert_allclose(other[name], value, rtol=0, atol=1e-6)


def test_integer_ends_are_the_targets_type(sources: Given, tmp_path: Path) -> None:
    facts = Ort(isa="arm64").lower(sources("two", "ort"), SCHEMES["int8_io"], tmp_path)
    signature = signature_in(tmp_path)
    kinds = {spec.file_dtype for spec in (*signature.inputs, *signature.outputs)}
    assert kinds == {"int8"}
    assert (facts["isa"], facts["int8_macs"]) == ("arm64", 100.0)
    assert Ort().read_signature(tmp_path / "model.onnx") == signature


@pytest.mark.parametrize("excluded", [(), ("body",), ("head",), ("body", "head")])
def test_integer_ends_at_float_nodes(excluded: tuple[str, ...], tmp_path: Path) -> None:
    """An input that floats read too, an output that floats make, one that is read inside."""
    from tests.quantize.test_qdq_writer import ranges_of, shared
    from torchopt2edge.backends.file_session import FileSession
    from torchopt2edge.backends.ort.integer_io import to_integer_io
    from torchopt2edge.quantize.graph.prepare import signature_of
    from torchopt2edge.quantize.qdq_writer import IntegerTypes, quantize_graph

    text = (
        "(float[n,3,8,8] x, int64[n] i) => (float[n,4,8,8] h, float[n,4,8,8] y, int64[n] j) "
        "{ h = Conv<pads=[1,1,1,1]>(x, w) s = HardSwish(x) r = Add(s, x) "
        "g = Conv<pads=[1,1,1,1]>(r, w) k = Add(g, h) y = Softmax<axis=1>(k) j = Add(i, i) }"
    )
    proto = graph(text, {"w": floats(4, 3, 3, 3) / 5})
    proto.graph.node[0].name, proto.graph.node[3].name = "body", "head"
    file = shared(proto, tmp_path)
    inputs = {"x": floats(4, 3, 8, 8, seed=2), "i": np.arange(4)}
    ranges = ranges_of(file, inputs, *excluded)
    made = quantize_graph(onnx.load(file), ranges, IntegerTypes())
    before = signature_of(onnx.load(file), file)
    after = to_integer_io(made, before, ranges.bounds, "uint8")
    onnx.checker.check_model(made, full_check=True)
    kinds = [end.type.tensor_type.elem_type for end in (*made.graph.input, *made.graph.output)]
    assert kinds == [TensorProto.UINT8, TensorProto.INT64] + [TensorProto.UINT8] * 2 + [
        TensorProto.INT64
    ]
    session = FileSession(after, lambda feeds: run(made, dict(feeds)))
    want, found = run(onnx.load(file), inputs), session(inputs)
    np.testing.assert_array_equal(found.pop("j"), want.pop("j"))
    assert parity(want, found).sqnr_db > 20


def test_a_label_without_integers_is_an_error(sources: Given, tmp_path: Path) -> None:
    given = sources("tiny", "ort")
    assert given.ranges is not None
    heavy = [n.name for n in onnx.load(given.graph.path / "model.onnx").graph.node]
    ranges: Ranges = dataclasses.replace(given.ranges, excluded=tuple(heavy))
    for scheme in ("int8", "int8_io"):
        with pytest.raises(LowerError, match="nothing of this model would run on integers"):
            Ort().lower(dataclasses.replace(given, ranges=ranges), SCHEMES[scheme], tmp_path)


@pytest.mark.parametrize("scheme", ["int8", "int8_io"])
def test_static_formats_take_ranges(scheme: str, sources: Given, tmp_path: Path) -> None:
    without = dataclasses.replace(sources("tiny", "ort"), ranges=None)
    with pytest.raises(LowerError, match=f"{scheme} takes activation ranges"):
        Ort().lower(without, SCHEMES[scheme], tmp_path)
