"""The baseline: the exported program, whose outputs keep the order of the source."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.backends.conftest import Lower
from tests.hub import Made
from torchopt2edge.backends.torch_cpu import TorchCpu, _flat
from torchopt2edge.errors import LowerError
from torchopt2edge.interfaces import Sources
from torchopt2edge.types import SCHEMES, Artifact


def test_without_a_program_there_is_no_baseline(tiny: Made, tmp_path: Path) -> None:
    graph = Artifact("graph", tmp_path, "d")
    with pytest.raises(LowerError, match="came as an ONNX file"):
        TorchCpu().lower(Sources(graph, graph), SCHEMES["fp32"], tmp_path)


def test_a_dict_of_outputs_keeps_its_names(lowered: Lower) -> None:
    found = lowered("two", "torch", "fp32")
    outputs = found.open()(found.inputs(2))
    assert list(outputs) == ["scores", "mask"]
    np.testing.assert_allclose(outputs["mask"], found.reference(2)["mask"], rtol=1e-5, atol=1e-6)


def test_the_signature_lies_beside_the_program(lowered: Lower) -> None:
    found = lowered("two", "torch", "fp32")
    assert TorchCpu().read_signature(found.file) == found.signature


def test_outputs_are_flattened_in_order() -> None:
    assert _flat({"b": [1, (2, 3)], "a": 4}) == [1, 2, 3, 4]


def test_samples_from_disk_warn_of_nothing(lowered: Lower, tiny: Made) -> None:
    found = lowered("tiny", "torch", "fp32")
    (batch,) = tiny.kept.batches(4, limit=4)
    assert found.open()(batch)["output"].shape == (4, 10)


def test_the_baseline_is_one_scheme() -> None:
    assert TorchCpu().schemes == ("fp32",)
    assert dataclasses.fields(TorchCpu()) == ()
