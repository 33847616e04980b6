"""A job's mailbox in the shells and with the tools of a Debian, a BusyBox and an Android device."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.devices.serving import all_gone, skip, supervisors
from tests.devices.shells import COUNT, ECHO, SHELLS, Shell, made
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
    return made(request.param, tmp_path, talks=False)


def test_frames_of_any_size_go_there_and_back(device: Shell, tmp_path: Path) -> None:
    with device.start(ECHO, tmp_path / "log") as job:
        for size in (0, 1, 100_000):
            values = np.random.default_rng(size).integers(0, 256, size, np.uint8)
            job.send({"size": size}, {"a": values})
            header, arrays = job.receive(20.0)
            assert header == {"size": size}
            np.testing.assert_array_equal(arrays["a"], values)
    assert all_gone(tmp_path / "board", 5.0)
    assert [path.name for path in (tmp_path / "board").iterdir()] == ["jobs"]


def test_a_link_cut_anywhere_loses_and_doubles_no_frame(device: Shell, tmp_path: Path) -> None:
    """Before the script ran, in the middle of the frame, and after it all was done."""
    device.cuts.plan = ["after", "before", "stdin"]  # the job itself is started three times
    with device.start([sys.executable, "-c", COUNT], tmp_path / "log") as job:
        for at, cuts in enumerate((["before"], ["stdin"], ["after"], ["after", "stdin"]), 1):
            device.cuts.plan = list(cuts)
            job.send({"at": at})
            assert job.receive(20.0)[0] == {"n": at, "got": {"at": at}}
        assert supervisors(tmp_path / "board")
    assert all_gone(tmp_path / "board", 5.0)


def test_a_link_that_stays_cut_is_an_error_and_ends_the_job(device: Shell, tmp_path: Path) -> None:
    short = replace(device, patience_s=4, link_patience_s=1)
    job = short.start(ECHO, tmp_path / "log")
    job.send({})
    device.cuts.plan = ["before"] * 50
    with pytest.raises(BenchError, match=r"shell:\w+ was lost: cut before"):
        job.receive(5.0)
    job.close()
    assert all_gone(tmp_path / "board", 15.0)


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


def test_an_end_is_told_with_its_status_and_last_words(device: Shell, tmp_path: Path) -> None:
    with device.start(["sh", "-c", "echo out of luck >&2; exit 3"], tmp_path / "log") as job:
        with pytest.raises(BenchError, match="ended with status 3; it last said: out of luck"):
            job.receive(20.0)
    with device.start(["sh", "-c", "kill -SEGV $$"], tmp_path / "log") as job:
        job.send({"a": 1})
        with pytest.raises(BenchError, match="killed by SIGSEGV"):
            job.receive(20.0)


def test_an_end_is_seen_though_a_child_holds_the_output(device: Shell, tmp_path: Path) -> None:
    with device.start(["sh", "-c", "sleep 600 & exit 5"], tmp_path / "log") as job:
        with pytest.raises(BenchError, match="ended with status 5"):
            job.receive(20.0)
    assert all_gone(tmp_path / "board", 5.0)


@pytest.mark.parametrize("talks", [False, True])
def test_an_answer_that_does_not_fit_ends_the_job(
    device: Shell, tmp_path: Path, small: Path, talks: bool
) -> None:
    """Though the runner knows nothing of it, and waits for its next frame."""
    full = replace(device, workdir=str(small / "board"), talks=talks)
    with full.start([sys.executable, "-u", "-c", LARGE], tmp_path / "log") as job:
        for _ in range(2):
            job.send({})
            job.receive(20.0)
        job.send({})
        with pytest.raises(BenchError, match=r"is full: an answer did not fit.*free some space"):
            job.receive(60.0)
    assert all_gone(small, 5.0)


def test_the_last_answer_comes_before_the_end(device: Shell, tmp_path: Path) -> None:
    with device.start(["sh", "-c", "echo '{\"n\": 1}'"], tmp_path / "log") as job:
        time.sleep(0.5)
        assert job.receive(20.0)[0] == {"n": 1}
        with pytest.raises(BenchError, match="ended with status 0"):
            job.receive(20.0)


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


def test_few_commands_are_needed(device: Shell, tmp_path: Path) -> None:
    before = device.cuts.commands
    with device.start(ECHO, tmp_path / "log") as job:
        for at in range(3):
            job.send({"n": at})
            job.receive(20.0)
    assert device.cuts.commands - before <= 1 + 3 + 1 + 3  # an echo may come in two pieces


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


def test_a_folder_without_named_pipes_will_do(tmp_path: Path) -> None:
    """FAT on a phone's card, and some network drives: the waits are looks then."""
    device = Shell(root=tmp_path, workdir=str(tmp_path / "board"), kind="busybox")
    if not shutil.which("busybox"):
        skip("there is no busybox")
    _ = device.link
    (tmp_path / "bin/mkfifo").unlink()
    (tmp_path / "bin/mkfifo").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin/mkfifo").chmod(0o755)
    with device.start([sys.executable, "-c", COUNT], tmp_path / "log") as job:
        for at in (1, 2, 3):
            job.send({"at": at})
            assert job.receive(20.0)[0] == {"n": at, "got": {"at": at}}
        assert not [*(tmp_path / "board").rglob("bell")]
    assert all_gone(tmp_path / "board", 10.0)
