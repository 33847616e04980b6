"""What every backend promises, on real files in real runtimes; a new yaml is held to it too."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.backends.conftest import BACKENDS, CASES, NETS, RUNTIMES, Lower
from torchopt2edge.errors import DataError, LowerError
from torchopt2edge.evaluation.parity import parity
from torchopt2edge.interfaces import Backend, Sources
from torchopt2edge.store import identity
from torchopt2edge.types import SCHEMES
from torchopt2edge.workflow.lowering import signature_in

CASE = pytest.mark.parametrize(("backend", "scheme"), CASES)
NET = pytest.mark.parametrize("net", NETS)
EACH = pytest.mark.parametrize("backend", BACKENDS)
FLOOR_DB = {
    "fp32": 60.0,
    "fp16": 40.0,
    "int8_weights": 30.0,
    "int8_dynamic": 25.0,
    "int8": 20.0,
    "int8_io": 20.0,
    "int16x8": 30.0,
}


@EACH
def test_a_backend_is_a_plain_configuration(backend: str) -> None:
    one = BACKENDS[backend]
    assert isinstance(one, Backend)
    assert dataclasses.is_dataclass(one)
    assert one.name == backend
    assert set(one.schemes) <= set(SCHEMES)
    assert identity(one) == identity(type(one)())
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.name = "other"  # type: ignore[misc]


@EACH
def test_a_receipt_names_the_runtime(backend: str) -> None:
    receipt = BACKENDS[backend].receipt()
    assert receipt["runtime"]
    assert receipt["runtime_version"][0].isdigit()
    assert json.loads(json.dumps(receipt)) == receipt


@NET
@CASE
def test_names_shapes_and_dtypes_are_the_sources(
    net: str, backend: str, scheme: str, lowered: Lower
) -> None:
    found = lowered(net, backend, scheme)
    source = signature_in(found.made.graph.path)
    for ours, theirs in zip(
        (*found.signature.inputs, *found.signature.outputs),
        (*source.inputs, *source.outputs),
        strict=True,
    ):
        assert (ours.name, ours.dtype) == (theirs.name, theirs.dtype)
        assert ours.shape[0] in (-1, 1)
        assert ours.shape[1:] == theirs.shape[1:]
    session = found.open()
    assert session.input_names == tuple(found.made.inputs)
    assert session.output_names == tuple(found.reference(1))


@NET
@CASE
@pytest.mark.parametrize("batch", [1, 5])
def test_any_batch_computes_what_the_network_does(
    net: str, backend: str, scheme: str, batch: int, lowered: Lower
) -> None:
    found = lowered(net, backend, scheme)
    outputs = found.open()(found.inputs(batch))
    reference = found.reference(batch)
    assert set(outputs) == set(reference)
    for name, value in reference.items():
        assert outputs[name].shape == value.shape
        assert outputs[name].dtype == value.dtype
    assert parity(reference, outputs).sqnr_db > FLOOR_DB[scheme]


@NET
@CASE
def test_the_timed_steps_are_the_call(net: str, backend: str, scheme: str, lowered: Lower) -> None:
    found = lowered(net, backend, scheme)
    session = found.open()
    prepared = session.prepare(found.inputs(1))
    assert set(prepared) == {spec.file_name for spec in found.signature.inputs}
    first = session.restore(session.run(prepared))
    again = session.restore(session.run(prepared))
    for name, value in session(found.inputs(1)).items():
        np.testing.assert_array_equal(first[name], value)
        np.testing.assert_array_equal(again[name], value)


@CASE
def test_an_earlier_output_is_not_written_over(backend: str, scheme: str, lowered: Lower) -> None:
    found = lowered("tiny", backend, scheme)
    session = found.open()
    samples = found.made.inputs["image"]
    first = session({"image": samples[:1]})["output"]
    copy = first.copy()
    session({"image": samples[1:2]})
    np.testing.assert_array_equal(first, copy)


@CASE
def test_two_threads_compute_the_same(backend: str, scheme: str, lowered: Lower) -> None:
    found = lowered("tiny", backend, scheme)
    one, two = (found.open(threads)(found.inputs(3)) for threads in (1, 2))
    assert parity(one, two).sqnr_db > 100


@CASE
def test_the_facts_are_of_the_file(backend: str, scheme: str, lowered: Lower) -> None:
    found = lowered("tiny", backend, scheme)
    assert found.file.is_file()
    assert json.loads(json.dumps(found.facts)) == found.facts


@CASE
def test_it_makes_the_same_bytes_again(
    backend: str,
    scheme: str,
    lowered: Lower,
    sources: Callable[[str, str], Sources],
    tmp_path: Path,
) -> None:
    found = lowered("tiny", backend, scheme)
    facts = BACKENDS[backend].lower(sources("tiny", backend), SCHEMES[scheme], tmp_path)
    assert facts == found.facts
    assert (tmp_path / facts["file"]).read_bytes() == found.file.read_bytes()


@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("lacking", ["ranges", "samples"])
def test_integers_take_ranges(
    backend: str, lacking: str, sources: Callable[[str, str], Sources], tmp_path: Path
) -> None:
    without = dataclasses.replace(sources("tiny", backend), ranges=None)
    if lacking == "samples":
        without = dataclasses.replace(without, samples=None)
    with pytest.raises(LowerError, match="int8 takes activation ranges"):
        BACKENDS[backend].lower(without, SCHEMES["int8"], tmp_path)


@pytest.mark.parametrize("backend", RUNTIMES)
def test_integers_are_smaller(backend: str, lowered: Lower) -> None:
    small, large = (lowered("tiny", backend, scheme).file for scheme in ("int8", "fp32"))
    assert small.stat().st_size <= 0.45 * large.stat().st_size


@EACH
@pytest.mark.parametrize("content", [b"", b"not a model at all", bytes(range(256)) * 64])
def test_a_file_that_is_no_model(
    backend: str, content: bytes, lowered: Lower, tmp_path: Path
) -> None:
    found = lowered("tiny", backend, "fp32")
    file = tmp_path / found.file.name
    file.write_bytes(content)
    with pytest.raises(LowerError, match=r"cannot open .*model\."):
        found.backend.open(file, found.signature, 1)


@EACH
def test_a_file_that_is_not_there(backend: str, lowered: Lower, tmp_path: Path) -> None:
    found = lowered("tiny", backend, "fp32")
    with pytest.raises(LowerError, match="cannot open"):
        found.backend.open(tmp_path / found.file.name, found.signature, 1)


@CASE
def test_wrong_names_are_refused(backend: str, scheme: str, lowered: Lower) -> None:
    found = lowered("two", backend, scheme)
    session, inputs = found.open(), found.inputs(1)
    for wrong in ({"image": inputs["image"]}, {**inputs, "more": inputs["meta"]}, {}):
        with pytest.raises(DataError, match=r"the model takes \['image', 'meta'\]"):
            session(wrong)


@CASE
@pytest.mark.parametrize("shape", [(1, 3, 32, 31), (1, 32, 32, 3), (3, 32, 32), (1, 3, 32, 32, 1)])
def test_wrong_shapes_are_refused(
    backend: str, scheme: str, shape: tuple[int, ...], lowered: Lower
) -> None:
    session = lowered("tiny", backend, scheme).open()
    with pytest.raises(DataError, match="has shape"):
        session({"image": np.zeros(shape, np.float32)})
