"""Reading a machine: recorded trees of others, and this one."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from torchopt2edge.runner import system_info

PI5 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
"""
XEON = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu vme sse2 avx2 avx512f avx512_vnni amx_int8 hypervisor
"""


def tree(root: Path, files: dict[str, str]) -> system_info.Tree:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return system_info.Tree(root)


def test_this_machine_is_read_whole() -> None:
    found = system_info.machine()
    assert found["cpu"] != system_info.UNAVAILABLE
    assert found["arch"] == platform.machine()
    assert found["cores"] == os.cpu_count()
    assert found["memory_gb"] > 0.1
    assert 0.0 <= found["steal"] < 1.0
    assert found["emulated"] is False


def test_an_empty_machine_is_unavailable_and_never_zero(tmp_path: Path) -> None:
    found = system_info.machine(system_info.Tree(tmp_path))
    read = ("cpu", "memory_gb", "governor", "clocksource", "load", "steal")
    assert {name: found[name] for name in read} == dict.fromkeys(read, "unavailable")
    assert system_info.cpu_ticks(system_info.Tree(tmp_path)) is None


def test_the_kernels_deciding_flags_are_kept(tmp_path: Path) -> None:
    assert system_info.cpu(tree(tmp_path, {"proc/cpuinfo": PI5})) == (
        "ARM implementer 0x41 part 0xd0b",
        ["asimd", "asimddp", "asimdhp", "fphp"],
    )
    assert system_info.cpu(tree(tmp_path, {"proc/cpuinfo": XEON})) == (
        "Intel(R) Xeon(R) Processor",
        ["amx_int8", "avx2", "avx512_vnni", "avx512f"],
    )


def test_governors_of_unlike_cores_are_all_named(tmp_path: Path) -> None:
    place = "sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor"
    kinds = ["schedutil", "schedutil", "performance"]
    root = tree(tmp_path, {place.format(at): f"{kind}\n" for at, kind in enumerate(kinds)})
    assert system_info.governor(root) == "performance,schedutil"


def test_steal_counts_no_guest_time_twice(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/stat": "cpu  50 0 20 100 0 0 0 30 50 0\ncpu0 1 1 1 1 1 1 1 1\n"})
    assert system_info.cpu_ticks(root) == (30, 200)
    assert system_info.steal_since_boot(root) == 0.15


@pytest.mark.parametrize(
    ("program", "emulated"),
    [("/usr/bin/qemu-aarch64-static", True), ("/usr/bin/qemu-arm", True), ("/bin/python3", False)],
)
def test_qemu_user_is_seen_in_its_thread(tmp_path: Path, program: str, emulated: bool) -> None:
    assert system_info.emulated(system_info.Tree(tmp_path), "aarch64", program) is emulated


def test_an_interpreted_cpu_gives_itself_away(tmp_path: Path) -> None:
    text = XEON.replace("Intel(R) Xeon(R) Processor", "QEMU TCG CPU version 2.5+")
    assert system_info.emulated(tree(tmp_path, {"proc/cpuinfo": text}), "x86_64", "sh") is True
    assert system_info.emulated(tree(tmp_path, {"proc/cpuinfo": XEON}), "x86_64", "sh") is False
    assert system_info.emulated(tree(tmp_path, {"proc/cpuinfo": XEON}), "aarch64", "sh") is True


def test_switches_of_all_threads_and_the_peak(tmp_path: Path) -> None:
    status = "VmHWM:\t    2048 kB\nnonvoluntary_ctxt_switches:\t{}\n"
    root = tree(
        tmp_path,
        {
            "proc/self/status": status.format(3),
            "proc/self/task/1/status": status.format(3),
            "proc/self/task/2/status": status.format(4),
        },
    )
    assert system_info.thread_counts(root) == (7, 2048 * 1024)
    assert system_info.thread_counts()[1] > 1 << 20
