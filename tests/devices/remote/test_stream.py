"""A job's stream in three devices' shells: what is cut anywhere is neither lost nor doubled."""

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
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.devices.serving import all_gone, supervisors
from tests.devices.shells import COUNT, ECHO, SHELLS, Cuts, Shell, ShellLink, made
from tests.hostile import EXAMPLES, damaged
from torchopt2edge.devices.remote import job_scripts, stream_client
from torchopt2edge.devices.remote.device import Remote
from torchopt2edge.devices.remote.stream import PUSHED, SMALL, Event, EventReader, Stream, line
from torchopt2edge.devices.remote.transport import Finished, LinkDown
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
    assert len(device.cuts.streams) == 1
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
        for stream in cuts.streams[-1:]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(stream.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    yield
    timer.join()


def test_a_stream_that_hangs_is_given_up_and_ended(device: Shell, tmp_path: Path) -> None:
    """As behind a cable that was pulled: its shells on the device hear of no end."""
    short = replace(device, patience_s=12, link_patience_s=8)
    with short.start(ECHO, tmp_path / "log") as job:
        job.send({"n": 1})
        job.receive(20.0)
        before = device.cuts.streams[-1]
        os.killpg(before.pid, signal.SIGSTOP)
        job.send({"n": 2})
        assert job.receive(1.0)[0] == {"n": 2}
        assert len(device.cuts.streams) == 2
        assert not psutil.pid_exists(before.pid)
    assert all_gone(tmp_path / "board", 5.0)


def test_a_hang_of_the_runner_is_none_of_the_stream(device: Shell, tmp_path: Path) -> None:
    job = device.start(["sleep", "600"], tmp_path / "log")
    with pytest.raises(BenchError, match=r"did not answer within 0\.5 s"):
        job.receive(0.5)
    assert len(device.cuts.streams) == 1
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
    """One wait, longer than the patience: the signs of life go over the stream."""
    short = replace(device, patience_s=3, link_patience_s=1)
    with short.start(["sh", "-c", "sleep 8; echo '{}'"], tmp_path / "log") as job:
        assert job.receive(20.0)[0] == {}
    assert (
        device.cuts.commands <= 2
    )  # the stream ends with the runner; what is left is removed by another


def test_a_job_that_hears_nothing_takes_its_stream_along(device: Shell, tmp_path: Path) -> None:
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
device = Shell(kind={device.kind!r}, root=Path({str(tmp_path)!r}),
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
    os.killpg(device.cuts.streams[-1].pid, signal.SIGKILL)
    with pytest.raises(BenchError, match=r"shell:\w+ was lost: cut before"):
        job.receive(5.0)
    assert all_gone(tmp_path / "board", 15.0)


def test_a_link_that_breaks_at_every_start_starts_one_job(device: Shell, tmp_path: Path) -> None:
    device.cuts.plan = ["before", "after", "before", "after"]
    with device.start([sys.executable, "-c", COUNT], tmp_path / "log") as job:
        job.send({"at": 1})
        assert job.receive(20.0)[0] == {"n": 1, "got": {"at": 1}}
        assert len([*(tmp_path / "board").glob("jobs/*/*/pid")]) == 1
    assert all_gone(tmp_path / "board", 5.0)


@pytest.mark.parametrize("lacking", ["head", "mkfifo", "head mkfifo dd"])
def test_a_device_that_lacks_something_does_without(tmp_path: Path, lacking: str) -> None:
    """Named pipes on a phone's card, ``head -c`` and an exact ``dd`` in a small BusyBox."""
    device = made("busybox", tmp_path)
    _ = device.link
    for program in lacking.split():
        refuse(tmp_path / "bin" / program, when="*fullblock*" if program == "dd" else "*")
    with device.start([sys.executable, "-c", COUNT], tmp_path / "log") as job:
        for at, fill in ((1, ""), (2, "x" * 20_000), (3, "")):
            with killed_after(device.cuts, 0.1) if at == 3 else contextlib.nullcontext():
                job.send({"at": at, "fill": fill})
                assert job.receive(20.0)[0] == {"n": at, "got": {"at": at, "fill": fill}}
        job.send({"last": 4})
        assert job.receive(20.0)[0] == {"n": 4, "got": {"last": 4}}
    assert all_gone(tmp_path / "board", 10.0)


def test_a_device_without_named_pipes_says_that_it_lives(tmp_path: Path) -> None:
    device = replace(made("busybox", tmp_path), patience_s=12, link_patience_s=8)
    _ = device.link
    refuse(tmp_path / "bin/mkfifo")
    with device.start(["sh", "-c", "sleep 8; echo '{}'; cat"], tmp_path / "log") as job:
        assert job.receive(20.0)[0] == {}
        assert len(device.cuts.streams) == 1
    with pytest.raises(BenchError, match=r"did not answer within 0\.5 s"):
        device.start(["sleep", "600"], tmp_path / "log").receive(0.5)
    assert all_gone(tmp_path / "board", 10.0)


def test_a_device_whose_dd_reads_not_exactly_gets_large_frames_as_files(tmp_path: Path) -> None:
    device = made("busybox", tmp_path)
    _ = device.link
    refuse(tmp_path / "bin/dd", when="*fullblock*")
    with device.start([sys.executable, "-c", COUNT], tmp_path / "log") as job:
        for at, fill in ((1, ""), (2, "x" * 100_000), (3, "")):
            sent = device.cuts.sent
            job.send({"at": at, "fill": fill})
            assert job.receive(20.0)[0] == {"n": at, "got": {"at": at, "fill": fill}}
            assert (device.cuts.sent > sent) is (at == 2)
        assert not [*(tmp_path / "board").rglob(PUSHED)]
    assert len(device.cuts.streams) == 1
    assert all_gone(tmp_path / "board", 5.0)


@dataclass(frozen=True)
class Grouped(Shell):
    """A device whose server starts a command within its own group of processes (dropbear)."""

    @cached_property
    def link(self) -> ShellLink:
        """The link to nowhere, with a shell around the one that runs the script."""
        return GroupedLink(**vars(super().link))


class GroupedLink(ShellLink):
    """Runs a script in a child of the shell that leads its group."""

    def _argv(self, script: str) -> list[str]:
        *words, body = super()._argv(script)
        return [words[0], "-c", 'exec 3<&0; "$@" <&3 3<&- & wait $!', "sh", *words, body]


def test_a_server_that_gives_no_group_of_its_own_will_do(tmp_path: Path) -> None:
    device = Grouped(
        kind="dash", root=tmp_path, python=sys.executable, workdir=str(tmp_path / "board"),
        patience_s=30, link_patience_s=20,
    )  # fmt: skip
    with device.start([sys.executable, "-c", COUNT], tmp_path / "log") as job:
        for at in (1, 2):
            with killed_after(device.cuts, 0.1) if at == 2 else contextlib.nullcontext():
                job.send({"at": at})
                assert job.receive(20.0)[0] == {"n": at, "got": {"at": at}}
    assert all_gone(tmp_path / "board", 10.0)


def refuse(program: Path, when: str = "*") -> None:
    """Put a program in another's place that fails when its words are like a pattern."""
    real = shutil.which(program.name) or ""
    program.unlink()
    program.write_text(f'#!/bin/sh\ncase "$*" in {when}) exit 1 ;; esac\nexec {real} "$@"\n')
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
        stream, found = EventReader(), []
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
    spelt = line(7, body, "w", raw=True)
    assert spelt.startswith(b"7 256 w ")
    assert spelt.count(b"\n") == 1
    assert spelt.count(b" ") == 3
    assert spelt.count(b"@") == 0  # that is a frame that was pushed
    found = subprocess.run(["printf", "%b", spelt.split(b" ")[3][:-1]], capture_output=True)
    assert found.stdout == body
    assert line(7, body * 32, "w", raw=True) == b"7 8192 w\n" + body * 32
    assert line(7, body * 32, "w", raw=False) == b"7 8192 w @\n"


def test_a_client_that_ends_says_why() -> None:
    stream = Stream.start(["sh", "-c", "echo no such host >&2; exit 3"])
    with pytest.raises(LinkDown, match="no such host"):
        stream.read(time.monotonic() + 20.0)
    stream.close()
    with pytest.raises(DeviceError, match="is not installed here"):
        Stream.start(["there-is-no-such-client"])


def test_a_client_that_says_more_than_is_kept_is_not_held_by_it() -> None:
    flood = "yes something is wrong | head -c 3000000 >&2; echo t2e-open 0 1; sleep 600"
    stream = Stream.start(["sh", "-c", flood])
    assert stream.read(time.monotonic() + 60.0) == b"t2e-open 0 1\n"
    assert len(stream.said) <= 10 * 502
    stream.close()


HOSTILE = {
    "a line that never ends": ("tr '\\0' x </dev/zero", "no line of a job"),
    "lines that are none": ("yes", "no line of a job"),
    "words that are no numbers": ("echo t2e-open x y; cat", "no line of a job"),
    "too few words": ("echo t2e-open; cat", "no line of a job"),
    "a size that is none": ("echo t2e-open 0 1; echo t2e-piece -5; cat", "no line of a job"),
    "a size of nobody": ("echo t2e-open 0 1; echo t2e-piece 99999999999999999; cat", "no line of"),
    "an end that is none": ("echo t2e-open 0 1; echo t2e-ended 61 ٣; cat", "no line of a job"),
    "no frames": ("echo t2e-open 0 1; echo t2e-piece 9; echo nonsense; cat", "not made of frames"),
    "arrays of nobody": (
        "echo t2e-open 0 1; echo t2e-piece 200; "
        """echo '{"arrays": [{"name": "a", "dtype": "int8", "shape": [4000000000]}]}'; cat""",
        "an array that is none",
    ),
    "a strange end": ("echo t2e-open 0 1; echo t2e-ended 99 7; cat", "failed with status 99"),
    "its log without an end": (
        "echo t2e-open 0 1; echo t2e-log 99999999; yes; cat", "breaks again and again|lost|status"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class HostileLink:
    """A link to a device that answers every stream with a script of its own."""

    script: str
    streams: list[Stream] = field(default_factory=list)

    def open(self, script: str) -> Stream:
        """Start the hostile script in place of ours."""
        self.streams.append(Stream.start(["sh", "-c", self.script]))
        return self.streams[-1]

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Finished:
        """Say nothing."""
        return Finished(0)

    def recover(self) -> None:
        """Nothing helps."""


@dataclass(frozen=True)
class Hostile(Remote):
    """A device that means harm."""

    script: str = ""

    @property
    def name(self) -> str:
        """The word in the rows' ``device``."""
        return "hostile"

    @cached_property
    def link(self) -> HostileLink:
        """The link to it."""
        return HostileLink(self.script)


def ask(device: Remote, log: Path) -> None:
    """Start a job there, and wait for its answer to one frame."""
    job = device.start(["cat"], log)
    job.send({"n": 1})
    job.receive(5.0)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_device_that_means_harm_is_refused_by_name(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, why = HOSTILE[what]
    monkeypatch.setattr(stream_client, "_ROUND_TRIP_S", 3.0)
    device = Hostile(script=script, patience_s=5, link_patience_s=1)
    before = peak()
    with pytest.raises((DeviceError, BenchError), match=why):
        ask(device, tmp_path / "log")
    assert peak() - before < 100 << 20
    assert all(not psutil.pid_exists(one.pid) for one in device.link.streams)


def test_a_device_that_talks_and_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives, it says so without an end, and what it is asked for never comes."""
    monkeypatch.setattr(stream_client, "_SHORTEST_SILENCE_S", 0.5)
    monkeypatch.setattr(job_scripts, "limits", lambda patience_s: (0, 9))
    device = Hostile(script="echo t2e-open 1 1; yes t2e-alive x", patience_s=5, link_patience_s=1)
    job = device.start(["cat"], tmp_path / "log")
    job.send({"n": 1})
    with pytest.raises(BenchError, match="again and again: the device does not answer"):
        job.receive(0.2)
    assert len(device.link.streams) == 4


def test_what_a_device_says_without_an_end_is_refused(tmp_path: Path) -> None:
    device = made("dash", tmp_path)
    before = peak()
    with pytest.raises(DeviceError, match="more than 16777216 bytes came"):
        device.run("cat /dev/zero")
    found = device.run("head -c 50000000 /dev/zero | tr '\\0' x >&2; echo done")
    assert found.stdout == b"done\n"
    assert len(found.stderr) <= 1 << 20
    assert peak() - before < 200 << 20


def peak() -> int:
    """The greatest memory that this process had so far, in bytes."""
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in one]
    return int(line.split()[1]) * 1024


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(
    data=damaged(
        b"a banner\nt2e-open 3 1\nt2e-piece 5\n12345t2e-alive x\nt2e-log 3\nabct2e-ended 61 7\n",
        (b"t2e-piece 9", b"t2e-ended", b"t2e-", b"t2e-log -1\n"),
    ),
    size=st.sampled_from([1, 5, 1000]),
)
def test_a_damaged_stream_is_read_or_refused(data: bytes, size: int) -> None:
    stream, body = EventReader(), 0
    with contextlib.suppress(DeviceError):
        for at in range(0, len(data), size):
            stream.feed(data[at : at + size])
            while (event := stream.next()) is not None:
                body += len(event.body)
                assert event.kind.isprintable()
    assert body <= len(data)
