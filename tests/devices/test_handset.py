"""A phone's root behind a real adbd: mksh, toybox, the user shell, and no C library at all.

What stays unreal: bionic, SELinux, the thermal service (a program that prints what one said).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.devices.arm import ARM, CORES, Handset, adb_client, handset
from tests.devices.serving import network, sh
from torchopt2edge.bench.child_session import open_child
from torchopt2edge.devices.adb import Adb
from torchopt2edge.devices.local import Local
from torchopt2edge.errors import DeviceError
from torchopt2edge.evaluation.parity import parity
from torchopt2edge.types import Candidate

MakeNet = Callable[..., Candidate]
Sample = dict[str, np.ndarray]

COUNT = """
echo "{\\"core\\": \\"$QEMU_CPU\\"}"
n=0
while [ $n -lt 6 ]; do
  n=$((n + 1))
  echo "{\\"n\\": $n}"
  sleep 0.5
done
exec cat
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An adb client with a server of its own."""
    with adb_client(tmp_path_factory.mktemp("handset") / "client") as found:
        yield found


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, client: Path) -> Iterator[Handset]:
    """A phone."""
    with network(4) as net, handset(tmp_path_factory.mktemp("one"), net, client) as found:
        yield found


@pytest.fixture
def device(one: Handset, client: Path, monkeypatch: pytest.MonkeyPatch) -> Adb:
    """The phone as a user has it."""
    monkeypatch.setenv("PATH", str(client.parent), prepend=":")
    return Adb(serial=one.serial)


def test_its_facts(device: Adb) -> None:
    found = device.facts()
    assert found["arch"] == "aarch64"
    assert found["emulated"] is True
    assert found["os"] == "Android 14"
    assert found["model"] == "Example Test Phone"
    assert found["abi"] == "arm64-v8a"
    assert found["cores"] == 8
    assert [one["cores"] for one in found["core_classes"]] == [[7], [4, 5, 6], [0, 1, 2, 3]]
    assert found["governor"] == "schedutil"


def test_it_is_a_phone(device: Adb) -> None:
    """Or the other tests would show what holds of any Linux."""
    said = device.run("id -u; echo $KSH_VERSION; uname -m; ls -d /lib /usr/lib; ls /system/lib64")
    user, shell, machine, *rest = said.stdout.decode().split("\n")
    assert (user, machine) == ("2000", "aarch64")
    assert "MIRBSD KSH" in shell
    assert "/lib" not in rest
    assert "/usr/lib" not in rest
    assert "libc.so.6" in rest


def test_files_go_there_and_back(device: Adb, one: Handset, tmp_path: Path) -> None:
    file = tmp_path / 'it\'s a "net" $(touch x).onnx'
    file.write_bytes(bytes(range(256)) * 5000)
    target = device.push(file)
    assert (one.root / target.lstrip("/")).read_bytes() == file.read_bytes()
    assert (one.root / target.lstrip("/")).stat().st_uid == 2000
    assert device.push(file) == target
    device.pull(target, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    device.clean()
    assert not (one.root / device.workdir.lstrip("/")).exists()


def test_a_folder_that_refuses(device: Adb, tmp_path: Path) -> None:
    closed = replace(device, workdir="/system/torchopt2edge")
    with pytest.raises(DeviceError, match=r"cannot be written.*device\.workdir"):
        closed.push(Path(__file__))
    with pytest.raises(DeviceError, match=r"cannot be written.*device\.workdir"):
        closed.start(["cat"], tmp_path / "log")
    with pytest.raises(DeviceError, match="could not copy it"):
        device.link.push(Path(__file__), "/system/file")


def test_a_serial_that_is_not_there(device: Adb) -> None:
    with pytest.raises(DeviceError, match=r"does not see the device nope.*adb devices"):
        replace(device, serial="nope", link_patience_s=0.5).facts()


def test_a_job_goes_on_while_nobody_is_connected(
    device: Adb, one: Handset, client: Path, tmp_path: Path
) -> None:
    with device.start(["sh", "-c", COUNT], tmp_path / "log") as job:
        assert job.receive(30.0)[0] == {"core": CORES["max"][0]}
        assert job.receive(30.0)[0] == {"n": 1}
        sh(client, "disconnect", one.serial)
        assert one.serial not in sh(client, "devices")
        assert one.processes(device.workdir)
        for n in range(2, 7):
            assert job.receive(30.0)[0] == {"n": n}
        sh(client, "disconnect", one.serial)
        job.send({"last": True}, {"a": np.arange(5)})
        header, arrays = job.receive(30.0)
        assert header == {"last": True}
        np.testing.assert_array_equal(arrays["a"], np.arange(5))
    assert one.is_idle(device.workdir, 15.0)


def test_two_phones_are_told_apart(device: Adb, one: Handset, client: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"for the second one")
    with network(5) as net, handset(tmp_path / "two", net, client) as two:
        (two.root / "system/build.prop").write_text("ro.product.model=Second\n")
        other = replace(device, serial=two.serial)
        assert other.facts()["model"].strip() == "Second"
        assert device.facts()["model"] == "Example Test Phone"
        target = other.push(file).lstrip("/")
        assert (two.root / target).read_bytes() == file.read_bytes()
        assert not (one.root / target).exists()
        with pytest.raises(DeviceError, match=r"several devices are connected.*device\.serial="):
            replace(device, serial=None).facts()
    assert replace(device, serial=None).facts()["model"] == "Example Test Phone"


def test_it_is_kept_steady_and_put_back(device: Adb, one: Handset) -> None:
    """Its own programs are told, and what its thermal service says is read, cached values not."""
    settings = one.root / "data/settings"
    device.run("settings put global stay_on_while_plugged_in 3")
    with replace(device, fixed_performance=True).steady() as watch:
        assert watch is not None
        assert (settings / "global.stay_on_while_plugged_in").read_text() == "7\n"
        assert (settings / "fixed-performance").read_text() == "true\n"
        found = watch.sense()
        assert (found["temperature_c"], found["thermal_status"]) == (41.5, 0)
        assert (found["battery_c"], found["charging"]) == (30.2, True)
        assert found["capped"] is False
        device.run("cmd thermalservice override-status 3")
        deadline = time.monotonic() + 30.0
        while watch.sense().get("thermal_status") != 3:
            assert time.monotonic() < deadline, watch.sense()
            time.sleep(0.5)
        device.run("cmd thermalservice reset")
    assert (settings / "global.stay_on_while_plugged_in").read_text() == "3\n"
    assert (settings / "fixed-performance").read_text() == "false\n"
    assert one.is_idle(device.workdir, 15.0)


@pytest.mark.parametrize("runtime", ["ort", "litert"])
def test_the_native_runner_brings_its_own_c_library(
    device: Adb,
    one: Handset,
    net: MakeNet,
    tflite: Candidate,
    sample: Sample,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime: str,
) -> None:
    """Both runtimes run where nothing is installed, and the phone's thermometers are read."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(ARM / "wheels"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    bare = replace(device, fetch=True, sysroot=str(ARM / "board"))
    candidate = net("a", depth=2) if runtime == "ort" else tflite
    with open_child(candidate, Local(runner="native"), tmp_path / "log") as session:
        here = session(sample)
    zone = one.root / "sys/class/thermal/thermal_zone0/temp"
    cap = one.root / "sys/devices/system/cpu/cpu7/cpufreq/scaling_max_freq"
    with open_child(candidate, bare, tmp_path / "log") as session:
        assert parity(here, session(sample)).sqnr_db > 100.0
        assert session.receipt["emulated"] is True
        assert session.load_timed(sample) > 0.0
        assert len(session.round(3, 0.0, 3).latency_ns) == 3
        zone.write_text("63500\n")
        assert session.sense()["temperature_c"] == 63.5
        assert session.sense()["capped"] is False
        before = cap.read_text()
        cap.write_text("1401000\n")
        assert session.sense()["capped"] is True
        assert session.sense()["clock_cap_mhz"] == 1401.0
        cap.write_text(before)
    assert one.is_idle(device.workdir, 15.0)
