"""What is LiteRT's own: the converter's file, operators left in float, integer inputs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.backends.conftest import Lower, Lowered
from torchopt2edge import converter
from torchopt2edge.backends.litert.backend import LiteRT
from torchopt2edge.errors import ConverterError
from torchopt2edge.evaluation.parity import parity
from torchopt2edge.interfaces import Sources
from torchopt2edge.store import Store
from torchopt2edge.types import Artifact

NHWC = (0, 2, 3, 1)


def test_the_file_keeps_images_in_its_own_layout(lowered: Lower) -> None:
    for scheme in ("fp32", "int8"):
        signature = lowered("two", "litert", scheme).signature
        perms = {spec.name: spec.perm for spec in (*signature.inputs, *signature.outputs)}
        assert perms["image"] == NHWC
        assert perms["meta"] is None
        assert perms["scores"] is None
        assert perms["mask"] == NHWC


def test_integers_are_where_they_should_be(lowered: Lower) -> None:
    facts = lowered("tiny", "litert", "int8").facts
    found = facts["integer_ops"]
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "CONCATENATION", "MEAN"} <= set(found)
    assert found["CONV_2D"] == 3
    assert facts["float_ops"] == facts["hybrid_ops"] == {}, "nothing is left in float"
    assert facts["int8_macs"] == 100.0


def test_inputs_and_outputs_stay_float(lowered: Lower) -> None:
    signature = LiteRT().read_signature(lowered("two", "litert", "int8").file)
    specs = (*signature.inputs, *signature.outputs)
    assert {spec.file_dtype for spec in specs} == {"float32"}


def test_a_hard_swish_stays_in_float(lowered: Lower) -> None:
    facts = lowered("two", "litert", "int8").facts
    assert facts["float_ops"] == {"HARD_SWISH": 1}
    assert facts["integer_ops"]["CONV_2D"] == 3, "what is around it is not"
    assert facts["partitions"] == lowered("two", "litert", "fp32").facts["partitions"]


def test_the_facts_tell_where_the_ranges_are_from(lowered: Lower) -> None:
    assert lowered("tiny", "litert", "int8").facts["ranges_matched"] == 100.0
    facts = lowered("two", "litert", "int8").facts
    # The norm behind the ReLU is a Mul and an Add here; between them there is no ONNX tensor.
    assert len(facts["ranges_calibrated"]) <= 1
    assert facts["ranges_matched"] > 90
    assert facts["parity_db"] > 90
    assert set(facts["converter"]) == {"python", "onnx2tf", "tensorflow"}


def test_the_base_is_made_once(lowered: Lower, sources: Callable[[str, str], Sources]) -> None:
    first, again = sources("tiny", "litert").base, sources("tiny", "litert").base
    assert first == again
    assert first.kind == "tflite"


def test_the_log_of_a_failed_conversion_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store drops the folder that a maker failed in, and the error names the log."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho said; kill -9 $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(converter, "find", lambda python: converter.Environment(Path(python)))
    monkeypatch.setattr(converter, "pins", lambda env: {})
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1,2] x) => (float[1,2] y) {y = Relu(x)}'
    )
    onnx.save(model, tmp_path / "model.onnx")
    graph = Artifact("graph", tmp_path, "digest", {})
    with pytest.raises(ConverterError) as caught:
        LiteRT(str(python)).base(graph, Store(tmp_path / "store"))
    log = Path(str(caught.value.hint).rpartition("the log is ")[2])
    assert log.read_text() == "said\n"


def test_nothing_is_said_on_opening(lowered: Lower) -> None:
    """TensorFlow Lite tells the terminal that it made its delegate, once in a process."""
    file = lowered("two", "litert", "fp32").file
    code = (
        "from torchopt2edge.backends.litert.inspect import interpreter_of as f; "
        f"f({str(file)!r}, 1)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == ("", "")


@pytest.fixture(scope="module")
def integer_io(lowered: Lower) -> Lowered:
    """Return the tiny CNN with int8 inputs and outputs."""
    return lowered("tiny", "litert", "int8_io")


def test_a_file_with_integer_inputs_says_so(integer_io: Lowered) -> None:
    own = LiteRT().read_signature(integer_io.file)
    kept = integer_io.signature
    low, high = integer_io.made.ranges.bounds["image"]
    assert own.inputs[0].scale == pytest.approx((high - low) / 255, rel=1e-3)
    assert own.inputs[0].shape == (1, 32, 32, 3), "without its source it has the file's own layout"
    assert kept.inputs[0].shape == (1, 3, 32, 32)
    for theirs, ours in zip(
        (*own.inputs, *own.outputs), (*kept.inputs, *kept.outputs), strict=True
    ):
        assert (ours.dtype, ours.file_dtype) == ("float32", "int8")
        assert (ours.scale, ours.zero_point) == (theirs.scale, theirs.zero_point)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_file_with_integer_inputs_takes_floats(integer_io: Lowered, batch: int) -> None:
    session = integer_io.open()
    prepared = session.prepare(integer_io.inputs(1))
    (array,) = prepared.values()
    assert array.dtype == np.int8
    assert array.shape == (1, 32, 32, 3)
    assert session.run(prepared)[integer_io.signature.outputs[0].file_name].dtype == np.int8
    outputs = session(integer_io.inputs(batch))
    assert outputs["output"].dtype == np.float32
    assert parity(integer_io.reference(batch), outputs).sqnr_db > 20


def test_a_file_opened_in_its_own_layout(integer_io: Lowered, tmp_path: Path) -> None:
    own = LiteRT().read_signature(integer_io.file)
    image = integer_io.inputs(1)["image"]
    outputs = LiteRT().open(integer_io.file, own, 1)({"image": image.transpose(NHWC)})
    np.testing.assert_array_equal(outputs["output"], integer_io.open()({"image": image})["output"])
