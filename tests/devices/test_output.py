"""What a child writes is read with a bound on both pipes, whatever it leaves behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from torchopt2edge.devices.answers import AnswerError
from torchopt2edge.devices.output import Log, Tail
from torchopt2edge.devices.remote.transport import LinkDown, call


def test_both_pipes_and_the_input_go_their_ways_at_once() -> None:
    """More than a pipe holds in each of the three."""
    script = "cat; yes e | tr -d '\\n' | head -c 300000 >&2; echo end"
    found = call(["sh", "-c", script], b"i" * 1_000_000)
    assert found.stdout == b"i" * 1_000_000 + b"end\n"
    assert found.stderr == b"e" * 300_000
    assert call(["sh", "-c", "exec <&-; sleep 0.1; echo x"], b"i" * 1_000_000).stdout == b"x\n"


def test_an_endless_stdout_is_refused_and_its_child_ended() -> None:
    begin = time.monotonic()
    with pytest.raises(AnswerError, match="more than 1000 bytes came, which no answer has"):
        call(["sh", "-c", "exec yes"], most=1000)
    assert time.monotonic() - begin < 30.0
    assert call(["sh", "-c", "head -c 1000 /dev/zero"], most=1000).stdout == bytes(1000)


def test_of_an_endless_stderr_the_end_is_kept() -> None:
    found = call(["sh", "-c", "yes | head -c 9000000 >&2; echo last >&2"])
    assert len(found.stderr) == 1 << 20
    assert found.said == "last"
    with pytest.raises(LinkDown, match="within 1 s"):
        call(["sh", "-c", "exec yes >&2"], timeout_s=1.0)


def test_a_child_that_leaves_another_behind_is_not_waited_for_twice() -> None:
    """As ssh does, whose master holds the pipe of its errors open."""
    begin = time.monotonic()
    found = call(["sh", "-c", "sleep 20 & echo done"], timeout_s=15.0)
    assert found.stdout == b"done\n"
    assert time.monotonic() - begin < 10.0


def test_a_tail_keeps_the_end() -> None:
    tail = Tail(10)
    for at in range(100):
        tail.add(b"%d," % at)
    assert tail.kept == b",97,98,99,"


def test_a_log_is_bounded_and_none_is_no_failure(tmp_path: Path) -> None:
    log = Log(tmp_path / "deep/log", 10)
    for _ in range(3):
        log.add(b"12345678")
    assert (tmp_path / "deep/log").read_text().startswith("1234567812\n[the log is full")
    (tmp_path / "file").write_text("")
    nowhere = Log(tmp_path / "file/log")
    nowhere.add(b"x")
    assert nowhere.last() == ""
