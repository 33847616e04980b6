"""Frames that nobody writes on purpose, through the native runner under the sanitizers."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from torchopt2edge.deploy import native_build
from torchopt2edge.runner.frames import encode

ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
SANITIZED = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
GIVEN = {"x": np.ones((4, 3), np.float32)}
NONE = {"x": np.zeros((0, 3), np.float32)}
OUT_OF_MEMORY = 70


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program with the sanitizers."""
    binary = tmp_path_factory.mktemp("native") / "sanitized"
    native_build.compile_source(native_build.compiler(), binary, (*native_build.FLAGS, *SANITIZED))
    return binary


@pytest.fixture
def opening(tmp_path: Path) -> bytes:
    """A file whose second output has as many columns as there are numbers but 0."""
    nodes = [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("NonZero", ["x"], ["z"])]
    ends = [
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in side]
        for side in (
            [("x", TensorProto.FLOAT, ["n", 3])],
            [("y", TensorProto.FLOAT, ["n", 3]), ("z", TensorProto.INT64, [2, "k"])],
        )
    ]
    file = tmp_path / "net.onnx"
    graph = helper.make_graph(nodes, "net", *ends)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), file)
    header = {"cmd": "open", "backend": "ort", "file": str(file), "threads": 1}
    return encode({**header, "library": str(native_build.library("ort"))})


def talk(binary: Path, sent: bytes) -> tuple[int, list[bytes], str]:
    """Send bytes and close; return the exit status, all that was written, and the log."""
    done = subprocess.run(
        [binary], input=sent, capture_output=True, env=ENVIRONMENT, timeout=60, check=False
    )
    return done.returncode, done.stdout.splitlines(), done.stderr.decode(errors="replace")


def test_empty_arrays_go_through(sanitized: Path, opening: bytes) -> None:
    timing = {"cmd": "round", "min_samples": 2, "seconds": 0.0, "max_samples": 2}
    for given in (NONE, {"x": np.zeros((4, 3), np.float32)}):  # nothing in, nothing out
        sent = [encode({"cmd": "call"}, given), encode({"cmd": "load"}, given), encode(timing)]
        status, lines, log = talk(sanitized, opening + b"".join(sent))
        assert status == 0, log
        events = [json.loads(line)["event"] for line in lines if line.startswith(b'{"event"')]
        assert events[:2] == ["opened", "called"]
        assert b'"shape": [2, 0]' in b"".join(lines)
        assert b'"stable": true' in lines[-1]


@pytest.mark.parametrize(
    ("given", "pieces"),
    [(NONE, 1e15), (NONE, 2), (GIVEN, 3), (GIVEN, 1.5), (GIVEN, 0), (GIVEN, -1), ({}, 2)],
)
def test_what_cannot_be_cut_is_refused(
    sanitized: Path, opening: bytes, given: dict[str, np.ndarray], pieces: float
) -> None:
    sent = opening + encode({"cmd": "call", "pieces": pieces}, given) + encode({"cmd": "sense"})
    status, lines, log = talk(sanitized, sent)
    assert (status, [json.loads(line)["event"] for line in lines]) == (
        0, ["opened", "error", "sensed"],
    ), log  # fmt: skip
    assert "pieces" in json.loads(lines[1])["what"]


@pytest.mark.parametrize("shape", ["1", '["1"]', "[0.5]", "[null]", "[1,", "[4294967296, 0]"])
def test_a_shape_is_a_list_of_whole_numbers(sanitized: Path, shape: str) -> None:
    spec = f'{{"name": "a", "dtype": "int8", "shape": {shape}}}'
    sent = f'{{"cmd": "sense", "arrays": [{spec}]}}\n'
    status, lines, log = talk(sanitized, sent.encode() + b"1" + encode({"cmd": "sense"}))
    assert status == 0, log
    assert json.loads(lines[0])["event"] == "error"


@pytest.mark.parametrize(
    ("line", "events"),
    [
        (b'{"cmd": "dance", "cmd": "sense"}', ["sensed", "sensed"]),  # the last counts
        (b'{"cmd": "sense"}\0{}', ["error", "sensed"]),
        (b'{"cmd": "s\\u0065nse"}', ["sensed", "sensed"]),
        (b'{"cmd": "s\\u  65nse"}', ["error", "sensed"]),
        (b'{"cmd": "s\\u-065nse"}', ["error", "sensed"]),
        (b'{"cmd": "sense", "x": "' + b"y" * ((1 << 20) - 26) + b'"}', ["sensed", "sensed"]),
        (b'{"cmd": "sense", "x": "' + b"y" * (1 << 20) + b'"}', ["error", "sensed"]),
    ],
    ids=["twice", "zero byte", "escape", "blank escape", "signed escape", "1 MiB", "more"],
)
def test_lines_are_read_as_python_reads_them(
    sanitized: Path, line: bytes, events: list[str]
) -> None:
    status, lines, log = talk(sanitized, line + b"\n" + encode({"cmd": "sense"}))
    assert (status, [json.loads(one)["event"] for one in lines]) == (0, events), log


def mutated(frames: list[bytes], rng: random.Random) -> bytes:
    """One of the frames with bytes changed, doubled, left out, or another's end."""
    words = [b'"', b"\\u", b"{", b"]", b",", b"NaN", b"-1", b"1e999", b"\0", b"null", b'"arrays"']
    data = bytearray(rng.choice(frames))
    for _ in range(rng.randrange(4)):
        at, how = rng.randrange(len(data) + 1), rng.randrange(5)
        if how == 0:
            data[at:at] = rng.choice(words)
        elif how == 1:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif how == 2:
            del data[at : at + rng.choice((1, 2, 9))]
        elif how == 3:
            data[at:at] = data[at : at + rng.choice((1, 8, 30))]
        else:
            other = rng.choice(frames)
            data[at:] = other[rng.randrange(len(other)) :]
    return bytes(data)


@pytest.mark.parametrize("seed", range(8))
def test_no_frame_breaks_a_rule_of_c(sanitized: Path, opening: bytes, seed: int) -> None:
    rng = random.Random(seed)
    frames = [
        encode({"cmd": "sense"}), encode({"cmd": "call"}, GIVEN), encode({"cmd": "load"}, GIVEN),
        encode({"cmd": "call", "pieces": 2}, GIVEN), encode({"cmd": "load"}, NONE),
        encode({"cmd": "round", "min_samples": 2, "seconds": 0, "max_samples": 2}),
    ]  # fmt: skip
    for _ in range(4):
        sent = opening + b"".join(mutated(frames, rng) for _ in range(300))
        status, _, log = talk(sanitized, sent)
        assert status in (0, OUT_OF_MEMORY), log


def test_a_process_that_a_runtime_leaves_holds_no_pipe_of_ours(tmp_path: Path) -> None:
    """Else its host would wait for the end of a runner that died long ago."""
    source, library = tmp_path / "fork.c", tmp_path / "fork.so"
    source.write_text(
        "#include <stdlib.h>\n#include <unistd.h>\n"
        "__attribute__((constructor)) static void leave(void) {\n"
        '    if (fork() == 0) execl("/bin/sleep", "sleep", "30", (char *)0);\n'
        "    usleep(300000); abort();\n}\n"
    )
    words = [*native_build.compiler(), "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(words, check=True, capture_output=True)
    header = {"cmd": "open", "backend": "ort", "file": "x", "threads": 1, "library": str(library)}
    with subprocess.Popen(
        [native_build.runner_binary()], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(encode(header))
            process.stdin.flush()
            assert select.select([process.stdout], [], [], 10.0)[0]
            assert process.stdout.read() == b""
            assert process.wait(10) == -signal.SIGABRT
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_file_without_outputs_is_refused(sanitized: Path, tmp_path: Path) -> None:
    """No check, no number."""
    end = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "net", [end], [])
    opset = [helper.make_opsetid("", 18)]
    file = tmp_path / "none.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), file)
    header = {"cmd": "open", "backend": "ort", "file": str(file), "threads": 1}
    header["library"] = str(native_build.library("ort"))
    status, lines, log = talk(sanitized, encode(header) + encode({"cmd": "call"}, GIVEN))
    answers = [json.loads(line) for line in lines]
    assert (status, [one["event"] for one in answers]) == (0, ["error", "error"]), log
    assert "no outputs" in answers[0]["what"]
    assert "no file was opened" in answers[1]["what"]
