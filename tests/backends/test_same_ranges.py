"""One set of ranges for every runtime: the integer files agree with each other."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.backends.conftest import BACKENDS, NETS, RUNTIMES, Lower
from torchopt2edge.backends.litert.flatbuffer import read_graph
from torchopt2edge.evaluation.parity import parity
from torchopt2edge.interfaces import Sources
from torchopt2edge.types import SCHEMES

FLOOR_DB = 30.0


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("pair", list(itertools.combinations(RUNTIMES, 2)), ids="-".join)
def test_integer_files_agree_with_each_other(
    net: str, pair: tuple[str, str], lowered: Lower
) -> None:
    one, other = (lowered(net, name, "int8") for name in pair)
    assert parity(*(found.open()(found.inputs(24)) for found in (one, other))).sqnr_db > FLOOR_DB


def test_both_files_hold_the_same_scales(lowered: Lower) -> None:
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(lowered("tiny", "ort", "int8").file)
    held = {weight.name: numpy_helper.to_array(weight) for weight in proto.graph.initializer}
    pairs = [node for node in proto.graph.node if node.op_type == "DequantizeLinear"]
    scales = np.concatenate([held[node.input[1]].ravel() for node in pairs])
    found = [
        tensor
        for op in read_graph(lowered("tiny", "litert", "int8").file).ops
        if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        for tensor in (*op.given[:2], *op.made)
        if tensor is not None
    ]
    assert len(found) == 15
    for tensor in found:
        for scale in tensor.scales:
            assert np.abs(scales / scale - 1).min() < 1e-6, tensor.name


@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("scheme", ["int8", "int8_io"])
@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
def test_what_is_excluded_is_in_float_everywhere(
    backend: str, scheme: str, kind: str, sources: Callable[[str, str], Sources], tmp_path: Path
) -> None:
    import onnx

    given = sources("tiny", backend)
    assert given.ranges is not None
    nodes = onnx.load(given.graph.path / "model.onnx").graph.node
    (name, *_) = (node.name for node in nodes if node.op_type == kind)
    ranges = dataclasses.replace(given.ranges, excluded=(name,))
    facts = BACKENDS[backend].lower(
        dataclasses.replace(given, ranges=ranges), SCHEMES[scheme], tmp_path
    )
    assert facts["excluded"] == [name]
    assert 0 < facts["int8_macs"] < 100


@pytest.mark.parametrize("backend", RUNTIMES)
def test_other_ranges_would_be_seen(
    backend: str, lowered: Lower, sources: Callable[[str, str], Sources], tmp_path: Path
) -> None:
    given = sources("tiny", backend)
    assert given.ranges is not None
    wider = {name: (8 * low, 8 * high) for name, (low, high) in given.ranges.bounds.items()}
    ranges = dataclasses.replace(given.ranges, bounds=wider)
    facts = BACKENDS[backend].lower(
        dataclasses.replace(given, ranges=ranges), SCHEMES["int8"], tmp_path
    )
    right = lowered("tiny", backend, "int8")
    wrong = dataclasses.replace(right, file=tmp_path / facts["file"])
    outputs = [found.open()(found.inputs(24)) for found in (right, wrong)]
    reference = right.reference(24)
    lost = parity(reference, outputs[0]).sqnr_db - parity(reference, outputs[1]).sqnr_db
    assert lost > 6, "three bits of each activation are gone"
