"""A job's channel in three devices' shells: what is cut anywhere is neither lost nor doubled."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.devices.serving import all_gone, supervisors
from tests.devices.shells import COUNT, ECHO, SHELLS, Cuts, Shell, made
from torchopt2edge.devices.remote.stream import SMALL, Channel, Event, Stream, line
from torchopt2edge.devices.remote.transport import LinkDown
from torchopt2edge.errors import BenchError, DeviceError


@pytest.fixture(params=SHELLS)
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    """This machine, seen through each shell."""
    return made(request.param, tmp_path)


@pytest.fixture
def dash(tmp_path: Path) -> Shell:
    """One of them, where the shell makes no difference."""
    return made("dash", tmp_path)


def test_frames_of_any_size_and_byte_go_there_and_back(device: Shell, tmp_path: Path) -> None:
    with device.start(ECHO, tmp_path / "log") as job:
        for size in (0, 1, 256, SMALL - 200, SMALL, 1_000_000):
            values = np.random.default_rng(size).permutation(np.arange(size).astype(np.uint8))
            job.send({"size": size}, {"a": values})
            header, arrays = job.receive(20.0)
            assert header == {"size": size}
            np.testing.assert_array_equal(arrays["a"], values)
    assert len(device.cuts.channels) == 1
    assert device.cuts.commands == 1
    assert all_gone(tmp_path / "board", 5.0)


def test_frames_that_nobody_waits_for_come_in_order(device: Shell, tmp_path: Path) -> None:
    with device.start([sys.executable, "-c", COUNT], tmp_path / "log") as job:
        for at in range(1, 6):
            job.send({"at": at})
        assert [job.receive(20.0)[0]["got"]["at"] for _ in range(5)] == [1, 2, 3, 4, 5]


def test_a_client_killed_at_any_moment_loses_and_doubles_no_frame(
    device: Shell, tmp_path: Path
) -> None:
    chance = random.Random(0)
    with device.start([sys.executable, "-c", COUNT], tmp_path / "log") as job:
        for at in range(1, 9):
            with killed_after(device.cuts, chance.uniform(0.0, 0.05)):
                job.send({"at": at, "fill": "x" * chance.choice([0, 100_000])})
                assert job.receive(20.0)[0]["n"] == at
        job.send({"last": 9})
        assert job.receive(20.0)[0] == {"n": 9, "got": {"last": 9}}
    assert all_gone(tmp_path / "board", 5.0)


@contextlib.contextmanager
def killed_after(cuts: Cuts, seconds: float) -> Iterator[None]:
    """Kill the newest client so many seconds after the block began."""

    def kill() -> None:
        for channel in cuts.channels[-1:]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(channel.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    yield
    timer.join()


def test_a_channel_that_hangs_is_given_up_and_ended(device: Shell, tmp_path: Path) -> None:
    """As behind a cable that was pulled: its shells on the device hear of no end."""
    short = replace(device, patience_s=12, link_patience_s=8)
    with short.start(ECHO, tmp_path / "log") as job:
        job.send({"n": 1})
        job.receive(20.0)
        before = device.cuts.channels[-1]
        os.killpg(before.pid, signal.SIGSTOP)
        job.send({"n": 2})
        assert job.receive(1.0)[0] == {"n": 2}
        assert len(device.cuts.channels) == 2
        assert not psutil.pid_exists(before.pid)
    assert all_gone(tmp_path / "board", 5.0)


def test_a_hang_of_the_runner_is_none_of_the_channel(device: Shell, tmp_path: Path) -> None:
    job = device.start(["sleep", "600"], tmp_path / "log")
    with pytest.raises(BenchError, match=r"did not answer within 0\.5 s"):
        job.receive(0.5)
    assert len(device.cuts.channels) == 1
    assert all_gone(tmp_path / "board", 5.0)


def test_an_end_is_told_with_its_status_and_last_words(device: Shell, tmp_path: Path) -> None:
    with device.start(["sh", "-c", "echo out of luck >&2; exit 3"], tmp_path / "log") as job:
        with pytest.raises(BenchError, match="ended with status 3; it last said: out of luck"):
            job.receive(20.0)
    with device.start(["sh", "-c", "kill -SEGV $$"], tmp_path / "log") as job:
        job.send({"a": 1})
        with pytest.raises(BenchError, match="killed by SIGSEGV"):
            job.receive(20.0)
    with device.start(["sh", "-c", "sleep 600 & exit 5"], tmp_path / "log") as job:
        with pytest.raises(BenchError, match="ended with status 5"):
            job.receive(20.0)
    assert all_gone(tmp_path / "board", 5.0)


def test_the_last_answer_comes_before_the_end(device: Shell, tmp_path: Path) -> None:
    with device.start(["sh", "-c", "echo '{\"n\": 1}'"], tmp_path / "log") as job:
        assert job.receive(20.0)[0] == {"n": 1}
        with pytest.raises(BenchError, match="ended with status 0"):
            job.receive(20.0)


def test_a_job_that_is_waited_for_outlives_its_patience(device: Shell, tmp_path: Path) -> None:
    """One wait, longer than the patience: the signs of life go over the channel."""
    short = replace(device, patience_s=3, link_patience_s=1)
    with short.start(["sh", "-c", "sleep 8; echo '{}'"], tmp_path / "log") as job:
        assert job.receive(20.0)[0] == {}
    assert device.cuts.commands <= 2  # a runner that ended took the channel along


def test_a_job_that_hears_nothing_takes_its_channel_along(device: Shell, tmp_path: Path) -> None:
    """The client is stopped, not ended, as behind a pulled cable; the shells still go."""
    short = replace(device, patience_s=3, link_patience_s=1)
    job = short.start(ECHO, tmp_path / "log")
    job.send({"n": 1})
    job.receive(20.0)
    deadline = time.monotonic() + 12.0
    while supervisors(tmp_path / "board"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(BenchError, match="the job is no more"):
        job.receive(5.0)


def test_a_host_that_is_killed_leaves_nothing(device: Shell, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from tests.devices.shells import Shell
device = Shell(kind={device.kind!r}, root=Path({str(tmp_path)!r}), talks=True,
               workdir={device.workdir!r}, patience_s=4, link_patience_s=2)
job = device.start({ECHO!r}, Path({str(tmp_path / "log")!r}))
job.send({{"n": 1}})
job.receive(20.0)
print("up", flush=True)
job.receive(600.0)
"""
    host = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert host.stdout is not None
    assert host.stdout.readline() == b"up\n"
    assert supervisors(tmp_path / "board")
    host.kill()
    host.wait()
    host.stdout.close()
    assert all_gone(tmp_path / "board", 15.0)


def test_a_link_that_stays_cut_is_an_error_and_ends_the_job(device: Shell, tmp_path: Path) -> None:
    short = replace(device, patience_s=4, link_patience_s=1)
    job = short.start(ECHO, tmp_path / "log")
    job.send({})
    device.cuts.plan = ["before"] * 50
    os.killpg(device.cuts.channels[-1].pid, signal.SIGKILL)
    with pytest.raises(BenchError, match=r"shell:\w+ was lost: cut before"):
        job.receive(5.0)
    assert all_gone(tmp_path / "board", 15.0)


@pytest.mark.parametrize("lacking", ["head", "mkfifo"])
def test_a_device_that_lacks_something_does_without(tmp_path: Path, lacking: str) -> None:
    device = made("busybox", tmp_path)
    _ = device.link
    refuse(tmp_path / "bin" / lacking)
    with device.start([sys.executable, "-c", COUNT], tmp_path / "log") as job:
        for at in (1, 2, 3):
            job.send({"at": at})
            assert job.receive(20.0)[0] == {"n": at, "got": {"at": at}}
    assert len(device.cuts.channels) == 1
    assert all_gone(tmp_path / "board", 10.0)


def test_a_device_whose_dd_reads_not_exactly_gets_large_frames_otherwise(tmp_path: Path) -> None:
    device = made("busybox", tmp_path)
    _ = device.link
    real = shutil.which("dd")
    (tmp_path / "bin/dd").unlink()
    (tmp_path / "bin/dd").write_text(
        f'#!/bin/sh\ncase "$*" in *fullblock*) exit 1 ;; esac\nexec {real} "$@"\n'
    )
    (tmp_path / "bin/dd").chmod(0o755)
    with device.start([sys.executable, "-c", COUNT], tmp_path / "log") as job:
        for at, fill in ((1, ""), (2, "x" * 100_000), (3, "")):
            job.send({"at": at, "fill": fill})
            assert job.receive(20.0)[0] == {"n": at, "got": {"at": at, "fill": fill}}
    assert len(device.cuts.channels) == 2  # what is brought otherwise ends the first
    assert all_gone(tmp_path / "board", 5.0)


def refuse(program: Path) -> None:
    """Put a program in another's place that fails."""
    program.unlink()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)


def test_a_device_is_asked_once_for_what_stays(dash: Shell, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"a net")
    before = dash.cuts.commands
    target = dash.push(file)
    first = dash.facts()
    asked = dash.cuts.commands - before
    assert dash.push(file) == target
    assert dash.cuts.commands - before == asked
    again = dash.facts()
    assert dash.cuts.commands - before == asked + 1
    assert again.keys() == first.keys()
    file.write_bytes(b"another")
    assert dash.push(file) != target
    assert Path(dash.push(file)).read_bytes() == b"another"


def test_a_file_that_was_removed_meanwhile_is_an_error_and_sent_anew(
    dash: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"a net")
    target = Path(dash.push(file))
    target.unlink()
    with pytest.raises(DeviceError, match=r"net\.onnx is no more on shell:dash.*run it again"):
        dash.start(ECHO, tmp_path / "log")
    assert dash.push(file) == str(target)
    assert target.read_bytes() == b"a net"
    dash.start(ECHO, tmp_path / "log").close()


def test_a_stream_is_read_the_same_however_it_is_cut() -> None:
    whole = b"a banner\nt2e-open 3 1\nt2e-piece 5\n\nt2e-t2e-alive\nt2e-alive x\nt2e-ended 61 7\n"
    for at in range(len(whole)):
        stream, found = Stream(), []
        for part in (whole[:at], whole[at:]):
            stream.feed(part)
            while (event := stream.next()) is not None:
                found.append(event)
        assert found[0] == Event("open", ("3", "1"))
        assert b"".join(one.body for one in found) == b"\nt2e-"
        kinds = [one.kind for one in found if one.kind != "piece"]
        assert kinds == ["open", "alive", "alive", "ended"]


def test_a_line_holds_nothing_that_a_shell_would_read_as_more() -> None:
    body = bytes(range(256))
    spelt = line(7, body, "w")
    assert spelt.startswith(b"7 256 w ")
    assert spelt.count(b"\n") == 1
    assert spelt.count(b" ") == 3
    found = subprocess.run(["printf", "%b", spelt.split(b" ")[3][:-1]], capture_output=True)
    assert found.stdout == body
    raw = line(7, body * 32, "w")
    assert raw == b"7 8192 w\n" + body * 32


def test_a_client_that_ends_says_why() -> None:
    channel = Channel.start(["sh", "-c", "echo no such host >&2; exit 3"])
    with pytest.raises(LinkDown, match="no such host"):
        channel.read(time.monotonic() + 20.0)
    channel.close()
    with pytest.raises(DeviceError, match="is not installed here"):
        Channel.start(["there-is-no-such-client"])
