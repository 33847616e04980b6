"""Samples that lie on the device: the native runner takes them by their path, and in pieces."""

from __future__ import annotations

from pathlib import Path

from tests.runner.native.test_runner import Native, assert_equal, some, write_tflite
from tests.runner.native.test_runner import binaries as binaries
from tests.runner.native.test_runner import binary as binary
from tests.runner.native.test_runner import native as native
from tests.runner.native.test_runner import two as two
from torchopt2edge.runner.frames import encode


def test_samples_that_lie_there_are_run_piece_by_piece(
    native: Native, two: Path, tmp_path: Path
) -> None:
    """As the Python runner does: a file of any batch at once, a file of one in pieces."""
    frame = tmp_path / "samples.frame"
    given = some("a", "b", shape=(6, 3))
    frame.write_bytes(encode({}, given))
    native.open("ort", two)
    for pieces in (1, 2, 6):
        assert native.ask("call", None, file=str(frame), pieces=pieces) == {"event": "called"}
        assert_equal(native.arrays, {"s": given["a"] - given["b"], "p": given["a"] * given["b"]})
    native.open("litert", write_tflite(tmp_path / "x.tflite"))
    given = some("a", "b", shape=(3, 2, 2, 3))
    assert native.ask("call", given, pieces=3) == {"event": "called"}
    assert_equal(native.arrays, {"s": given["a"] - given["b"], "p": given["a"] * given["b"]})
    frame.write_bytes(encode({}, given))
    assert native.ask("call", None, file=str(frame), pieces=3) == {"event": "called"}
    assert native.arrays["s"].shape == (3, 2, 2, 3)


def test_samples_that_cannot_be_run_are_an_answer(
    native: Native, two: Path, tmp_path: Path
) -> None:
    native.open("ort", two)
    frame = tmp_path / "samples.frame"
    whole = encode({}, some("a", "b", shape=(6, 3)))
    for body, what in (
        (b"", "no frame"),
        (b"nonsense\n", "no frame"),
        (b"[1]\n", "no frame"),
        (b"{}", "0 inputs"),
        (whole[:-1], "ends in the middle"),
        (whole[: whole.index(b"\n")], "ends in the middle"),
    ):
        frame.write_bytes(body)
        assert what in native.ask("call", None, file=str(frame))["what"]
    frame.write_bytes(whole)
    for pieces in (0, 4, 0.5, 1e9, "x"):
        answer = native.ask("call", None, file=str(frame), pieces=pieces)
        assert "pieces" in answer["what"]
    assert "cannot be read: No such" in native.ask("call", None, file="/nowhere")["what"]
    assert "holds no frame" in native.ask("call", None, file=str(tmp_path))["what"]
    assert native.ask("call", None, file=str(frame))["event"] == "called"
