"""What jobs of every kind share: how they are asked, and what is said of how they ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchopt2edge.devices.frame_job import FrameJob, ended, last_words
from torchopt2edge.errors import BenchError


class Scripted(FrameJob):
    """A job that gives the bytes of a list, one item at each look."""

    def __init__(self, log: Path, pieces: list[bytes]) -> None:
        super().__init__(log)
        self.pieces = pieces
        self.taken: list[bytes] = []
        self.stops = 0

    def _put(self, body: bytes, timeout_s: float) -> None:
        self.taken.append(body)

    def _fetch(self, left_s: float) -> float:
        if not self.pieces:
            return left_s
        self._frames.feed(self.pieces.pop(0))
        return left_s / 100

    def _stop(self) -> None:
        self.stops += 1


def test_frames_are_given_whole_however_they_come(tmp_path: Path) -> None:
    with Scripted(tmp_path / "log", [b'{"n"', b": 1}\n{", b'"n": 2}\n']) as job:
        job.send({"cmd": "x"})
        assert job.taken == [b'{"cmd": "x"}\n']
        assert [job.receive(1.0)[0]["n"] for _ in range(2)] == [1, 2]
        with pytest.raises(BenchError, match="did not answer within 1 s and was killed"):
            job.receive(1.0)
        with pytest.raises(BenchError, match="was ended already"):
            job.send({})
    assert job.stops == 1


def test_what_is_no_frame_ends_the_job_and_nothing_is_read_behind_it(tmp_path: Path) -> None:
    job = Scripted(tmp_path / "log", [b'{"arrays": 5}\n{"n": 1}\n'])
    with pytest.raises(BenchError, match="announces an array that is none"):
        job.receive(1.0)
    assert job.closed


def test_the_last_words_come_from_the_end_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("early\n" * 100_000 + "out of \x1b[31mmemory\n")
    job = Scripted(tmp_path / "log", [])
    with pytest.raises(BenchError) as caught:
        job.receive(0.0)
    assert caught.value.what.endswith("early | out of  [31mmemory")


def test_of_a_traceback_the_last_words_are_what_happened() -> None:
    said = """loading
Traceback (most recent call last):
  File "runner.py", line 42, in <module>
    import numpy
ModuleNotFoundError: No module named 'numpy'
bye
"""
    told = "loading | ModuleNotFoundError: No module named 'numpy' | bye"
    assert last_words(said) == f"; it last said: {told}"
    assert last_words("") == ""
    assert len(last_words("x" * 10_000)) < 2100


def test_an_end_is_told_by_its_signal_or_its_status() -> None:
    assert ended(-9) == "was killed by SIGKILL"
    assert ended(-99) == "was killed by signal 99"
    assert ended(3) == "ended with status 3"
