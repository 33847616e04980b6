"""Which cores are alike, by what phones, boards and machines tell of theirs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from torchopt2edge.devices import Local, answers, core_classes
from torchopt2edge.errors import DeviceError
from torchopt2edge.runner import system_info

CPU = "sys/devices/system/cpu"


def tree(root: Path, name: str, values: Sequence[object]) -> Path:
    """Give each core a file of that name."""
    for core, value in enumerate(values):
        file = root / CPU / f"cpu{core}" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    return root


def cpuinfo(root: Path, parts: list[str]) -> Path:
    """Write /proc/cpuinfo of such cores."""
    file = root / "proc/cpuinfo"
    file.parent.mkdir(parents=True)
    file.write_text(
        "".join(
            f"processor\t: {core}\nFeatures\t: asimd\nCPU implementer\t: 0x41\n"
            f"CPU part\t: {part}\n\n"
            for core, part in enumerate(parts)
        )
    )
    return root


def grouped(root: Path) -> list[tuple[str, list[int]]]:
    return [(one["name"], one["cores"]) for one in core_classes.classes(system_info.Tree(root))]


def test_capacity_goes_before_the_clock(tmp_path: Path) -> None:
    tree(tmp_path, "cpu_capacity", [250, 250, 250, 250, 700, 700, 1024, 1024])
    tree(tmp_path, "cpufreq/cpuinfo_max_freq", [1803000] * 4 + [2348000] * 2 + [2253000] * 2)
    found = core_classes.classes(system_info.Tree(tmp_path))
    assert [one["cores"] for one in found] == [[6, 7], [4, 5], [0, 1, 2, 3]]
    assert found[0] == {"cores": [6, 7], "name": "big", "capacity": 1024, "max_mhz": 2253.0}


def test_the_clock_tells_where_no_capacity_does(tmp_path: Path) -> None:
    tree(tmp_path, "cpufreq/cpuinfo_max_freq", [1803000] * 4 + [2253000] * 2 + [2802000] * 2)
    assert grouped(tmp_path) == [("big", [6, 7]), ("mid", [4, 5]), ("little", [0, 1, 2, 3])]
    assert core_classes.classes(system_info.Tree(tmp_path))[2] == {
        "cores": [0, 1, 2, 3], "name": "little", "max_mhz": 1803.0
    }  # fmt: skip


def test_twins_that_clock_a_little_higher_are_one_class(tmp_path: Path) -> None:
    tree(tmp_path, "cpufreq/cpuinfo_max_freq", [5_000_000, 5_200_000, 5_000_000, 3_900_000])
    assert grouped(tmp_path) == [("big", [0, 1, 2]), ("little", [3])]


def test_other_parts_are_other_cores_at_whatever_clock(tmp_path: Path) -> None:
    cpuinfo(tmp_path, ["0xd81", "0xd81", "0xd82"])
    tree(tmp_path, "cpufreq/cpuinfo_max_freq", [3_150_000, 3_150_000, 3_300_000])
    assert grouped(tmp_path) == [("big", [2]), ("little", [0, 1])]


def test_the_part_tells_where_nothing_else_does(tmp_path: Path) -> None:
    assert grouped(cpuinfo(tmp_path / "a", ["0xd05", "0xd05", "0xd0b", "0xd44"])) == [
        ("big", [3]),
        ("mid", [2]),
        ("little", [0, 1]),
    ]
    assert core_classes.classes(system_info.Tree(cpuinfo(tmp_path / "b", ["0xd05", "0xfff"]))) == []


@pytest.mark.parametrize("values", [["", 1024], ["junk", 1024], [0, 0]])
def test_what_is_no_number_is_not_told(tmp_path: Path, values: list[object]) -> None:
    assert core_classes.classes(system_info.Tree(tree(tmp_path, "cpu_capacity", values))) == []
    assert core_classes.classes(system_info.Tree(tmp_path / "nothing")) == []


def test_cores_that_are_off_are_in_no_class(tmp_path: Path) -> None:
    tree(tmp_path, "cpu_capacity", [250, 250, 1024, 1024])
    (tmp_path / CPU / "online").write_text("0-2\n")
    assert grouped(tmp_path) == [("big", [2]), ("little", [0, 1])]


def test_a_class_is_chosen_by_its_name() -> None:
    known: list[dict[str, Any]] = [
        {"cores": [7], "name": "big"},
        {"cores": [5, 6], "name": "mid"},
        {"cores": [3, 4], "name": "mid"},
        {"cores": [0, 1, 2], "name": "little"},
    ]
    assert core_classes.choose(known, "big", "it") == (7,)
    assert core_classes.choose(known, "mid", "it") == (3, 4, 5, 6)
    with pytest.raises(DeviceError, match=r"no class of cores 'fast'.*big, mid, little"):
        core_classes.choose(known, "fast", "it")
    with pytest.raises(DeviceError, match=r"no class of cores 'mid' \(big \[7\]\).*cores=big"):
        core_classes.choose(known[:1], "mid", "it")
    with pytest.raises(DeviceError, match=r"does not tell its cores apart.*device\.affinity"):
        core_classes.choose([], "big", "it")


def test_a_core_that_is_not_there_is_refused() -> None:
    known: list[dict[str, Any]] = [{"cores": [2, 3], "name": "big"}, {"cores": [0], "name": "mid"}]
    assert core_classes.those([3, 0], known, "it") == (3, 0)
    assert core_classes.those([9], [], "it") == (9,)  # it does not tell
    with pytest.raises(DeviceError, match=r"no core 1, 9 that is on \(.*affinity=\[3\]"):
        core_classes.those([0, 1, 9], known, "it")


def test_this_machine_names_its_cores_or_says_that_it_cannot(tmp_path: Path) -> None:
    known = Local().facts()["core_classes"]
    assert all(set(one["cores"]) <= os.sched_getaffinity(0) for one in known)
    device = Local(cores="big")
    assert device.facts()["device_cores"] == "big"
    if known:
        assert device.pinned == tuple(known[0]["cores"])
        said = device.execute(["sh", "-c", "grep Cpus_allowed_list /proc/self/status"], 20.0)
        listed = said.stdout.decode().split()[1]
        assert answers.core_numbers(listed) == set(known[0]["cores"])
    else:
        with pytest.raises(DeviceError, match="does not tell its cores apart"):
            device.start(["true"], tmp_path / "log")
    with pytest.raises(DeviceError, match=r"both name cores.*device\.affinity=null"):
        Local(cores="big", affinity=(0,)).facts()
