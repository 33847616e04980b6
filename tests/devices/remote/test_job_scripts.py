"""A job's folder in the shells and with the tools of a Debian, a BusyBox and an Android device."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.devices.serving import all_gone, supervisors
from tests.devices.shells import ECHO, SHELLS, Shell, made
from torchopt2edge.devices.remote.transport import Finished, call, unwrap, wrap
from torchopt2edge.errors import BenchError, DeviceError

LARGE = """
import sys
for line in sys.stdin:
    print('{"x": "%s"}' % ("x" * 400_000), flush=True)
"""


@pytest.fixture(params=SHELLS)
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    """This machine, seen through each shell."""
    return made(request.param, tmp_path)


def test_a_job_without_a_sign_of_life_is_gone(device: Shell, tmp_path: Path) -> None:
    short = replace(device, patience_s=3, link_patience_s=1)
    job = short.start(["sleep", "600"], tmp_path / "log")
    assert supervisors(tmp_path / "board")
    assert all_gone(tmp_path / "board", 12.0)
    with pytest.raises(BenchError, match="the job is no more"):
        job.receive(5.0)


def test_a_sign_of_life_to_one_job_is_one_to_all(device: Shell, tmp_path: Path) -> None:
    """A candidate waits, silent, until it is its turn."""
    short = replace(device, patience_s=3, link_patience_s=1)
    with short.start(ECHO, tmp_path / "a") as silent, short.start(ECHO, tmp_path / "b") as other:
        for at in range(6):
            other.send({"n": at})
            other.receive(5.0)
            time.sleep(1.0)
        silent.send({"still": "here"})
        assert silent.receive(5.0)[0] == {"still": "here"}


def test_an_answer_that_does_not_fit_ends_the_job(
    device: Shell, tmp_path: Path, small: Path
) -> None:
    """Though the runner knows nothing of it, and waits for its next frame."""
    full = replace(device, workdir=str(small / "board"))
    with full.start([sys.executable, "-u", "-c", LARGE], tmp_path / "log") as job:
        for _ in range(2):
            job.send({})
            job.receive(20.0)
        job.send({})
        with pytest.raises(BenchError, match=r"is full: an answer did not fit.*free some space"):
            job.receive(60.0)
    assert all_gone(small, 5.0)


def test_what_a_restart_left_is_swept(device: Shell, tmp_path: Path) -> None:
    """A process number in a file may be anybody's after a restart: here it is the tests' own."""
    old = tmp_path / "board/jobs/old/old"
    old.mkdir(parents=True)
    (old / "pid").write_text("1\n")
    with device.start(ECHO, tmp_path / "log"):
        assert not old.exists()


def test_the_environment_is_clean(
    device: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    code = """
import json, os, sys
print(json.dumps({"x": [dict(os.environ), sys.flags.safe_path, os.getcwd()]}))
"""
    argv = [device.python, "-P", "-c", code]
    with replace(device, threads=3).start(argv, tmp_path / "log") as job:
        environment, safe, place = job.receive(20.0)[0]["x"]
    assert safe is True
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert environment["TMPDIR"] == f"{place}/tmp"
    assert "PYTHONPATH" not in environment


def test_a_setting_that_cannot_work_is_refused(device: Shell, tmp_path: Path) -> None:
    for wrong, what in (
        ({"threads": 0}, "0 threads"),
        ({"runner": "java"}, "no runner 'java'"),
        ({"affinity": ()}, "names no cores"),
        ({"patience_s": 5, "link_patience_s": 10}, "longer"),
    ):
        with pytest.raises(DeviceError, match=what):
            replace(device, **wrong).facts()


@pytest.mark.parametrize("code", [0, 7, 255])
def test_a_whole_answer_is_told_from_a_cut_one(code: int) -> None:
    found = call(["sh", "-c", wrap(f"printf 'a\\nt2e-ended 3\\n'; exit {code}")])
    assert unwrap(found) == Finished(code, b"a\nt2e-ended 3\n")
    assert unwrap(Finished(0, found.stdout[:-1])) is None
    assert unwrap(Finished(0, b"")) is None
