"""Progress on a terminal and in a log; a task that fails says so by not ending."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from torchopt2edge.workflow.progress import LogProgress, Progress, RichProgress


def console() -> Console:
    """Return a console that writes into memory."""
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def told(one: Console) -> str:
    """Return what was written."""
    assert isinstance(one.file, io.StringIO)
    return one.file.getvalue()


def walk(progress: Progress) -> None:
    """Open a task and tick."""
    with progress.task("calibrate [int8]") as tick:
        tick(1, 2, "ort-int8")
        tick(2, 2, "litert-int8")


def test_a_log_says_when_it_starts_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "torchopt2edge"):
        walk(LogProgress())
    start, *ticks, end = [record.getMessage() for record in caplog.records]
    assert start == "calibrate [int8] …"
    assert ticks == ["calibrate [int8] 1/2 ort-int8", "calibrate [int8] 2/2 litert-int8"]
    assert end.startswith("calibrate [int8]: ")
    assert end.endswith(" s")


def test_ticks_are_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "torchopt2edge"):
        walk(LogProgress())
    assert len(caplog.records) == 2


def fail(progress: Progress) -> None:
    """Fail in the middle of a task."""
    with progress.task("measure") as tick:
        tick(1, 2, "ort-int8")
        raise ZeroDivisionError


def test_a_failed_task_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "torchopt2edge"),
        pytest.raises(ZeroDivisionError),
    ):
        fail(LogProgress())
    assert [record.getMessage() for record in caplog.records] == ["measure …"]


def test_a_terminal_shows_a_finished_line() -> None:
    one = console()
    walk(RichProgress(one))
    last = told(one).rpartition("\r")[2]
    assert "calibrate [int8]" in last, "brackets in a title are no markup"
    assert "✓" in last
    assert "0:00:0" in last
    assert "litert-int8" not in last


def test_a_failed_task_leaves_the_terminal_in_order() -> None:
    one = console()
    with pytest.raises(ZeroDivisionError):
        fail(RichProgress(one))
    assert "✓" not in told(one)
    assert "\x1b[?25h" in told(one), "the cursor is shown again"
    walk(RichProgress(one))
    assert "✓" in told(one)


def test_a_bar_moves_with_the_epochs_of_a_training() -> None:
    from torchopt2edge.workflow.progress import _place, log

    record = log.makeRecord(
        "torchopt2edge", 20, "", 0, "epoch %d", (3,), None, extra={"done": 3, "total": 9}
    )
    assert _place(record) == {"what": "epoch 3", "completed": 3, "total": 9}
    plain = log.makeRecord("torchopt2edge", 20, "", 0, "hello", (), None)
    assert _place(plain) == {"what": "hello"}
