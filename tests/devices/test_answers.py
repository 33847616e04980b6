"""What a device answers: real answers are read, damaged ones unknown or an error with a name."""

from __future__ import annotations

import builtins
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.devices.android.test_sensors import CAPS, CHARGING, THERMAL
from tests.devices.remote.test_facts import PHONE, said
from tests.hostile import EXAMPLES, damaged
from torchopt2edge.devices import answers
from torchopt2edge.devices.android import sensors as android_sensors
from torchopt2edge.devices.answers import AnswerError
from torchopt2edge.devices.remote import facts as remote_facts
from torchopt2edge.errors import DeviceError

BOARD = {
    **PHONE,
    "proc/loadavg": "0.52 0.58 0.59 1/467 12345\n",
    "proc/stat": "cpu  50 0 20 100 0 0 0 30 50 0\ncpu0 1 1 1 1 1 1 1 1\nintr 5 6 7\n",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "libc": "glibc 2.36\n",
    "bits": "64\n",
    "others": "2\n",
}
SAMPLES = (
    f"\x1eat\n12.50\n\x1ecaps\n{CAPS}\x1ethermal\n{THERMAL}\x1ebattery\n{CHARGING}\x1esupply\n"
    "supply Battery - Discharging\n\x1eend\n"
).encode()
# Who reads an answer → a real one.
READERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "machine": (remote_facts.machine, said(BOARD)),
    "others": (remote_facts.count, said(BOARD)),
    "samples": (lambda data: android_sensors.read(data.decode(errors="replace")), SAMPLES),
    "place": (answers.place_and_state, b"/home/pi/.cache/files/ab12\nnone\n"),
    "path": (answers.path_there, b"/home/pi/.cache\n"),
    "python": (
        lambda d: repr(answers.interpreter(d, ["numpy"])),
        b"3 11 True aarch64 glibc 2.36\nnumpy\n",
    ),
    "runtimes": (answers.runtimes_and_sensors, b"sensor clock\nruntime numpy 2.1.0\n"),
    "settings": (answers.settings, b"stay_on yes\nfixed_performance refused\n"),
    "uptime": (lambda data: answers.uptime(data.decode(errors="replace")), b"1234.56"),
    "sizes": (answers.sizes, b"  12 ./ab12/net.onnx\n 12 total\n"),
    "digest": (answers.digest_and_name, b"a" * 64 + b"  /x/libLiteRt.so\n"),
    "cores": (lambda d: sorted(answers.core_numbers(d.decode(errors="replace"))), b"0-3,6\n"),
}


def test_real_answers_are_read() -> None:
    assert remote_facts.machine(said(BOARD))["steal"] == 0.15
    assert remote_facts.machine(said(BOARD))["load"] == 0.52
    assert remote_facts.count(said(BOARD)) == 2
    ((up, sample),) = android_sensors.read(SAMPLES.decode())
    assert (up, sample["temperature_c"], sample["charging"]) == (12.5, 62.5, True)
    assert answers.place_and_state(READERS["place"][1]) == ("/home/pi/.cache/files/ab12", "none")
    found = answers.interpreter(READERS["python"][1], ["numpy", "onnxruntime"])
    assert found == answers.Interpreter((3, 11), True, "aarch64", (2, 36), frozenset({"numpy"}))
    assert answers.runtimes_and_sensors(READERS["runtimes"][1]) == ({"numpy": "2.1.0"}, ["clock"])
    assert answers.settings(READERS["settings"][1]) == {
        "stay_on": "yes", "fixed_performance": "refused"
    }  # fmt: skip
    assert answers.sizes(READERS["sizes"][1]) == {"ab12/net.onnx": 12}
    assert answers.digest_and_name(READERS["digest"][1]) == ("a" * 64, "libLiteRt.so")


@pytest.mark.parametrize(
    ("listed", "found"),
    [("0-3,6\n", {0, 1, 2, 3, 6}), ("0", {0}), ("", set()), ("x", set()), ("1-", {1}),
     ("3-0", set()), ("²", set()), ("٣", set()), ("9" * 5000, set())],
)  # fmt: skip
def test_a_list_of_cores(listed: str, found: set[int]) -> None:
    assert answers.core_numbers(listed) == found


@pytest.mark.parametrize("listed", ["0-4000000000", "8192", "0-3,0-99999"])
def test_more_cores_than_a_machine_has_are_refused(listed: str) -> None:
    with pytest.raises(AnswerError, match="no machine has so many"):
        answers.core_numbers(listed)
    online = {"sys/devices/system/cpu/online": f"{listed}\n"}
    with pytest.raises(DeviceError, match="no machine has so many"):
        remote_facts.machine(said({**PHONE, **online}))


@pytest.mark.parametrize(
    ("name", "text", "fact"),
    [
        ("proc/meminfo", "MemTotal: lots\n", "memory_gb"),
        ("proc/meminfo", "MemTotal:\n", "memory_gb"),
        ("proc/meminfo", f"MemTotal: {'9' * 5000} kB\n", "memory_gb"),
        ("proc/loadavg", "nan 1 2\n", "load"),
        ("proc/loadavg", "1e400 1 2\n", "load"),
        ("proc/stat", "cpu 1 2 x 4 5 6 7 8\n", "steal"),
        ("arch", "../../../x\n", "arch"),
        ("kernel", "6.1\x1b[31m\n", "kernel"),
        ("ro.product.model", "x" * 500 + "\n", "model"),
    ],
)
def test_a_line_that_is_none_of_its_file_is_unknown(name: str, text: str, fact: str) -> None:
    found = remote_facts.machine(said({**BOARD, name: text}))[fact]
    assert found in ("unavailable", "Google")


@pytest.mark.parametrize("wrong", [b"", b"x\n", b"/a\x1b[2J\n", b"/" + b"x" * 5000, b"\xff\n"])
def test_a_path_there_is_one(wrong: bytes) -> None:
    with pytest.raises(AnswerError, match="was asked for a folder"):
        answers.path_there(wrong)


def test_too_many_lines_are_refused() -> None:
    with pytest.raises(AnswerError, match="more than 100000 lines"):
        answers.settings(b"x\n" * 100_001)


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_a_damaged_answer_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    read, whole = READERS[kind]
    message, why = data.draw(damaged(whole, (b"\x1e/etc/passwd\nx\n", b"cpu99999/"))), ""
    try:
        found = read(message)
    except DeviceError as error:
        why = str(error)
    else:
        json.dumps(found)
        assert len(repr(found)) < 100_000
    assert why.isprintable()


@settings(max_examples=EXAMPLES, deadline=None)
@given(message=damaged(said(BOARD), (b"\x1e/tmp/t2e-owned\nx\n", b"\x1e../../x\ny\n")))
def test_no_answer_touches_a_file_of_this_machine(message: bytes) -> None:
    """Whatever a machine tells about itself is read in memory."""

    def refuse(*words: object, **_: object) -> Any:
        raise AssertionError(f"a file was touched: {words}")

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (builtins, "open"), (os, "open"), (os, "mkdir"), (os, "symlink"), (os, "readlink"),
            (os, "stat"), (Path, "open"), (Path, "mkdir"), (tempfile, "mkdtemp"),
        ):  # fmt: skip
            patch.setattr(module, name, refuse)
        try:
            remote_facts.machine(message)
        except DeviceError:
            pass
