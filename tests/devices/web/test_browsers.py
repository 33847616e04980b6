"""Pages that are shown elsewhere: by a person, and by a phone at the end of a real adbd."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.devices.serving import adbd, network, sh
from tests.devices.web.browsing import MISSING
from torchopt2edge.bench.child_session import ChildSession
from torchopt2edge.bench.harness import measure
from torchopt2edge.bench.timing import by_name
from torchopt2edge.devices.browser import Browser
from torchopt2edge.devices.web import browsers, foreground
from torchopt2edge.devices.web.server import PageServer
from torchopt2edge.errors import BenchError, DeviceError
from torchopt2edge.types import Candidate

MakeNet = Callable[..., Candidate]
Sample = dict[str, np.ndarray]


def test_a_person_opens_the_page_that_the_log_names(
    device: Browser,
    net: MakeNet,
    sample: Sample,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    theirs = replace(device, browser="user")
    with theirs.start(["web", "ort"], tmp_path / "log") as job:
        url = caplog.messages[-1].rpartition(" ")[2]
        opened = browsers.chromium(browsers.find(None), url, None, tmp_path / "theirs")
        try:
            session = ChildSession(net("a"), job, 60.0)
            session.open(theirs.push(net("a").file), 1)
            assert session.load_timed(sample) > 0.0
            assert session.round(3, 0.0, 3).peak_bytes == -1
        finally:
            opened.close()
        with pytest.raises(BenchError, match="the page crashed, or was closed"):
            session.sense()
    assert theirs.facts()["browser"] == "unavailable"


# The phone's `am` is ours: it opens tabs of a Chromium in the phone's own network.
AM = """#!{python}
import subprocess, sys, time, urllib.request

def tab(url):
    ask = urllib.request.Request("http://127.0.0.1:9333/json/new?" + url, method="PUT")
    return urllib.request.urlopen(ask, timeout=5).status

url = sys.argv[sys.argv.index("-d") + 1]
try:
    tab(url)
except OSError:
    for words in (
        ["chromium-headless-shell", "--no-sandbox", "--disable-gpu", "--no-proxy-server",
         "--remote-debugging-port=9333", "--user-data-dir={folder}/profile", "about:blank"],
        [sys.executable, "{folder}/bridge.py"],
    ):
        with open("{folder}/am.log", "ab") as log:
            child = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        with open("{folder}/pids", "a") as file:
            file.write(f"{{child.pid}}\\n")
    for _ in range(100):
        try:
            tab(url)
            break
        except OSError:
            time.sleep(0.1)
print("Starting: Intent {{ act=android.intent.action.VIEW dat=" + url + " }}")
"""
# Chrome on Android has its developer tools at an abstract socket, which adb forwards.
BRIDGE = """
import socket, socketserver, threading

class Bridge(socketserver.StreamRequestHandler):
    def handle(self):
        with open("{folder}/asked", "ab") as asked, socket.create_connection(
            ("127.0.0.1", 9333)
        ) as far:
            asked.write(self.request.recv(4096, socket.MSG_PEEK).splitlines()[0] + b"\\n")
            def back():
                while piece := far.recv(65536):
                    self.request.sendall(piece)
                self.request.shutdown(socket.SHUT_RDWR)
            threading.Thread(target=back, daemon=True).start()
            while piece := self.request.recv(65536):
                far.sendall(piece)

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

Server("\\0chrome_devtools_remote", Bridge).serve_forever()
"""


@pytest.fixture
def handset(
    device: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Browser, Path]]:
    """A phone with a browser, and the folder that says what happened there."""
    if shutil.which("chromium-headless-shell") is None:
        pytest.skip(MISSING)
    folder = tmp_path / "handset"
    for name, text in (("bin/am", AM), ("bridge.py", BRIDGE)):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(python=sys.executable, folder=folder))
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")
    with network(3) as net, adbd(tmp_path / "adb", net) as serial:
        monkeypatch.setenv("PATH", str(tmp_path / "adb/bin"), prepend=":")
        yield replace(device, adb=serial), folder
        for pid in (folder / "pids").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid), signal.SIGKILL)


def test_a_phones_browser_measures_through_the_way_back(
    handset: tuple[Browser, Path],
    net: MakeNet,
    tflite: Candidate,
    sample: Sample,
    tmp_path: Path,
) -> None:
    phone, folder = handset
    rows = measure([net("a"), tflite], lambda _: sample, phone, by_name("smoke"), tmp_path / "work")
    assert [row.err for row in rows] == [None, None]
    assert {row.device for row in rows} == {f"browser:{phone.adb}"}
    assert {row.facts["runner"] for row in rows} == {"web"}
    assert all("memory_mb" not in row.metrics for row in rows)  # nobody can look into it from here
    asked = (folder / "asked").read_text()
    assert "GET /json/list" in asked
    assert "GET /json/activate/" in asked
    serial = str(phone.adb)
    assert sh("adb", "-s", serial, "reverse", "--list").strip() == ""
    assert serial not in sh("adb", "forward", "--list")

    with pytest.raises(DeviceError, match="nope"):
        replace(phone, adb="nope").start(["web", "ort"], tmp_path / "log")
    (folder / "bin/am").write_text("#!/bin/sh\necho 'Error: Activity not started, no browser'\n")
    with pytest.raises(DeviceError, match=r"did not open the page.*no browser.*Chrome"):
        phone.start(["web", "ort"], tmp_path / "log")
    assert sh("adb", "-s", serial, "reverse", "--list").strip() == ""


def test_what_is_no_browser_brings_nothing_to_the_front(tmp_path: Path) -> None:
    (tmp_path / "node_modules").mkdir()
    other = PageServer(tmp_path)
    assert foreground.bring(other.port, other.url) is False  # it answers, and not as a browser does
    other.close()
    assert foreground.bring(other.port, other.url) is False  # nobody answers
