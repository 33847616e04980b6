"""What a runner answers: real answers are read whole, everything else is an error with a name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.hostile import EXAMPLES, VALUES, mutated
from torchopt2edge.bench import answers
from torchopt2edge.errors import BenchError
from torchopt2edge.types import Signature, TensorSpec

OPENED = {
    "event": "opened", "library_ms": 1.5, "load_ms": 2.0,
    "receipt": {"runtime": "litert", "threads": 2, "affinity": [0, 1], "emulated": False,
                "cpu_flags": ["avx2"], "load": "unavailable", "timer_resolution_ns": 1.0},
}  # fmt: skip
LOADED = {"event": "loaded", "first_ms": 3.25, "finite": True}
ROUND = {
    "event": "round", "latency_ns": [5, 6, 7], "begin_ns": 10, "wall_ns": 20, "cpu_ns": 19,
    "involuntary": 0, "steal": 1, "ticks": 30, "joules": 0.5, "stable": True, "finite": True,
    "vm_hwm_bytes": 1 << 20, "sensors": {"temperature_c": 40.5, "capped": False},
}  # fmt: skip
SENSED = {"event": "sensed", "sensors": {"temperature_c": 41.0, "load": 0.5, "capped": True}}
PROFILED = {"event": "profiled", "ops": [{"name": "a", "type": "Conv", "ms": 0.5}]}
STOPPED = {"event": "stopped", "vm_hwm_bytes": -1}
READERS: dict[str, tuple[Mapping[str, Any], Callable[[Mapping[str, Any]], Any]]] = {
    "opened": (OPENED, answers.opened),
    "loaded": (LOADED, lambda header: answers.loaded(header, 5.0)),
    "round": (ROUND, lambda header: answers.timed(header, 100)),
    "sensed": (SENSED, answers.sensed),
    "profiled": (PROFILED, answers.profiled),
    "stopped": (STOPPED, answers.stopped),
}


def test_whole_answers_are_read_whole() -> None:
    receipt, times = answers.opened(OPENED)
    assert receipt == OPENED["receipt"]
    assert times == {"library_ms": 1.5, "load_ms": 2.0}
    assert answers.loaded(LOADED, 5.0) == (3.25, True)
    found = answers.timed(ROUND, 3)
    assert (found.latency_ns, found.joules, found.peak_bytes) == ([5, 6, 7], 0.5, 1 << 20)
    assert found.sensors == ROUND["sensors"]
    assert answers.sensed(SENSED) == SENSED["sensors"]
    assert answers.sensed({"event": "sensed", "sensors": {}}) == {"temperature_c": "unavailable"}
    assert answers.profiled(PROFILED) == PROFILED["ops"]
    assert answers.stopped(STOPPED) == -1


def test_a_receipt_takes_no_name_that_others_write() -> None:
    """A row's file is opened, hashed and linked: no runner may name it."""
    hostile = {"file": "/etc/passwd", "flags": [], "reference": True, "mine": "x", "a b": 1}
    receipt, _ = answers.opened({**OPENED, "receipt": hostile})
    assert receipt == {
        "runner_file": "/etc/passwd", "runner_flags": [], "runner_reference": True,
        "runner_mine": "x",
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency_ns": [1] * 101}, {"latency_ns": [1.5]}, {"latency_ns": [-1]},
        {"latency_ns": [10**30]}, {"latency_ns": [[1], [1, 2]]}, {"latency_ns": "1"},
        {"wall_ns": True}, {"wall_ns": 1.0}, {"cpu_ns": -2}, {"joules": float("nan")},
        {"joules": 10**400}, {"stable": 1}, {"vm_hwm_bytes": "1"}, {"begin_ns": [1]},
        {"sensors": []}, {"sensors": {str(at): at for at in range(65)}},
    ],
    ids=lambda one: str(one)[:40],
)  # fmt: skip
def test_a_round_with_a_field_that_is_unfit_is_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(BenchError, match=f"no usable {name}"):
        answers.timed({**ROUND, **wrong}, 100)


def test_a_first_inference_that_took_longer_than_its_answer_is_refused() -> None:
    with pytest.raises(BenchError, match="no usable first_ms"):
        answers.loaded({**LOADED, "first_ms": 1e7}, 5.0)


def test_what_is_said_steers_no_terminal() -> None:
    with pytest.raises(BenchError) as caught:
        answers.stopped({"event": "error", "type": "X\x1b[31m", "what": "a\nb" + "x" * 9000})
    assert str(caught.value).startswith("X [31m: a b")
    assert len(str(caught.value)) < 5000
    receipt, _ = answers.opened({**OPENED, "receipt": {"cpu": "a\x1b]0;b\x07c"}})
    assert receipt == {"cpu": "a ]0;b c"}


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_a_mutated_answer_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    whole, read = READERS[kind]
    header, said = data.draw(mutated(whole)), ""
    try:
        found = read(header)
    except BenchError as error:
        said = str(error)
    else:
        json.dumps(found if not isinstance(found, answers.Round) else vars(found))
    assert said.isprintable()


@settings(max_examples=EXAMPLES, deadline=None)
@given(header=VALUES.filter(lambda one: isinstance(one, dict)))
@example(header={"event": "error", "type": 5, "what": []})
def test_anything_at_all_is_refused_by_name(header: dict[str, Any]) -> None:
    for _, read in READERS.values():
        with pytest.raises(BenchError):
            read(header)


OUTPUT = TensorSpec("y", (-1, 4, 2), "float32", "out", perm=(0, 2, 1))


@pytest.mark.parametrize(
    "array",
    [np.zeros((1, 4, 2)), np.zeros((1, 2)), np.zeros((1, 2, 5)), np.zeros((1, 2, 4), complex)],
    ids=lambda one: f"{one.dtype}{one.shape}",
)
def test_outputs_are_those_of_the_signature(array: np.ndarray) -> None:
    signature = Signature((), (OUTPUT,))
    right = np.zeros((3, 2, 4), np.float32)
    found = answers.called({"event": "called"}, {"out": right, "more": right}, signature)
    assert [*found] == ["out"]
    with pytest.raises(BenchError, match="the output 'out' came as"):
        answers.called({"event": "called"}, {"out": array}, signature)
    with pytest.raises(BenchError, match="lacks the output 'out'"):
        answers.called({"event": "called"}, {}, signature)
