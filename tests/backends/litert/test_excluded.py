"""Operators left in float in the .tflite, and layers that no probe can tell apart."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from tests import hub
from tests.conftest import users_cache
from tests.hub import Made
from torchopt2edge import converter
from torchopt2edge.backends.litert.backend import LiteRT
from torchopt2edge.backends.litert.flatbuffer import read_graph
from torchopt2edge.backends.litert.inspect import computes
from torchopt2edge.evaluation.parity import parity
from torchopt2edge.interfaces import Sources
from torchopt2edge.quantize.calibrate import calibrate
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.store import Store
from torchopt2edge.types import SCHEMES, Facts, Signature
from torchopt2edge.workflow import calibration

SHAPE = (8, 8, 8)


class Pair(nn.Module):
    """One convolution applied to two inputs, a grouped one behind it, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.grouped, self.head = nn.Conv2d(16, 16, 3, padding=1, groups=2), nn.Linear(16, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Take two stacks of maps [N, 8, 8, 8]; give scores [N, 4]."""
        both = [torch.relu(self.shared(side)) for side in (left, right)]
        scores: Tensor = self.head(torch.relu(self.grouped(torch.cat(both, 1))).mean((2, 3)))
        return scores


@pytest.fixture(scope="module")
def made(hub_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return the net on the hub, with two unlike inputs in every sample."""
    out = tmp_path_factory.mktemp("pair")
    return hub.make(Pair, {"left": SHAPE, "right": SHAPE}, hub_store, out)


@pytest.fixture(scope="module")
def pair(made: Made, hub_store: Store, sealed: converter.Environment) -> Sources:
    """Return the net as it is lowered."""
    with users_cache():
        base = LiteRT().base(made.graph, hub_store)
    return Sources(made.graph, base, made.ranges, made.samples.path)


@pytest.fixture(scope="module")
def alike(made: Made, pair: Sources, hub_store: Store) -> Sources:
    """Return it with samples whose two inputs are equal where the probes look."""
    left = torch.from_numpy(made.inputs["left"])
    right = left.clone()
    right[6:] *= 3
    batches = [{"left": left, "right": right}]
    samples = calibration.keep_samples(batches, made.graph, 24, "calibration", hub_store)
    ranges = calibrate(onnx.load(made.graph.path / "model.onnx"), Samples(samples.path))["minmax"]
    return dataclasses.replace(pair, ranges=ranges, samples=samples.path)


def node(sources: Sources, kind: str, at: int = 0) -> str:
    """Name the ONNX node that is the ``at``-th of its kind."""
    proto = onnx.load(sources.graph.path / "model.onnx")
    return [node.name for node in proto.graph.node if node.op_type == kind][at]


def lowered(sources: Sources, out: Path, *excluded: str, scheme: str = "int8") -> Facts:
    """Lower with these ONNX nodes left in float."""
    assert sources.ranges is not None
    ranges = dataclasses.replace(sources.ranges, excluded=excluded)
    return LiteRT().lower(dataclasses.replace(sources, ranges=ranges), SCHEMES[scheme], out)


def test_layers_that_are_equal_on_the_probes_get_ranges_of_their_own(
    alike: Sources, tmp_path: Path
) -> None:
    facts = lowered(alike, tmp_path)
    assert facts["ranges_calibrated"], "no probe could tell which is which"
    assert alike.ranges is not None
    graph = read_graph(tmp_path / "model.tflite")
    proto = onnx.load(alike.graph.path / "model.onnx")
    relus = [node.output[0] for node in proto.graph.node if node.op_type == "Relu"][:2]
    wanted = sorted(alike.ranges.bounds[name][1] / 255 for name in relus)
    assert wanted[1] > 2 * wanted[0]
    (joined,) = (op for op in graph.ops if op.kind == "CONCATENATION")
    # What is joined has one scale, the larger; the smaller must not have been taken for both.
    assert joined.made[0].scales[0] == pytest.approx(wanted[1], rel=1e-3)


def test_a_node_that_cannot_be_told_from_another(alike: Sources, tmp_path: Path) -> None:
    name = node(alike, "Conv")
    facts = lowered(alike, tmp_path, name)
    assert facts["excluded"] == []
    assert len(facts["notes"]) == 1
    assert repr(name) in facts["notes"][0]


@pytest.mark.parametrize("at", [0, 1])
def test_one_of_two_nodes_with_the_same_weights(
    made: Made, pair: Sources, tmp_path: Path, at: int
) -> None:
    name = node(pair, "Conv", at)
    facts = lowered(pair, tmp_path, name)
    assert facts["excluded"] == [name]
    assert facts["notes"] == []
    assert facts["float_ops"] == {"CONV_2D": 1}
    (op,) = (op for op in read_graph(tmp_path / "model.tflite").ops if computes(op) == "float")
    side = ("left", "right")[at]
    assert op.given[0] is not None
    assert side in op.given[0].name, "it reads the right input"
    signature = Signature.from_json(json.loads((tmp_path / "signature.json").read_text()))
    outputs = LiteRT().open(tmp_path / "model.tflite", signature, 1)(made.inputs)
    with torch.no_grad():
        wanted = made.net(*map(torch.from_numpy, made.inputs.values()))
    assert parity({"output": wanted.numpy()}, outputs).sqnr_db > 20


def test_a_grouped_convolution_with_all_its_parts(pair: Sources, tmp_path: Path) -> None:
    name = node(pair, "Conv", 2)
    facts = lowered(pair, tmp_path, name)
    assert facts["excluded"] == [name]
    assert facts["notes"] == []
    # 16 x 16 maps in two groups of 8 against the shared layer's two runs, and the head.
    shared, grouped, head = 2 * 8 * 8 * 8 * 8 * 9, 16 * 8 * 8 * 8 * 9, 16 * 4
    share = 100 * (shared + head) / (shared + grouped + head)
    assert facts["int8_macs"] == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("scheme", ["int8", "int8_io", "int16x8"])
def test_the_head_in_float(pair: Sources, tmp_path: Path, scheme: str) -> None:
    head = node(pair, "Gemm")
    facts = lowered(pair, tmp_path, head, scheme=scheme)
    assert facts["excluded"] == [head]
    assert facts["float_ops"] == {"FULLY_CONNECTED": 1}
    (op,) = (op for op in read_graph(tmp_path / "model.tflite").ops if op.kind == "FULLY_CONNECTED")
    assert computes(op) == "float"
    (end,) = LiteRT().read_signature(tmp_path / "model.tflite").outputs
    assert end.file_dtype == ("int8" if scheme == "int8_io" else "float32")


def test_a_node_that_is_not_there(pair: Sources, tmp_path: Path) -> None:
    facts = lowered(pair, tmp_path, "no such node")
    assert facts["excluded"] == []
    assert "'no such node'" in facts["notes"][0]
