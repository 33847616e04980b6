"""Children that hang, die, babble or breed: each is an error, and none survives."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from torchopt2edge.devices import Local, output
from torchopt2edge.devices.child_process import ProcessJob
from torchopt2edge.errors import BenchError


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    before = psutil.Process().children(recursive=True)  # a server that other tests share
    yield
    assert set(psutil.Process().children(recursive=True)) <= set(before)


def start(code: str, folder: Path) -> ProcessJob:
    return Local().start([sys.executable, "-c", code], folder / "log.txt")


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether a process, not ours to wait for, ends or is a zombie of somebody's."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_a_frame_goes_there_and_back(tmp_path: Path) -> None:
    code = """
from torchopt2edge.runner.frames import FrameReader, encode
import os
header, arrays = FrameReader(0).read()
os.write(1, encode({"got": header["n"]}, {name: value * 2 for name, value in arrays.items()}))
"""
    with start(code, tmp_path) as job:
        job.send({"n": 7}, {"a": np.arange(3, dtype=np.int16)})
        header, arrays = job.receive(60.0)
    assert header == {"got": 7}
    assert arrays["a"].tolist() == [0, 2, 4]


def test_a_hang_ends_the_whole_family(tmp_path: Path) -> None:
    code = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print('{"child": %d}' % child.pid, flush=True)
time.sleep(600)
"""
    job = start(code, tmp_path)
    child = job.receive(60.0)[0]["child"]
    with pytest.raises(BenchError, match=r"did not answer within 0\.2 s"):
        job.receive(0.2)
    assert not psutil.pid_exists(job.pid)
    assert gone(child)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_death_names_its_signal_and_last_words(tmp_path: Path, name: str) -> None:
    code = f"""
import os, signal, sys
print("terminate called: bad model", file=sys.stderr, flush=True)
os.kill(os.getpid(), signal.{name})
"""
    job = start(code, tmp_path)
    with pytest.raises(BenchError, match=f"killed by {name}; it last said: .*bad model"):
        job.receive(60.0)


def feed(job: ProcessJob, times: int) -> None:
    for _ in range(times):
        job.send({}, {"a": np.zeros(1 << 16)}, 60.0)
        time.sleep(0.01)


def test_a_death_before_the_first_word(tmp_path: Path) -> None:
    job = start("raise SystemExit(3)", tmp_path)
    with pytest.raises(BenchError, match="ended with status 3"):
        feed(job, 200)  # whether the pipe is broken yet is the kernel's affair
    with pytest.raises(BenchError, match="ended already"):
        job.receive(1.0)


@pytest.mark.parametrize("first", ["pass", "os.read(0, 20_000)"])
def test_a_child_that_stops_reading_does_not_hold_us(tmp_path: Path, first: str) -> None:
    """Also with a little room in the pipe, where a blocking write of more would block."""
    job = start(f"import os, time; {first}; time.sleep(600)", tmp_path)
    with pytest.raises(BenchError, match="did not answer"):
        job.send({}, {"big": np.zeros(1 << 20)}, 0.7)
    assert not psutil.pid_exists(job.pid)


def test_a_stopped_child_is_a_hang(tmp_path: Path) -> None:
    job = start("print('{}', flush=True); input()", tmp_path)
    job.receive(60.0)
    os.kill(job.pid, signal.SIGSTOP)
    with pytest.raises(BenchError, match="did not answer"):
        job.receive(0.2)


def test_babble_is_not_an_answer(tmp_path: Path) -> None:
    job = start("print('INFO: Created TensorFlow Lite XNNPACK delegate for CPU.')", tmp_path)
    with pytest.raises(BenchError, match=r"not made of frames.*XNNPACK"):
        job.receive(60.0)


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    job = start("import time; time.sleep(600)", tmp_path)
    job.close()
    job.close()
    assert not psutil.pid_exists(job.pid)


def test_a_child_that_says_more_than_a_log_holds_works_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "MOST_LOG", 100_000)
    monkeypatch.setattr(output.Log.__init__, "__defaults__", (100_000,))
    code = """
import sys
for line in sys.stdin:
    sys.stderr.write("x" * 999_999 + "\\n")
    sys.stderr.flush()
    print(line, end="", flush=True)
"""
    with start(code, tmp_path) as job:
        for at in range(3):
            job.send({"n": at})
            assert job.receive(60.0)[0] == {"n": at}
    said = (tmp_path / "log.txt").read_text()
    assert len(said) < 101_000
    assert said.endswith("[the log is full: what follows is left out]\n")


@pytest.mark.parametrize("flood", [b"x" * 1000, b"[[[[\n", b"\n", b'{"a": 1}\n'])
def test_a_child_that_prints_without_an_end_is_refused(tmp_path: Path, flood: bytes) -> None:
    """Frames that nobody asked for are read one by one, and no further."""
    code = f"""
import os
while True:
    os.write(1, {flood * 100!r})
"""
    with start(code, tmp_path) as job:
        if flood.startswith(b"{"):
            assert [job.receive(60.0)[0] for _ in range(1000)] == [{"a": 1}] * 1000
            return
        with pytest.raises(BenchError, match="not made of frames"):
            job.receive(60.0)
