"""What goes wrong in a page or with its browser is an error with a name, and leaves nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.devices.web.browsing import browsers, mains, pages, settled
from torchopt2edge.bench.child_session import open_child
from torchopt2edge.bench.harness import measure
from torchopt2edge.bench.timing import by_name
from torchopt2edge.devices.browser import Browser
from torchopt2edge.devices.web.usage import members
from torchopt2edge.errors import BenchError, DeviceError
from torchopt2edge.types import Candidate

MakeNet = Callable[..., Candidate]
Sample = dict[str, np.ndarray]


@pytest.mark.parametrize("kind", ["random", "nan"])
def test_outputs_that_are_no_answer_are_refused(
    device: Browser, net: MakeNet, sample: Sample, tmp_path: Path, kind: str
) -> None:
    with open_child(net(kind, kind), device, tmp_path / "log") as session:
        if kind == "nan":
            with pytest.raises(BenchError, match="NaN"):
                session.load_timed(sample)
            return
        session.load_timed(sample)
        with pytest.raises(BenchError, match="other outputs"):
            session.round(2, 0.0, 2)


def test_a_file_that_is_cut_is_an_error_with_a_name(
    device: Browser, net: MakeNet, tflite: Candidate, tmp_path: Path
) -> None:
    for candidate in (net("cut", width=32), tflite):
        candidate.file.write_bytes(candidate.file.read_bytes()[:60])
        with (
            pytest.raises(BenchError) as caught,
            open_child(candidate, device, tmp_path / "log"),
        ):
            pytest.fail("it opened")
        assert caught.value.artifact == candidate.id


def test_a_file_that_is_gone_is_an_error(device: Browser, net: MakeNet, tmp_path: Path) -> None:
    candidate = net("gone")
    candidate.file.unlink()
    with (
        pytest.raises(BenchError, match="does not come: status 404"),
        open_child(candidate, device, tmp_path / "log"),
    ):
        pytest.fail("it opened")


def test_a_hostile_name_is_only_a_name(
    device: Browser, net: MakeNet, sample: Sample, tmp_path: Path
) -> None:
    candidate = net("a")
    hostile = tmp_path / "'\"><img src=x onerror=alert(1)> $(touch owned) %2e%2e #?.onnx"
    candidate.file.rename(hostile)
    renamed = replace(candidate, id="'\"$(touch owned)", file=hostile)
    (row,) = measure([renamed], lambda _: sample, device, by_name("smoke"), tmp_path / "work")
    assert row.err is None
    assert not Path("owned").exists()


@pytest.mark.parametrize("what", ["page", "browser"])
def test_what_is_killed_is_a_row_and_the_others_go_on(
    device: Browser, net: MakeNet, sample: Sample, tmp_path: Path, what: str
) -> None:
    victims = [net("a"), net("b")]
    done: list[str] = []

    def watch(_done: int, _total: int, now: str) -> None:
        if now.startswith("round 3") and not done:
            first = min(psutil.Process().children(), key=lambda one: one.create_time())
            for one in pages(first) if what == "page" else mains(first):
                one.kill()
            done.append(now)

    rows = measure(victims, lambda _: sample, device, by_name("smoke"), tmp_path / "work", watch)
    assert done
    assert rows[0].err is not None
    assert "the page crashed" in rows[0].err
    assert ("was killed by SIGKILL" in rows[0].err) == (what == "browser")
    assert rows[1].err is None


def test_networks_that_come_and_go_disturb_no_page(
    device: Browser, net: MakeNet, sample: Sample, tmp_path: Path
) -> None:
    """Chromium drops what is under way then, on the loopback as well."""
    name = f"t2e{os.getpid() % 10**7}d"
    made = [
        ["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"],
        ["ip", "addr", "add", "10.209.1.1/24", "dev", name],
        ["ip", "link", "set", name, "up"],
    ]
    if os.getuid() or not shutil.which("ip"):
        pytest.skip("an interface takes root and ip; as root: tests/devices/provide.sh")
    with open_child(net("a"), device, tmp_path / "log") as session:
        session.load_timed(sample)
        for _ in range(4):
            try:
                done = [subprocess.run(words, capture_output=True).returncode for words in made]
                if any(done):
                    pytest.skip("this machine makes no interfaces")
                there = session.round(1, 0.3, 1_000_000)
            finally:
                subprocess.run(["ip", "link", "del", name], capture_output=True)
            gone = session.round(1, 0.3, 1_000_000)
            assert min(there.wall_ns, gone.wall_ns) >= 0.3e9  # both whole, on one and the same page


def test_a_page_that_hangs_is_ended(
    device: Browser, net: MakeNet, sample: Sample, tmp_path: Path
) -> None:
    with open_child(net("a"), device, tmp_path / "log", timeout_s=60.0) as session:
        session.load_timed(sample)
        for one in pages(psutil.Process().children()[0]):
            one.send_signal(signal.SIGSTOP)
        session._timeout_s = 1.0
        with pytest.raises(BenchError, match="did not answer within 1 s"):
            session.round(1, 0.0, 1)


def test_a_browser_that_ends_at_once_is_an_error(
    packages: Path, net: MakeNet, tmp_path: Path
) -> None:
    with (
        pytest.raises(BenchError, match="the browser ended with status 1 before it showed"),
        open_child(net("a"), Browser(browser="false"), tmp_path / "log"),
    ):
        pytest.fail("it opened")
    with pytest.raises(DeviceError, match="does not start"):
        Browser(browser="false").facts()


def test_no_browser_outlives_a_host_that_is_killed(
    device: Browser, cache: Path, scratch: Path, tmp_path: Path
) -> None:
    script = """
import sys, time
from pathlib import Path
from torchopt2edge.devices.browser import Browser
job = Browser().start(["web", "ort"], Path(sys.argv[1]))
job.send({"cmd": "sense"})
print(job.receive(60.0)[0]["event"], flush=True)
time.sleep(600)
"""
    host = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        env={**os.environ, "TORCHOPT2EDGE_CACHE": str(cache)},
    )
    assert host.stdout is not None
    assert host.stdout.readline() == b"sensed\n"
    sessions = {os.getsid(pid) for pid in browsers(scratch)}
    assert sessions
    host.kill()
    host.wait()
    host.stdout.close()
    assert settled(lambda: not any(map(members, sessions)))
    for folder in scratch.glob("t2e-browser-*"):  # nobody was left to do so
        shutil.rmtree(folder)
