"""A real adb client against a real adbd in a namespace; and what adb says of devices it refuses."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.devices.serving import (
    Network,
    adb_program,
    adbd,
    all_gone,
    free_port,
    kill_all,
    network,
    sh,
    stopped,
)
from torchopt2edge.bench.child_session import open_child
from torchopt2edge.bench.harness import measure
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.devices.adb import Adb, AdbLink, Listed, listed, parse
from torchopt2edge.devices.discover import reachable
from torchopt2edge.devices.local import Local
from torchopt2edge.devices.remote import stream_client
from torchopt2edge.errors import BenchError, DeviceError
from torchopt2edge.types import Candidate

MakeNet = Callable[..., Candidate]
Sample = dict[str, np.ndarray]


@pytest.fixture
def device(phone: str, tmp_path: Path) -> Adb:
    """The phone, with a folder of this test's own."""
    return Adb(serial=phone, python=sys.executable, workdir=str(tmp_path / "phone"))


@pytest.mark.parametrize("runner", ["python", "native"])
def test_both_runtimes_compute_there_what_they_compute_here(
    device: Adb, net: MakeNet, tflite: Candidate, sample: Sample, tmp_path: Path, runner: str
) -> None:
    for candidate in (net("a", depth=2), tflite):
        found = []
        for one in (Local(runner=runner), replace(device, runner=runner)):
            with open_child(candidate, one, tmp_path / "log") as session:
                found.append(next(iter(session(sample).values())))
        np.testing.assert_array_equal(found[0], found[1])
    assert all_gone(tmp_path / "phone", 5.0)


def test_a_cable_pulled_in_the_middle_loses_no_row(
    device: Adb,
    phone_cable: Network,
    net: MakeNet,
    tflite: Candidate,
    sample: Sample,
    brief: TimingPlan,
    tmp_path: Path,
) -> None:
    def pull() -> None:
        time.sleep(1.5)
        with phone_cable.cut():
            time.sleep(3.0)

    puller = threading.Thread(target=pull)
    puller.start()
    slow = replace(brief, rounds=10, min_samples=50, min_seconds=3.0)
    rows = measure([net("a"), tflite], lambda _: sample, device, slow, tmp_path / "work")
    puller.join()
    assert [row.err for row in rows] == [None, None]
    assert all(len(row.latency_ns) == 10 for row in rows)
    assert all_gone(tmp_path / "phone", 10.0)


def test_a_server_that_is_restarted_loses_no_frame(
    device: Adb, phone_folder: Path, tmp_path: Path
) -> None:
    with device.start(["cat"], tmp_path / "log") as job:
        for at in range(3):
            job.send({"n": at}, {"a": np.full(1 << 15, at)})
            killer = threading.Timer(
                0.02 * at, sh, [str(phone_folder / "bin/adb"), "kill-server"], {"check": False}
            )
            killer.start()
            header, arrays = job.receive(30.0)
            killer.join()
            assert header == {"n": at}
            assert set(arrays["a"]) == {at}
    assert all_gone(tmp_path / "phone", 10.0)


def test_files_with_odd_names_and_no_second_sending(
    device: Adb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Path] = []
    push = AdbLink.push
    monkeypatch.setattr(
        AdbLink, "push", lambda self, file, to: sent.append(file) or push(self, file, to)
    )
    file = tmp_path / 'it\'s a "net" $(touch x).onnx'
    file.write_bytes(bytes(range(256)) * 5000)
    target = device.push(file)
    assert device.push(file) == target
    assert Path(target).read_bytes() == file.read_bytes()
    assert sent == [file]
    device.pull(target, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


def test_a_folder_that_refuses(device: Adb, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot be written.*device\.workdir"):
        replace(device, workdir="/proc/nowhere").push(Path(__file__))
    with pytest.raises(DeviceError, match="could not copy it"):
        device.link.push(Path(__file__), "/proc/nowhere/file")


def test_a_phone_that_is_full(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A phone of its own: one that runs already does not see what is mounted here."""
    file = tmp_path / "large"
    file.write_bytes(random.Random(0).randbytes(2 << 20))
    with network(7) as net, adbd(tmp_path / "adb", net) as serial:
        monkeypatch.setenv("PATH", str(tmp_path / "adb/bin"), prepend=":")
        full = Adb(serial=serial, workdir=str(small / "phone"))
        with pytest.raises(DeviceError, match="No space left") as caught:
            full.push(file)
        assert "free some space there" in str(caught.value)
        assert "pushed" not in str(caught.value)  # of what failed adb counts "1 file pushed" too
        with pytest.raises(DeviceError, match=r"No space left.*free some space there"):
            full.push_all({"lib/large": file, "other": Path(__file__)})
        assert full.run(f"find {small} -name '*.part'").stdout == b""
        full.clean()
        assert full.run(f"ls {small}").stdout == b""


def test_a_phone_that_restarts_in_the_middle(device: Adb, tmp_path: Path) -> None:
    """All of its processes are gone, and what they left is removed by the next job."""
    with device.start(["sh", "-c", "echo '{}'; exec cat"], tmp_path / "log") as job:
        job.receive(30.0)
        kill_all(tmp_path / "phone")
        job.send({"n": 1})
        with pytest.raises(BenchError, match=r"the job is no more: the device restarted.*again"):
            job.receive(30.0)
    left = tmp_path / "phone/jobs/before/job"
    left.mkdir(parents=True)
    (left / "pid").write_text("1\n")  # a number that is another's by now
    with device.start(["cat"], tmp_path / "log"):
        assert not left.exists()
    assert all_gone(tmp_path / "phone", 10.0)


def test_a_serial_that_is_not_there(device: Adb) -> None:
    with pytest.raises(DeviceError, match=r"does not see the device nope.*adb devices"):
        replace(device, serial="nope", link_patience_s=0.5).facts()


def test_the_only_device_needs_no_serial(device: Adb) -> None:
    found = replace(device, serial=None).facts()
    assert found["cores"] == Local().facts()["cores"]


def test_it_is_listed(phone: str, tmp_path: Path) -> None:
    (found,) = [one for one in reachable(config=tmp_path / "none") if phone in one["device"]]
    assert found["state"] == "ready"
    (asked,) = [one for one in reachable(True, tmp_path / "none") if phone in one["device"]]
    assert asked["cores"] == Local().facts()["cores"]


LISTED = """* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
R58M123ABC             device usb:1-2 product:beyond1 model:SM_G973F device:beyond1 transport_id:3
emulator-5554          offline transport_id:1
0123456789             unauthorized usb:1-3 transport_id:4
????????????           no permissions (user in plugdev group; are your udev rules wrong?); see [x]
192.168.1.7:5555\trecovery
adb-R58N30 (2)._adb-tls-connect._tcp device product:x model:SM_G973F transport_id:3
(no serial number)     device usb:1-2
R5CT                   connecting transport_id:9

"""


def test_the_list_is_read_in_every_state() -> None:
    assert [(one.serial, one.state) for one in parse(LISTED)] == [
        ("R58M123ABC", "device"),
        ("emulator-5554", "offline"),
        ("0123456789", "unauthorized"),
        ("????????????", "no permissions"),
        ("192.168.1.7:5555", "recovery"),
        ("adb-R58N30 (2)._adb-tls-connect._tcp", "device"),  # by mDNS, the second of that name
        ("(no serial number)", "device"),
        ("R5CT", "connecting"),
    ]
    assert parse(LISTED)[0].model == "SM G973F"
    for cut in range(len(LISTED)):
        assert all(isinstance(one, Listed) for one in parse(LISTED[:cut]))


@pytest.fixture
def shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a client on the PATH that lists what a test says, and does nothing else."""

    def make(lines: str) -> None:
        client = tmp_path / "adb"
        client.write_text(
            f"#!/bin/sh\n[ \"$1\" = devices ] || {{ echo 'error: closed' >&2; exit 1; }}\n"
            f"cat <<'END'\nList of devices attached\n{lines}\nEND\n"
        )
        client.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return make


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("", r"sees no device.*USB debugging"),
        ("a\tdevice\nb\tdevice", r"several devices are connected: a, b.*device\.serial=a"),
        ("a\tunauthorized", r"a has not allowed this computer.*accept the key"),
        ("a\toffline", r"a does not answer.*plug it in again"),
        (
            "a\toffline\nb\tunauthorized",
            r"can be used: a does not answer, b has not allowed.*a: unplug it.*b: unlock",
        ),
        ("a (2).x\tdevice\nb\tdevice", r"""device\.serial='"a \(2\)\.x"'"""),
        ("a\tno permissions (udev)", r"may not be opened by this user.*udev"),
        ("a\trecovery", r"recovery system.*adb reboot"),
        ("a\tdevice", r"the link to a broke: error: closed"),
    ],
)
def test_a_device_that_cannot_be_used_is_explained(
    shim: Callable[[str], None], lines: str, what: str
) -> None:
    shim(lines)
    with pytest.raises(DeviceError, match=what):
        Adb(link_patience_s=0.3).facts()


def test_a_serial_that_is_not_there_names_those_that_are(shim: Callable[[str], None]) -> None:
    shim("a (2).x\tdevice\nb\toffline")
    with pytest.raises(DeviceError, match=r"does not see the device c.*\(device.serial='\"a \(2"):
        Adb(serial="c", link_patience_s=0.3).facts()


def test_a_machine_without_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"adb is not installed here.*apt-get install adb"):
        Adb().facts()
    rows = reachable(config=tmp_path / "none")
    assert [row["device"] for row in rows][:2] == ["device=local", "device=adb"]
    assert "not installed" in rows[1]["state"]


def test_a_server_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    port = free_port()
    sh(adb_program(tmp_path, port), "start-server")
    with stopped(port):
        for device in (Adb(), Adb(serial="a")):
            with pytest.raises(DeviceError, match=r"adb server hangs.*adb kill-server"):
                device.facts()
        (row,) = [one for one in reachable(config=tmp_path / "none") if "adb" in one["device"]]
        assert "adb kill-server" in row["hint"]
    sh(tmp_path / "bin/adb", "kill-server")


def test_a_server_that_hangs_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_client, "_ROUND_TRIP_S", 2.0)
    monkeypatch.setenv("PATH", str(tmp_path / "adb/bin"), prepend=":")
    port = free_port()
    with network(7) as net, adbd(tmp_path / "adb", net, port) as serial:
        device = Adb(serial=serial, workdir=str(tmp_path / "phone"))
        brief = replace(device, patience_s=6, link_patience_s=3)
        with brief.start(["cat"], tmp_path / "log") as job, stopped(port):
            job.send({"n": 1})
            with pytest.raises(BenchError, match=r"adb server hangs.*adb kill-server"):
                job.receive(5.0)
        assert all_gone(tmp_path / "phone", 20.0)


def test_a_server_that_starts_slowly_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tmp_path / "adb"
    client.write_text(
        "#!/bin/sh\necho '* daemon not running; starting now at tcp:5037' >&2\nsleep 4\n"
        "echo 'List of devices attached'\necho 'a\tdevice'\n"
    )
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert [one.serial for one in listed()] == ["a"]


def test_a_device_that_hangs_is_not_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tmp_path / "adb"
    client.write_text(
        "#!/bin/sh\n[ \"$1\" = devices ] || exec sleep 60\necho 'List of devices attached'\n"
    )
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    device = Adb(serial="a", link_patience_s=0.1)
    with pytest.raises(DeviceError, match=r"within 1 s: its server answers.*adb reconnect"):
        device.run("true", timeout_s=1.0)


def test_a_cable_that_stays_pulled_ends_both_sides(
    device: Adb, phone_cable: Network, tmp_path: Path
) -> None:
    short = replace(device, patience_s=6, link_patience_s=3)
    job = short.start(["cat"], tmp_path / "log")
    with phone_cable.cut():
        job.send({"n": 1})
        with pytest.raises(BenchError, match="was lost"):
            job.receive(5.0)
        assert all_gone(tmp_path / "phone", 20.0)
