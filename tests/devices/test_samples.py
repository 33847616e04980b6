"""Samples at the other end of a link: brought there once, run there by their path."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.devices.serving import Server, all_gone
from torchopt2edge.bench import child_session as sessions
from torchopt2edge.bench.child_session import open_child
from torchopt2edge.devices.adb import Adb, AdbLink
from torchopt2edge.devices.local import Local
from torchopt2edge.devices.ssh import Ssh, SshLink
from torchopt2edge.errors import BenchError, DataError, DeviceError
from torchopt2edge.types import Candidate

MakeNet = Callable[..., Candidate]
Arrays = dict[str, np.ndarray]

SOME = 300  # of 3 kB each: more than travels within a command, and a chunk and a half


@pytest.fixture
def board(server: Server, tmp_path: Path) -> Ssh:
    """The board, with a folder of this test's own."""
    return Ssh(
        "board", config=str(server.config), python=sys.executable, workdir=str(tmp_path / "board")
    )


@pytest.fixture
def many() -> Arrays:
    rng = np.random.default_rng(3)
    return {"image": rng.normal(size=(SOME, 3, 16, 16)).astype(np.float32)}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the samples' files that go over the link."""
    names: list[str] = []
    push = SshLink.push

    def counted(link: SshLink, file: Path, to: str) -> None:
        names.extend([file.name] if file.suffix == ".frame" else [])
        push(link, file, to)

    monkeypatch.setattr(SshLink, "push", counted)
    return names


def outputs(candidate: Candidate, device: Local | Ssh, given: Arrays, log: Path) -> np.ndarray:
    with open_child(candidate, device, log) as session:
        (found,) = session(given).values()
    return found


@pytest.mark.parametrize("runner", ["python", "native"])
def test_samples_go_once_and_give_what_they_give_here(
    board: Ssh,
    net: MakeNet,
    tflite: Candidate,
    many: Arrays,
    sent: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    runner: str,
) -> None:
    """A file that takes any batch, and one that takes a single sample of another layout."""
    monkeypatch.setattr(sessions, "CHUNK", 600 << 10)
    device = replace(board, runner=runner)
    for candidate, other in ((net("a"), net("b", depth=2)), (tflite, tflite)):
        sent.clear()
        for one in (candidate, other):
            here = outputs(one, Local(runner=runner), many, tmp_path / "log")
            np.testing.assert_allclose(
                outputs(one, device, many, tmp_path / "log"), here, rtol=1e-6, atol=1e-7
            )
        assert len(sent) == len(set(sent)) == 2
    kept = [*(tmp_path / "board" / "files").glob("*/samples-*.frame")]
    assert len(kept) == 4
    assert all(file.stat().st_size < 700 << 10 for file in kept)
    assert all_gone(tmp_path / "board", 5.0)


def test_samples_that_were_sent_are_not_looked_for_again(
    board: Ssh, net: MakeNet, many: Arrays, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a candidate that takes the same bytes only the file is brought."""
    outputs(net("a"), board, many, tmp_path / "log")
    scripts: list[str] = []
    run = SshLink.run
    monkeypatch.setattr(
        SshLink, "run", lambda self, *words: scripts.append(words[0]) or run(self, *words)
    )
    outputs(net("b", depth=2), board, many, tmp_path / "log")
    assert all("b.onnx" in script for script in scripts)
    shutil.rmtree(tmp_path / "board" / "files")
    with pytest.raises(DeviceError, match="removed while we worked"):
        outputs(net("a"), board, many, tmp_path / "log")
    outputs(net("a"), board, many, tmp_path / "log")


def test_a_few_samples_travel_in_one_frame(
    board: Ssh, tflite: Candidate, many: Arrays, sent: list[str], tmp_path: Path
) -> None:
    """However few the file takes at once."""
    few = {"image": many["image"][:40]}
    asked: list[str] = []
    ask = sessions.ChildSession._ask

    def counted(self: sessions.ChildSession, wanted: str, *more: object, **rest: object) -> object:
        asked.append(wanted)
        return ask(self, wanted, *more, **rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions.ChildSession, "_ask", counted)
        found = outputs(tflite, board, few, tmp_path / "log")
    np.testing.assert_allclose(found, few["image"] + np.arange(3.0)[:, None, None], rtol=1e-6)
    assert asked == ["opened", "called"]
    assert sent == []


@pytest.mark.parametrize("runtime", ["ort", "litert"])
def test_batches_travel_together_and_are_run_as_alone(
    board: Ssh,
    net: MakeNet,
    tflite: Candidate,
    many: Arrays,
    sent: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    runtime: str,
) -> None:
    """A small last batch, and one of another type in between, go along in their order."""
    monkeypatch.setattr(sessions, "CHUNK", 600 << 10)
    monkeypatch.setattr(sessions, "INLINE", 32 << 10)
    batches = [many["image"][at : at + 14] for at in range(0, SOME, 14)]
    batches[3] = batches[3].astype(np.float64)
    items = [({"image": one}, at) for at, one in enumerate(batches)]
    pieces: list[int] = []
    ask = sessions.ChildSession._ask

    def counted(
        self: sessions.ChildSession,
        wanted: str,
        header: dict[str, int],
        *more: object,
        **rest: float,
    ) -> object:
        pieces.append(header.get("pieces", 1))
        return ask(self, wanted, header, *more, **rest)  # type: ignore[arg-type]

    with open_child(net("a") if runtime == "ort" else tflite, board, tmp_path / "log") as session:
        alone = [next(iter(session(given).values())) for given, _ in items]
        sent.clear()
        with monkeypatch.context() as patch:
            patch.setattr(sessions.ChildSession, "_ask", counted)
            found = [*session.each(items)]
    for at, (answer, given, along) in enumerate(found):
        assert (given, along) == items[at]
        np.testing.assert_array_equal(next(iter(answer.values())), alone[at])
    assert len(found) == len(batches)
    assert len(sent) == 3  # of 3 and of 14 and 4 batches; that of another type was sent before
    assert sum(pieces) == (len(batches) if runtime == "ort" else SOME)
    assert all_gone(tmp_path / "board", 5.0)


def test_batches_that_cannot_be_stacked_are_run_alone(
    net: MakeNet, many: Arrays, tmp_path: Path
) -> None:
    """On this machine nothing is gained by it."""
    items = [({"image": many["image"][:at]}, at) for at in (2, 2, 3)]
    with open_child(net("a"), Local(), tmp_path / "log") as session:
        assert [len(next(iter(one.values()))) for one, *_ in session.each(items)] == [2, 2, 3]
        assert [*session.each([])] == []


def test_what_cannot_be_cut_is_said(tflite: Candidate) -> None:
    pairs = replace(tflite.signature.inputs[0], shape=(2, 3, 16, 16))
    odd = replace(tflite, signature=replace(tflite.signature, inputs=(pairs,)))
    assert sessions.batch_of(odd.signature) is None  # its output holds one sample, not two
    assert sessions.batch_of(tflite.signature) == 1
    with pytest.raises(DataError, match="3 samples cannot be run by a file that takes 2"):
        next(sessions.chunks({"image": np.zeros((3, 4))}, 2))
    with pytest.raises(DataError, match="0 samples"):
        next(sessions.chunks({"image": np.zeros((0, 4))}, 1))


def test_no_room_here_for_what_is_on_its_way(
    board: Ssh, net: MakeNet, many: Arrays, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with open_child(net("a"), board, tmp_path / "log") as session:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
        with pytest.raises(BenchError, match=r"cannot be kept on their way.*TMPDIR"):
            session(many)
        monkeypatch.undo()
    assert all_gone(tmp_path / "board", 5.0)


def test_a_phone_is_sent_its_samples_once_as_well(
    phone: str,
    tflite: Candidate,
    many: Arrays,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    device = Adb(serial=phone, runner="native", workdir=str(tmp_path / "phone"))
    names: list[str] = []
    push = AdbLink.push
    monkeypatch.setattr(
        AdbLink, "push", lambda self, *words: names.append(words[0].name) or push(self, *words)
    )
    for _ in range(2):
        found = outputs(tflite, device, many, tmp_path / "log")
        np.testing.assert_allclose(found, many["image"] + np.arange(3.0)[:, None, None], rtol=1e-6)
    assert sum(name.endswith(".frame") for name in names) == 1
    assert all_gone(tmp_path / "phone", 5.0)
