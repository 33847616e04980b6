"""A real sshd: what runs there is what runs here, and no broken link loses or leaves anything."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.devices.serving import Network, Server, all_gone, sshd, supervisors
from torchopt2edge.bench.child_session import open_child
from torchopt2edge.bench.harness import measure
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.devices.answers import AnswerError
from torchopt2edge.devices.discover import reachable
from torchopt2edge.devices.local import Local
from torchopt2edge.devices.ssh import Ssh, SshLink
from torchopt2edge.errors import BenchError, ConfigError, DeviceError
from torchopt2edge.types import Candidate

MakeNet = Callable[..., Candidate]
Sample = dict[str, np.ndarray]

ECHO = ["cat"]
"""A runner that answers with what it is asked."""


@pytest.fixture
def board(server: Server, tmp_path: Path) -> Ssh:
    """The board, with a folder of this test's own."""
    return Ssh(
        "board", config=str(server.config), python=sys.executable, workdir=str(tmp_path / "board")
    )


@pytest.fixture
def far(far_server: Server, tmp_path: Path) -> Ssh:
    """The board whose cable can be pulled."""
    return Ssh(
        "board",
        config=str(far_server.config),
        python=sys.executable,
        workdir=str(tmp_path / "board"),
    )


@pytest.mark.parametrize("runner", ["python", "native"])
def test_both_runtimes_compute_there_what_they_compute_here(
    board: Ssh, net: MakeNet, tflite: Candidate, sample: Sample, tmp_path: Path, runner: str
) -> None:
    for candidate in (net("a", depth=2), tflite):
        found = []
        for device in (Local(runner=runner), replace(board, runner=runner)):
            with open_child(candidate, device, tmp_path / "log") as session:
                found.append(next(iter(session(sample).values())))
                assert session.load_timed(sample) > 0.0
                assert len(session.round(5, 0.02, 1_000_000).latency_ns) >= 5
                assert session.stop() > 1 << 20
        np.testing.assert_array_equal(found[0], found[1])
    assert all_gone(tmp_path / "board", 5.0)


def test_a_comparison_runs_there(
    board: Ssh, net: MakeNet, tflite: Candidate, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    rows = measure([net("a"), tflite], lambda _: sample, board, brief, tmp_path / "work")
    assert [row.err for row in rows] == [None, None]
    assert {row.device for row in rows} == {"ssh:board"}
    assert rows[0].facts["arch"] == os.uname().machine
    assert all_gone(tmp_path / "board", 5.0)


def test_what_is_there_is_not_sent_again(
    board: Ssh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / 'a model\'s "file" $(touch x).onnx'
    file.write_bytes(os.urandom(1 << 20))
    sent: list[str] = []
    push = SshLink.push
    monkeypatch.setattr(
        SshLink, "push", lambda self, *words: sent.append(words[1]) or push(self, *words)
    )
    target = board.push(file)
    assert Path(target).read_bytes() == file.read_bytes()
    assert board.push(file) == target
    assert len(sent) == 1
    Path(target).write_bytes(b"spoilt")
    board.known.forget()  # as in another process: this one has seen it there
    assert board.push(file) == target
    assert len(sent) == 2
    assert Path(target).read_bytes() == file.read_bytes()
    assert [path.name for path in Path(target).parent.iterdir()] == [file.name]
    board.clean()
    assert not (tmp_path / "board").exists()


def test_facts_take_one_round_trip(board: Ssh, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    run = SshLink.run
    monkeypatch.setattr(SshLink, "run", lambda self, *words: seen.append("") or run(self, *words))
    found, here = board.facts(), Local().facts()
    same = ("cpu", "cpu_flags", "arch", "cores", "os", "kernel", "governor", "emulated")
    assert {name: found[name] for name in same} == {name: here[name] for name in same}
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (
            {"UserKnownHostsFile": "{folder}/wrong"},
            r"not the one that is known.*ssh-keygen .*-R .*ssh -F .*/config board",
        ),
        (
            {"UserKnownHostsFile": "/dev/null"},
            r"is not known here.*ssh -F .*/config board, compare the key",
        ),
        ({"IdentityFile": "{folder}/other"}, r"none of our keys.*ssh-copy-id -F .*/config board"),
        ({"Port": "1"}, r"board cannot be reached.*refused.*'ssh -F .*/config board true'"),
        ({"HostName": "no.such.host.invalid"}, r"resolve"),
    ],
)
def test_a_board_that_is_not_to_be_had_is_explained(
    server: Server, board: Ssh, tmp_path: Path, settings: dict[str, str], what: str
) -> None:
    key = " ".join((server.folder / "other.pub").read_text().split()[:2])
    (server.folder / "wrong").write_text(f"[{server.address}]:{server.port} {key}\n")
    chosen = {name: value.format(folder=server.folder) for name, value in settings.items()}
    config = server.config_with(tmp_path / "config", **chosen)
    with pytest.raises(DeviceError, match=f"(?s){what}"):
        replace(board, config=config, link_patience_s=0.5).facts()


def test_a_board_that_names_files_of_this_machine_is_refused(tmp_path: Path) -> None:
    """A server of its own, which puts lines of its own before what every command prints."""
    owned = tmp_path / "owned"
    with sshd(tmp_path / "evil", "127.0.0.1") as server:
        program = server.folder / "evil.sh"
        program.write_text(
            f"#!/bin/sh\nprintf '\\036{owned}\\nowned\\n'\n"
            'printf "warning\\033]0;owned\\007: ssh-keygen -f x -R y; touch z\\n" >&2\n'
            'exec sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        program.chmod(0o755)
        key = (server.folder / "id.pub").read_text()
        (server.folder / "authorized").write_text(f'command="{program}" {key}')
        device = Ssh("board", config=str(server.config), link_patience_s=1.0)
        with pytest.raises(AnswerError, match="a file that it was not asked for: '/"):
            device.facts()
        (*_, row) = reachable(connect=True, config=server.config)
        assert "was not asked for" in row["state"]
        assert str(row["state"]).isprintable()
        with pytest.raises(DeviceError) as caught:
            device.link.pull("/nowhere", tmp_path / "x")
        assert caught.value.what.isprintable()
        device.link.recover()
    assert not owned.exists()


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a b",
        "x;touch {}",
        "$(touch {})",
        "-oProxyCommand=touch {}",
        "a\nb",
        "`touch {}`",
        "user@",
    ],
)
def test_a_host_is_a_name_and_nothing_else(board: Ssh, tmp_path: Path, host: str) -> None:
    file = tmp_path / "touched"
    with pytest.raises(ConfigError, match=r"not the name of a host|no host is named"):
        replace(board, host=host.format(file)).facts()
    assert not file.exists()


@pytest.mark.parametrize(
    ("line", "what"), [("Bogus yes\n", r"Bad configuration option: bogus"), (None, "No such file")]
)
def test_a_configuration_that_cannot_be_read_is_not_tried_again(
    server: Server, tmp_path: Path, line: str | None, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "config"
    if line is not None:
        config.write_text(server.config.read_text() + line)
    with pytest.raises(DeviceError, match=rf"configuration: .*{what}.*'ssh -F .* board true'"):
        Ssh("board", config=str(config)).facts()
    assert caplog.messages == []


def test_a_machine_without_ssh(board: Ssh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for act in (Ssh.facts, lambda one: one.start(["sh"], tmp_path / "log")):
        with pytest.raises(DeviceError, match=r"ssh is not installed here.*openssh-client"):
            act(board)


def test_a_missing_program_and_a_folder_that_refuses(board: Ssh, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"no program nowhere/python.*device\.python"):
        replace(board, python="nowhere/python").start(["nowhere/python", "x"], tmp_path / "log")
    for act in (
        lambda one: one.start(["sh"], tmp_path / "log"),
        lambda one: one.push(Path(__file__)),
    ):
        with pytest.raises(DeviceError, match=r"cannot be written.*device\.workdir"):
            act(replace(board, workdir="/proc/nowhere"))
    assert all_gone(tmp_path / "board", 5.0)


def test_a_device_that_is_full(board: Ssh, tmp_path: Path, small: Path) -> None:
    file = tmp_path / "big"
    file.write_bytes(bytes(4 << 20))
    device = replace(board, workdir=str(small / "t2e"))
    with pytest.raises(DeviceError, match=r"(No space left|ENOSPC).*free some space"):
        device.push(file)
    assert [path for path in small.rglob("*") if path.is_file()] == []
    with device.start(ECHO, tmp_path / "log") as job:
        job.send({"n": 1})
        assert job.receive(20.0)[0] == {"n": 1}
        job.send({"big": "x" * (2 << 20)})
        with pytest.raises(BenchError, match="did not fit"):
            job.receive(20.0)
    assert all_gone(small, 5.0)


def test_a_program_that_may_not_run(board: Ssh, tmp_path: Path, small: Path) -> None:
    device = replace(board, workdir=str(small / "t2e"), runner="native")
    program = tmp_path / "runner"
    program.write_text("#!/bin/sh\ncat\n")
    program.chmod(0o755)
    job = device.start([device.push(program)], tmp_path / "log")
    with pytest.raises(BenchError, match="mounted noexec"):
        job.receive(20.0)
    assert all_gone(small, 5.0)


def test_a_death_there_names_its_signal_and_last_words(board: Ssh, tmp_path: Path) -> None:
    code = "import os, sys; print('bad model', file=sys.stderr, flush=True); os.abort()"
    with board.start([sys.executable, "-c", code], tmp_path / "log") as job:
        with pytest.raises(BenchError, match=r"killed by SIGABRT; it last said: .*bad model"):
            job.receive(30.0)
    assert "bad model" in (tmp_path / "log").read_text()


def test_a_hang_there_ends_the_whole_family(board: Ssh, tmp_path: Path) -> None:
    code = "import subprocess; subprocess.run(['sleep', '600'])"
    job = board.start([sys.executable, "-c", code], tmp_path / "log")
    with pytest.raises(BenchError, match=r"did not answer within 0\.5 s"):
        job.receive(0.5)
    assert all_gone(tmp_path / "board", 5.0)


def test_a_job_is_kept_on_its_cores(board: Ssh, tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    code = "import json, os; print(json.dumps({'cores': sorted(os.sched_getaffinity(0))}))"
    with replace(board, affinity=(core,)).start(
        [sys.executable, "-c", code], tmp_path / "l"
    ) as job:
        assert job.receive(20.0)[0] == {"cores": [core]}


def test_a_client_that_is_killed_leaves_nothing(board: Ssh, tmp_path: Path) -> None:
    """Nobody tells the device; the job ends for want of a sign of life."""
    code = f"""
from pathlib import Path
from torchopt2edge.devices.ssh import Ssh
device = Ssh("board", config={board.config!r}, workdir={board.workdir!r}, patience_s=4,
             link_patience_s=2)
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
    host.send_signal(signal.SIGKILL)
    host.wait()
    host.stdout.close()
    assert all_gone(tmp_path / "board", 15.0)


def test_a_job_that_is_spoken_to_outlives_its_patience(board: Ssh, tmp_path: Path) -> None:
    device = replace(board, patience_s=3, link_patience_s=1)
    with device.start(ECHO, tmp_path / "log") as job:
        for at in range(6):
            job.send({"n": at})
            assert job.receive(20.0)[0] == {"n": at}
            time.sleep(1.0)
    assert all_gone(tmp_path / "board", 5.0)


def test_a_connection_that_is_killed_loses_no_frame(
    server: Server, board: Ssh, tmp_path: Path
) -> None:
    with board.start(ECHO, tmp_path / "log") as job:
        for at in range(6):
            job.send({"n": at}, {"a": np.full(1 << 15, at)})
            timer = threading.Timer(0.02 * at, _kill, [server])
            timer.start()
            header, arrays = job.receive(20.0)
            timer.join()
            assert header == {"n": at}
            assert set(arrays["a"]) == {at}
    assert all_gone(tmp_path / "board", 5.0)


def test_more_jobs_than_a_connection_takes_channels(board: Ssh, tmp_path: Path) -> None:
    """sshd allows ten by itself; the client goes on over a connection of its own."""
    with contextlib.ExitStack() as closing:
        jobs = [closing.enter_context(board.start(ECHO, tmp_path / "log")) for _ in range(12)]
        for turn in range(2):
            for at, job in enumerate(jobs):
                job.send({"n": at, "turn": turn})
                assert job.receive(20.0)[0] == {"n": at, "turn": turn}
    assert all_gone(tmp_path / "board", 5.0)


def test_few_commands_are_needed_for_a_candidate(
    board: Ssh,
    net: MakeNet,
    sample: Sample,
    brief: TimingPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once its file and the runner are there: one, in which its job begins, runs and ends."""
    candidates = [net("a"), net("b", depth=2)]
    measure(candidates, lambda _: sample, board, brief, tmp_path / "work")
    seen: list[str] = []
    for name in ("run", "open", "push"):
        act = getattr(SshLink, name)
        monkeypatch.setattr(
            SshLink,
            name,
            lambda self, *words, _act=act, _name=name: seen.append(_name) or _act(self, *words),
        )
    plan = replace(brief, prime=False)
    rows = measure(candidates, lambda _: sample, board, plan, tmp_path / "work")
    assert [row.err for row in rows] == [None, None]
    assert seen.count("push") == 0
    assert seen.count("open") == 2
    assert seen.count("run") == 2  # the facts before and after


def _kill(server: Server) -> None:
    for one in server.connections():
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile
            one.kill()


def test_a_cable_pulled_in_the_middle_loses_no_row(
    far: Ssh,
    cable: Network,
    net: MakeNet,
    tflite: Candidate,
    sample: Sample,
    brief: TimingPlan,
    tmp_path: Path,
) -> None:
    """Pulled for three seconds, twice, while a comparison runs."""

    def pull() -> None:
        for _ in range(2):
            time.sleep(1.5)
            with cable.cut():
                time.sleep(3.0)

    puller = threading.Thread(target=pull)
    puller.start()
    slow = replace(brief, rounds=12, min_samples=60, min_seconds=4.0)
    rows = measure([net("a"), tflite], lambda _: sample, far, slow, tmp_path / "work")
    puller.join()
    assert [row.err for row in rows] == [None, None]
    assert all(len(row.latency_ns) == 12 for row in rows)
    assert all_gone(tmp_path / "board", 10.0)


def test_a_cable_that_stays_pulled_ends_both_sides(
    far: Ssh, cable: Network, tmp_path: Path
) -> None:
    device = replace(far, patience_s=6, link_patience_s=3)
    job = device.start(ECHO, tmp_path / "log")
    with cable.cut():
        job.send({"n": 1})
        with pytest.raises(BenchError, match=r"ssh:board was lost"):
            job.receive(5.0)
        assert all_gone(tmp_path / "board", 20.0)
