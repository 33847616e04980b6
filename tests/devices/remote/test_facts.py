"""Machines as they tell about themselves: a phone, a board, and answers that were cut short."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from torchopt2edge.devices.remote import facts as remote_facts
from torchopt2edge.errors import DeviceError
from torchopt2edge.runner import system_info

FREQ = "sys/devices/system/cpu/cpu{}/cpufreq/cpuinfo_max_freq"
PHONE = {
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\n"
    "CPU part\t: 0xd05\n",
    "proc/meminfo": "MemTotal:        7733444 kB\n",
    "sys/devices/system/cpu/online": "0-7\n",
    **{FREQ.format(core): "1803000\n" for core in range(4)},
    **{FREQ.format(core): "2253000\n" for core in (4, 5)},
    **{FREQ.format(core): "2802000\n" for core in (6, 7)},
    "arch": "aarch64\n",
    "kernel": "5.10.149-android13\n",
    "exe": "/system/bin/sh\n",
    "ro.product.manufacturer": "Google\n",
    "ro.product.model": "Pixel 6\n",
    "ro.soc.model": "Tensor\n",
    "ro.product.cpu.abi": "arm64-v8a\n",
    "ro.build.version.release": "15\n",
}


def said(files: dict[str, str]) -> bytes:
    return "".join(f"\x1e{name}\n{body}" for name, body in files.items()).encode()


def test_a_phone_is_read() -> None:
    found = remote_facts.machine(said(PHONE))
    assert found["cpu"] == "Tensor"
    assert found["cpu_flags"] == ["asimd", "asimddp"]
    assert (found["arch"], found["abi"], found["cores"]) == ("aarch64", "arm64-v8a", 8)
    assert (found["os"], found["model"]) == ("Android 15", "Google Pixel 6")
    assert found["core_classes"] == [
        {"cores": [6, 7], "name": "big", "max_mhz": 2802.0},
        {"cores": [4, 5], "name": "mid", "max_mhz": 2253.0},
        {"cores": [0, 1, 2, 3], "name": "little", "max_mhz": 1803.0},
    ]
    assert found["emulated"] is False
    assert found["governor"] == found["load"] == "unavailable"


def test_nothing_of_this_machine_slips_in() -> None:
    found = remote_facts.machine(b"")
    assert found.pop("emulated") is False
    assert found.pop("core_classes") == []
    assert found.pop("cpu_flags") == []
    assert set(found.values()) == {system_info.UNAVAILABLE}


@pytest.mark.parametrize(
    ("files", "emulated"),
    [
        ({"exe": "/usr/bin/qemu-aarch64-static\n"}, True),
        ({"arch": "aarch64\n", "proc/cpuinfo": "vendor_id : GenuineIntel\n"}, True),
        ({"arch": "x86_64\n", "proc/cpuinfo": "vendor_id : GenuineIntel\n"}, False),
    ],
)
def test_an_emulator_is_seen(files: dict[str, str], emulated: bool) -> None:
    assert remote_facts.machine(said(files))["emulated"] is emulated


def test_an_answer_cut_anywhere_is_read_as_far_as_it_goes() -> None:
    whole = said(PHONE)
    for cut in range(0, len(whole), 7):
        found = remote_facts.machine(whole[:cut])
        assert found["cores"] in (system_info.UNAVAILABLE, 1, 8)


@pytest.mark.parametrize(
    "name",
    ["/etc/cron.d/x", "../../outside", "a/../../b", "proc/self/exe", "proc/stat/x", "PROC/STAT"],
)
def test_a_file_that_nobody_asked_for_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="a file that it was not asked for"):
        remote_facts.machine(said({**PHONE, name: "x\n"}))


@pytest.mark.parametrize(
    ("online", "count"), [("0-3,6", 5), ("0", 1), ("", "unavailable"), ("x", "unavailable")]
)
def test_cores_are_counted(online: str, count: object) -> None:
    assert remote_facts.cores({"sys/devices/system/cpu/online": online}) == count


def test_the_script_reads_this_machine() -> None:
    out = subprocess.run(["sh", "-c", remote_facts.SCRIPT], capture_output=True, check=True).stdout
    found, here = remote_facts.machine(out), system_info.machine()
    for name in ("cpu", "cpu_flags", "arch", "cores", "memory_gb", "os", "kernel", "governor"):
        assert found[name] == here[name], name


@pytest.mark.parametrize(
    ("said", "library"),
    [
        ("glibc 2.36\n/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1\n", "glibc 2.36"),
        ("/lib/ld-linux-aarch64.so.1\nld.so (Debian GLIBC 2.36-9+deb12u9) stable release version "
         "2.36.\nCopyright (C) 2022 Free Software Foundation, Inc.\n", "glibc 2.36"),
        ("/lib/aarch64-linux-gnu/ld-2.31.so\n", "glibc 2.31"),
        ("/lib/ld-musl-aarch64.so.1\n", "musl"),
        ("/lib/ld-musl-aarch64.so.1\n/lib/libgcompat.so.0\n", "musl"),
        ("/lib/ld-musl-x86_64.so.1\n/lib/x86_64-linux-gnu/ld-2.31.so\n", "glibc 2.31"),
        ("", "none"),
    ],
)  # fmt: skip
def test_the_c_library_is_told(said: str, library: str) -> None:
    assert remote_facts.libc(said) == library


@pytest.mark.parametrize(("told", "bits"), [("64\n", 64), ("32\n", 32), ("", "unavailable")])
def test_the_width_of_pointers_is_told(told: str, bits: object) -> None:
    assert remote_facts.bits({"bits": told}) == bits


def test_this_machines_c_library_is_found_with_and_without_getconf(tmp_path: Path) -> None:
    """Without it the loader is asked, and the shell's own file is looked at."""
    for name in ("sh", "cat", "head", "tail", "od", "readlink", "uname"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    for path in (os.environ["PATH"], str(tmp_path)):
        done = subprocess.run(
            ["/bin/sh", "-c", remote_facts.SCRIPT],
            capture_output=True,
            env={"PATH": path},
            check=True,
        )
        found = remote_facts.machine(done.stdout)
        assert found["libc"] == os.confstr("CS_GNU_LIBC_VERSION")
        assert found["bits"] == 64
    assert remote_facts.machine(said({"libstdc++": ""}))["libstdc++"] is False
    assert found["libstdc++"] is False  # nothing there lists files
    listed = subprocess.run(
        ["sh", "-c", remote_facts.SCRIPT], capture_output=True, check=True
    ).stdout
    assert remote_facts.machine(listed)["libstdc++"] is True
