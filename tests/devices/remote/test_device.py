"""What a device at the end of a link does while that is down."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.devices.serving import all_gone
from tests.devices.shells import ECHO, Shell, made
from torchopt2edge.devices.remote import device as remote
from torchopt2edge.devices.remote import job
from torchopt2edge.devices.remote.transport import LinkDown


@pytest.fixture
def device(tmp_path: Path) -> Shell:
    """This machine, seen through a shell."""
    return made("dash", tmp_path)


def test_whoever_watches_is_told_of_a_link_that_is_down(
    device: Shell, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and when it is back; a short cut is none of his affair."""
    device.cuts.plan = ["before"]
    device.run(":")
    assert caplog.messages == []
    monkeypatch.setattr(remote, "_SILENCE_S", 0.1)
    device.cuts.plan = ["before"] * 3
    device.run(":")
    first, last = caplog.messages
    assert first.startswith("cut before; it is tried again for ")
    assert last == f"{device.name} answers again"


def test_only_one_that_never_answered_is_given_up_at_once(
    device: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong address is told at once; one that answered may be a machine that starts again."""
    monkeypatch.setattr(remote, "_FIRST_CONTACT_S", 0.0)
    tries: list[bool] = []

    def act() -> None:
        if tries.pop(0):
            raise LinkDown("nobody there", absent=True)

    def fails(one: Shell, times: int) -> int:
        tries[:] = [True] * times
        with pytest.raises(LinkDown, match="nobody there"):
            one.retry(act)
        return times - len(tries)

    assert fails(device, 3) == 1
    device.run(":")
    tries[:] = [True, True, False]
    device.retry(act)
    assert fails(replace(device, link_patience_s=0.3), 9) == 2  # its patience, once
    assert fails(device, 3) == 1


def test_one_that_is_gone_at_the_end_keeps_its_facts(
    device: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    """What was measured until then is worth more than how busy it is now."""
    lost = replace(device, link_patience_s=0.1)
    lost.cuts.plan = ["before"]
    with pytest.raises(LinkDown):
        lost.facts()
    known = lost.facts()
    lost.cuts.plan = ["before"]
    found = lost.facts()
    busy = ("load", "steal", "governor", "other_jobs")
    assert {found[name] for name in busy} == {"unavailable"}
    assert caplog.messages == []
    same = ("cpu", "arch", "cores", "os", "kernel")
    assert [found[name] for name in same] == [known[name] for name in same]


def test_the_end_of_many_jobs_waits_once_for_a_link_that_is_down(
    device: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device ends them by itself; so does Ctrl-C end here."""
    monkeypatch.setattr(job, "_FAREWELL_S", 0.5)
    short = replace(device, patience_s=4, link_patience_s=1)
    jobs = [short.start(ECHO, tmp_path / f"log{at}") for at in range(4)]
    short.cuts.plan = ["before"] * 99
    begin = len(short.cuts.plan)
    for stream in short.cuts.streams:
        os.killpg(stream.pid, signal.SIGKILL)
    jobs[0].close()
    once = begin - len(short.cuts.plan)
    for one in jobs[1:]:
        one.close()
    assert once == begin - len(short.cuts.plan) > 0
    assert all_gone(tmp_path / "board", 15.0)


def test_another_run_on_the_device_is_told(
    device: Shell, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not our own jobs, nor what a machine that was switched off left behind."""
    with device.start(ECHO, tmp_path / "log"):
        assert device.facts()["other_jobs"] == 0
        assert caplog.messages == []
        monkeypatch.setattr(remote, "RUN", "another")
        assert device.facts()["other_jobs"] == 1
        assert caplog.messages == [
            f"another run measures on {device.name} now: each disturbs the other"
        ]
    left = tmp_path / "board" / "jobs" / "some" / "job"
    left.mkdir(parents=True)
    (left / "pid").write_text("1\n")
    assert device.facts()["other_jobs"] == 0
