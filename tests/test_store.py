"""The store's rules, each by its number, with real processes that are really killed."""

from __future__ import annotations

import errno
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from torchopt2edge import errors, store
from torchopt2edge.errors import ConfigError, StoreError
from torchopt2edge.identity import Identity
from torchopt2edge.store import Store, digest_of, identity, key_of, versions

KEY = "ab" * 32


@dataclass(frozen=True)
class Step:
    """A configuration of each plain kind."""

    width: int = 8
    rates: tuple[float, ...] = (0.1, 0.2)
    options: dict[str, Any] = field(default_factory=dict)
    threads: int = field(default=1, metadata={"identity": False})


@dataclass(frozen=True)
class Data:
    """A configuration that stands for content."""

    content: str = field(metadata={"identity": False})

    def fingerprint(self) -> str:
        """Say which content."""
        return self.content

    def load(self) -> None:
        """Be a method."""


def double(value: int = 1) -> int:
    """Be a function of a module."""
    return 2 * value


def note(text: str) -> Callable[[Path], dict[str, Any]]:
    """Return a maker that writes one file."""

    def maker(out: Path) -> dict[str, Any]:
        (out / "note.txt").write_text(text)
        return {"length": len(text)}

    return maker


# R1


def test_equal_configurations_have_equal_identities() -> None:
    one = Step(options={"b": [1, None], "a": Path("x")})
    two = Step(options={"a": Path("x"), "b": [1, None]})
    assert identity(one) == identity(two)
    assert json.loads(json.dumps(identity(one))) == identity(one)


@pytest.mark.parametrize(
    "other", [Step(9), Step(rates=(0.1,)), Step(rates=(0.2, 0.1)), Step(options={"a": 1})], ids=repr
)
def test_every_field_counts(other: Step) -> None:
    assert identity(other) != identity(Step())


def test_a_field_that_opts_out_does_not_count() -> None:
    assert identity(Step(threads=1)) == identity(Step(threads=4))


def test_equal_fields_of_another_class_are_another_thing() -> None:
    @dataclass(frozen=True)
    class Other(Step):
        """The same fields."""

    assert identity(Other()) != identity(Step())


def test_one_is_not_true() -> None:
    keys = [key_of({"value": value}, {}, {}) for value in (1, True, 1.0, "1", None)]
    assert len(set(keys)) == 5


def test_sets_have_no_order() -> None:
    assert identity({"b", "a", "c"}) == ["a", "b", "c"] == identity(frozenset("cab"))


def test_a_fingerprint_counts() -> None:
    assert identity(Data("cats")) == identity(Data("cats"))
    assert identity(Data("cats")) != identity(Data("dogs"))


def test_partials_are_told_by_function_and_arguments() -> None:
    partial = functools.partial
    assert identity(partial(double, 3)) == identity(partial(double, 3))
    others = [partial(double, 4), partial(double, value=3), partial(int, 3), double]
    assert identity(partial(double, 3)) not in [identity(other) for other in others]


def test_a_method_is_told_by_its_object() -> None:
    assert identity(Data("cats").load) == identity(Data("cats").load)
    assert identity(Data("cats").load) != identity(Data("dogs").load)


def closure(value: int) -> Callable[[], int]:
    """Return a function whose name and source do not say what it holds."""

    def held() -> int:
        return value

    return held


@pytest.mark.parametrize(
    "value", [lambda: 1, closure(1), object()], ids=["lambda", "closure", "object"]
)
def test_what_has_no_stable_identity(value: object) -> None:
    with pytest.raises(ConfigError, match="no stable identity"):
        identity({"deep": [value]})


def module(folder: Path, name: str, source: str) -> ModuleType:
    """Write and import a module; a second time, import what it became."""
    (folder / f"{name}.py").write_text(source)
    importlib.invalidate_caches()
    sys.modules.pop(name, None)
    return importlib.import_module(name)


def test_edited_source_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = identity(module(tmp_path, "loose_step", "def run(): return 1\n").run)
    again = identity(module(tmp_path, "loose_step", "def run(): return 1\n").run)
    edited = identity(module(tmp_path, "loose_step", "def run(): return 2\n").run)
    assert before == again
    assert before != edited
    sys.modules.pop("loose_step")


def test_an_edited_neighbour_in_the_package_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = tmp_path / "own_room"
    room.mkdir()
    (room / "__init__.py").touch()
    (room / "helper.py").write_text("RATE = 1\n")
    (room / "step.py").write_text("def run(): return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    step = importlib.import_module("own_room.step")
    before = identity(step.run)
    (room / "helper.py").write_text("RATE = 20\n")
    assert identity(step.run) != before
    for name in ("own_room.step", "own_room"):
        sys.modules.pop(name)


def test_a_key_is_of_maker_inputs_and_tools() -> None:
    key = key_of(Step(), {"model": "d1"}, {"torch": "2"})
    assert key == key_of(Step(), {"model": "d1"}, {"torch": "2"})
    assert len(key) == 64
    others = [
        key_of(Step(9), {"model": "d1"}, {"torch": "2"}),
        key_of(Step(), {"model": "d2"}, {"torch": "2"}),
        key_of(Step(), {"teacher": "d1"}, {"torch": "2"}),
        key_of(Step(), {"model": "d1"}, {"torch": "3"}),
    ]
    assert len({key, *others}) == 5


@pytest.mark.parametrize(
    ("package", "counts"),
    [("onnx", True), ("onnxruntime", True), ("numpy", True), ("timm", False), ("torch", False)],
)
def test_a_key_holds_the_versions_of_what_its_code_imports(
    package: str, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchopt2edge.backends.ort.backend import Ort

    before, real = key_of(Ort().lower, {}), store._version
    other = {package: "another version"}
    monkeypatch.setattr(store, "_version", lambda name: other.get(name) or real(name))
    assert (key_of(Ort().lower, {}) != before) is counts


def test_a_data_set_names_a_tool_that_it_does_not_import(tmp_path: Path) -> None:
    from torchopt2edge.data.image_folder import ImageFolder

    found = Identity()
    found.of(ImageFolder(str(tmp_path)))
    assert {"pillow", "torchvision"} <= found.packages


def test_equal_methods_of_equal_objects_are_one_and_fields_count() -> None:
    from torchopt2edge.backends.ort.backend import Ort

    assert identity(Ort("x86").lower) == identity(Ort("x86").lower)
    assert identity(Ort("x86").lower) != identity(Ort("arm64").lower)
    assert identity(Ort().lower) != identity(Ort().open)


def test_versions_name_what_is_absent() -> None:
    found = versions(["numpy", "no-such-package"])
    assert found["no-such-package"] == "absent"
    assert found["numpy"].split(".")[0].isdigit()
    assert found["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_the_cache_root_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHOPT2EDGE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.cache_root() == tmp_path / "torchopt2edge"
    monkeypatch.setenv("TORCHOPT2EDGE_CACHE", str(tmp_path / "own"))
    assert Store.default() == Store(tmp_path / "own" / "store")


# R2, R5


def test_an_artifact_is_made_once(tmp_path: Path) -> None:
    made, there = Store(tmp_path).make(KEY, "note", note("first"))
    again, there_again = Store(tmp_path).make(KEY, "note", note("second"))
    assert (there, there_again) == (False, True)
    assert made == again == Store(tmp_path).get(KEY)
    assert (again.path / "note.txt").read_text() == "first"
    assert again.facts == {"length": 5}
    assert again.kind == "note"


def test_nothing_is_there_before_it_is_made(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").get(KEY) is None


def test_a_digest_is_of_names_and_bytes_without_logs(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return digest_of(tmp_path / name)

    plain = folder("a", {"x": "1", "deep/y": "2"})
    assert folder("b", {"deep/y": "2", "x": "1", "run.log": "t", "artifact.json": "{}"}) == plain
    others = [folder("c", {"x": "1", "y": "2"}), folder("d", {"x": "2", "deep/y": "2"})]
    assert plain not in others


# R3


def left_in(root: Path) -> list[str]:
    """Name what lies in a store, its locks left out."""
    paths = (path.relative_to(root) for path in root.rglob("*"))
    return [str(path) for path in paths if path.parts[0] != "locks" and len(path.parts) > 1]


def test_a_failure_is_never_kept(tmp_path: Path) -> None:
    def failing(out: Path) -> dict[str, Any]:
        (out / "half").write_text("half")
        raise errors.LowerError("no kernel")

    for _ in range(2):
        with pytest.raises(errors.LowerError, match="no kernel"):
            Store(tmp_path).make(KEY, "note", failing)
    assert left_in(tmp_path) == []
    _, there = Store(tmp_path).make(KEY, "note", note("now"))
    assert not there


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(out: Path) -> dict[str, Any]:
        (out / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).make(KEY, "note", interrupted)
    assert left_in(tmp_path) == []


def test_facts_that_are_not_plain_data_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        Store(tmp_path).make(KEY, "note", lambda out: {"live": object()})
    assert left_in(tmp_path) == []


def test_a_full_disk_is_said_so(tmp_path: Path) -> None:
    def filling(out: Path) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match="No space left on device") as caught:
        Store(tmp_path).make(KEY, "note", filling)
    assert "free some space" in str(caught.value)
    assert left_in(tmp_path) == []


def test_a_makers_own_missing_file_is_not_the_stores_fault(tmp_path: Path) -> None:
    def reading(out: Path) -> dict[str, Any]:
        return {"text": (tmp_path / "absent").read_text()}

    with pytest.raises(FileNotFoundError):
        Store(tmp_path).make(KEY, "note", reading)


CHILD = """
import sys, time
from pathlib import Path
from torchopt2edge.store import Store

root, key, trace, seconds = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])

def maker(out):
    (out / "note.txt").write_text("half")
    with trace.open("a") as file:
        file.write("made\\n")
    time.sleep(seconds)
    (out / "note.txt").write_text("whole")
    return {}

made, there = Store(root).make(key, "note", maker)
print(there, (made.path / "note.txt").read_text())
"""


def child(root: Path, trace: Path, seconds: float) -> subprocess.Popen[str]:
    """Start a process that makes the artifact in that many seconds."""
    command = [sys.executable, "-c", CHILD, str(root), KEY, str(trace), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what must come; the test fails when it does not."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_process_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    root, trace = tmp_path / "store", tmp_path / "trace"
    running = child(root, trace, 600)
    wait_for(trace.is_file)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert any(".abab" in name for name in left_in(root)), "it was killed in the middle"
    assert Store(root).get(KEY) is None
    made, there = Store(root).make(KEY, "note", note("whole"))
    assert not there
    assert (made.path / "note.txt").read_text() == "whole"
    assert {name.split("/")[1] for name in left_in(root)} == {KEY}


# R4


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    root, trace = tmp_path / "store", tmp_path / "trace"
    pair = [child(root, trace, 1.0) for _ in range(2)]
    said = sorted(one.communicate(timeout=60)[0].strip() for one in pair)
    assert said == ["False whole", "True whole"]
    assert trace.read_text() == "made\n"


def test_other_keys_do_not_wait(tmp_path: Path) -> None:
    root, trace = tmp_path / "store", tmp_path / "trace"
    running = child(root, trace, 600)
    wait_for(trace.is_file)
    _, there = Store(root).make("cd" * 32, "note", note("other"))
    assert not there
    assert running.poll() is None, "it was still at work when the other one was made"
    running.kill()
    running.communicate()


# What cannot be written or read


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written") as caught:
        Store(tmp_path / "file" / "store").make(KEY, "note", note("x"))
    assert "TORCHOPT2EDGE_CACHE" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"kind": "note"}'])
def test_a_damaged_record_says_what_to_remove(tmp_path: Path, text: str) -> None:
    made, _ = Store(tmp_path).make(KEY, "note", note("x"))
    (made.path / "artifact.json").write_text(text)
    with pytest.raises(StoreError, match="record cannot be read") as caught:
        Store(tmp_path).get(KEY)
    assert f"rm -r {made.path}" in str(caught.value)
