"""What is ONNX Runtime's own: integer types by processor, old opsets, nodes left in float."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tests.backends.conftest import Lower
from tests.quantize.graphs import floats, graph, kept, norm, saved
from torchopt2edge.backends.ort.backend import ISA, Ort, isa_of
from torchopt2edge.errors import LowerError
from torchopt2edge.evaluation.parity import parity
from torchopt2edge.interfaces import Sources
from torchopt2edge.quantize.calibrate import calibrate
from torchopt2edge.store import Store
from torchopt2edge.types import SCHEMES
from torchopt2edge.workflow import float_graph, lowering

INT8 = SCHEMES["int8"]


def types_of(proto: onnx.ModelProto) -> dict[str, set[int]]:
    """Return the integer types of a quantized graph's activations and weights."""
    weights = {weight.name: weight for weight in proto.graph.initializer}
    found: dict[str, set[int]] = {"QuantizeLinear": set(), "DequantizeLinear": set()}
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear":
            found[node.op_type].add(weights[node.input[2]].data_type)
        elif node.op_type == "DequantizeLinear" and node.input[0] in weights:
            found[node.op_type].add(weights[node.input[0]].data_type)
    return found


@pytest.mark.parametrize("isa", ISA)
def test_the_targets_integer_types(
    isa: str, sources: Callable[[str, str], Sources], tmp_path: Path
) -> None:
    facts = Ort(isa=isa).lower(sources("tiny", "ort"), INT8, tmp_path)
    assert facts["isa"] == isa
    proto = onnx.load(tmp_path / "model.onnx")
    found = types_of(proto)
    activation = TensorProto.INT8 if isa == "arm64" else TensorProto.UINT8
    assert found["QuantizeLinear"] == {activation}
    unsigned = {TensorProto.UINT8} if isa in ("x86", "portable") else set()
    assert found["DequantizeLinear"] - {TensorProto.INT8, TensorProto.INT32} == unsigned
    codes = [
        numpy_helper.to_array(weight)
        for weight in proto.graph.initializer
        if weight.data_type in (TensorProto.INT8, TensorProto.UINT8) and len(weight.dims) == 4
    ]
    steps = [code.astype(int) - (128 if code.dtype == np.uint8 else 0) for code in codes]
    assert max(int(np.abs(step).max()) for step in steps) == 127, "no processor costs a bit"


@pytest.mark.parametrize("isa", ISA)
def test_a_file_says_on_which_processors_it_is_exact(
    isa: str, sources: Callable[[str, str], Sources], tmp_path: Path
) -> None:
    facts = Ort(isa=isa).lower(sources("tiny", "ort"), INT8, tmp_path)
    everywhere = isa in ("x86", "portable")
    assert (facts["saturating_layers"] == 0) is everywhere
    assert ("x86" in facts["exact_on"]) is everywhere
    assert {"x86-vnni", "arm64", "arm64-dotprod"} <= set(facts["exact_on"])
    beside = json.loads((tmp_path / "signature.json").read_text())
    assert beside["exact_on"] == facts["exact_on"]


def test_an_unknown_isa(sources: Callable[[str, str], Sources], tmp_path: Path) -> None:
    with pytest.raises(LowerError, match=r"there is no isa 'z80'.*x86-vnni"):
        Ort(isa="z80").lower(sources("tiny", "ort"), INT8, tmp_path)


@pytest.mark.parametrize(
    ("facts", "isa"),
    [
        ({"arch": "x86_64", "cpu_flags": ["avx2", "avx512_vnni"]}, "x86-vnni"),
        ({"arch": "x86_64", "cpu_flags": ["avx2", "avx_vnni"]}, "x86-vnni"),
        ({"arch": "x86_64", "cpu_flags": ["avx2"]}, "x86"),
        ({"arch": "x86_64"}, "x86"),
        ({"arch": "aarch64", "cpu_flags": ["asimddp"]}, "arm64"),
    ],
)
def test_the_isa_is_the_targets(facts: dict[str, object], isa: str) -> None:
    assert isa_of(facts) == isa
    assert Ort().for_target(facts).isa == isa
    assert Ort(isa="arm64").for_target(facts).isa == "arm64", "what was chosen stays"


def test_weights_have_a_scale_per_channel(lowered: Lower) -> None:
    proto = onnx.load(lowered("tiny", "ort", "int8").file)
    weights = {weight.name: weight for weight in proto.graph.initializer}
    scales = [
        weights[node.input[1]].dims[0]
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in weights
        and len(weights[node.input[0]].dims) == 4
    ]
    assert sorted(scales) == [32, 32, 32, 96]


def test_pooling_is_not_a_float_island(lowered: Lower) -> None:
    found = lowered("tiny", "ort", "int8")
    ops = found.facts["ops"]
    assert ops["GlobalAveragePool"] == 1
    assert "ReduceMean" not in ops
    proto = onnx.load(found.file)
    makers = {name: node for node in proto.graph.node for name in node.output}
    for node in proto.graph.node:
        if node.op_type in ("Conv", "Gemm", "Add", "Concat", "GlobalAveragePool"):
            assert makers[node.input[0]].op_type == "DequantizeLinear", node.name


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_graphs_of_old_opsets(opset: int, tmp_path: Path) -> None:
    body = "h = Conv<pads=[1,1,1,1]>(x, w) n = BatchNormalization(h, ns, nb, nm, nv) y = Relu(n)"
    weights = {"w": floats(4, 3, 3, 3), **norm(4, "n")}
    proto = graph(f"(float[n,3,8,8] x) => (float[n,4,8,8] y) {{ {body} }}", weights, opset)
    store = Store(tmp_path / "store")
    shared = float_graph.share_graph(saved(proto, tmp_path / "old.onnx"), "old", store)
    x = {"x": floats(8, 3, 8, 8, seed=4)}
    samples = kept(x, tmp_path / "samples")
    ranges = calibrate(onnx.load(shared.path / "model.onnx"), samples)["minmax"]
    given = Sources(shared, Ort().base(shared, store), ranges, samples.path)
    outputs = {}
    for scheme in ("fp32", "int8"):
        out = tmp_path / scheme
        out.mkdir()
        facts = Ort().lower(given, SCHEMES[scheme], out)
        signature = lowering.signature_in(out)
        outputs[scheme] = Ort().open(out / facts["file"], signature, 1)(x)
    assert parity(outputs["fp32"], outputs["int8"]).sqnr_db > 25


@pytest.mark.parametrize("scheme", Ort.schemes)
def test_the_file_is_valid_onnx(scheme: str, lowered: Lower) -> None:
    proto = onnx.load(lowered("two", "ort", scheme).file)
    onnx.checker.check_model(proto, full_check=True)  # raises on what is not
    assert len(proto.graph.output) == 2


@pytest.mark.parametrize("net", ["tiny", "two"])
@pytest.mark.parametrize("scheme", Ort.schemes)
def test_a_file_says_itself_what_it_is(net: str, scheme: str, lowered: Lower) -> None:
    found = lowered(net, "ort", scheme)
    assert Ort().read_signature(found.file) == found.signature
    assert Ort().read_scheme(found.file) == scheme


def test_a_reference_is_opened_without_rewriting(lowered: Lower) -> None:
    found = lowered("tiny", "ort", "fp32")
    plain = Ort(optimize=False)
    assert plain.receipt()["graph_optimization"] == "none"
    one = plain.open(found.file, found.signature, 1)(found.inputs(3))
    assert parity(one, found.open()(found.inputs(3))).sqnr_db > 100
