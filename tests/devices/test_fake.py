"""A comparison on a device that is nowhere: every row is what the script says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from torchopt2edge.bench.child_session import open_child
from torchopt2edge.bench.harness import measure
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.devices.fake import Fake
from torchopt2edge.errors import BenchError
from torchopt2edge.types import Candidate

MakeNet = Callable[..., Candidate]
Sample = dict[str, np.ndarray]


def test_latencies_are_the_scripts(
    net: MakeNet, tflite: Candidate, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    device = Fake(latency_ms={"a.onnx": (2.0,), "*": (1.0, 1.5)})
    rows = measure([net("a"), tflite], lambda _: sample, device, brief, tmp_path)
    assert [row.err for row in rows] == [None, None]
    assert {value for chunk in rows[0].latency_ns for value in chunk} == {2_000_000}
    assert {value for chunk in rows[1].latency_ns for value in chunk} == {1_000_000, 1_500_000}


@pytest.mark.parametrize(
    ("fault", "what"),
    [("die", "SIGKILL"), ("hang", "did not answer"), ("no memory", "FakeError: no memory")],
)
def test_a_fault_ends_one_row_and_no_other(
    net: MakeNet,
    tflite: Candidate,
    sample: Sample,
    brief: TimingPlan,
    tmp_path: Path,
    fault: str,
    what: str,
) -> None:
    device = Fake(faults={"a.onnx": {3: fault}})
    rows = measure([net("a"), tflite], lambda _: sample, device, brief, tmp_path)
    assert what in str(rows[0].err)
    assert rows[1].err is None


def test_a_link_that_is_slow_for_once_loses_no_row(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    device = Fake(faults={"a.onnx": {4: "slow"}})
    assert measure([net("a")], lambda _: sample, device, brief, tmp_path)[0].err is None


def test_temperatures_are_the_scripts(net: MakeNet, sample: Sample, tmp_path: Path) -> None:
    with open_child(net("a"), Fake(temperatures_c=(40.0, 60.0)), tmp_path / "log") as session:
        assert session.sense()["temperature_c"] == 40.0
        session.load_timed(sample)
        assert session.round(3, 0.0, 3).sensors["temperature_c"] == 60.0
        assert session.round(3, 0.0, 3).sensors["temperature_c"] == 60.0
        assert session.stop() > 0


def test_outputs_have_the_files_shapes(
    net: MakeNet, tflite: Candidate, sample: Sample, tmp_path: Path
) -> None:
    for candidate, shape in ((net("a", width=4), (1, 4)), (tflite, (1, 3, 16, 16))):
        with open_child(candidate, Fake(), tmp_path / "log") as session:
            (found,) = session(sample).values()
        assert found.shape == shape
    device = Fake(outputs=lambda file, arrays: {"y": np.full((1, 4), len(file))})
    with open_child(net("abc"), device, tmp_path / "log") as session:
        assert session(sample)["logits"].tolist() == [[8.0] * 4]


def test_it_answers_no_more_once_closed(tmp_path: Path) -> None:
    job = Fake().start(["python3"], tmp_path / "log")
    job.close()
    with pytest.raises(BenchError, match="ended already"):
        job.send({"cmd": "sense"})
