"""The argument lists, word by word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

import pytest

from torchopt2edge.bench.vendor_tools.command import benchmark_model, perf_test
from torchopt2edge.errors import ConfigError


def test_the_tflite_tool() -> None:
    file = PurePosixPath("/data/local/tmp/a model.tflite")
    made = benchmark_model(file, threads=4, warmup=2, runs=50, extra=["--enable_op_profiling=true"])
    assert made == [
        "benchmark_model",
        "--graph=/data/local/tmp/a model.tflite",
        "--num_threads=4",
        "--warmup_runs=2",
        "--num_runs=50",
        "--enable_op_profiling=true",
    ]
    assert benchmark_model("m.tflite", tool="./bm") == ["./bm", "--graph=m.tflite"]
    assert "--warmup_runs=0" in benchmark_model("m.tflite", warmup=0)


def test_the_onnx_runtime_tool() -> None:
    made = perf_test("m.onnx", threads=4, warmup=1, runs=100, extra=("-e", "xnnpack"))
    assert " ".join(made) == "onnxruntime_perf_test -I -m times -r 100 -x 4 -D -e xnnpack m.onnx"
    assert perf_test("m.onnx", extra=["-t", "5"], tool="/bin/pt") == [
        *("/bin/pt", "-I", "-D", "-t", "5", "m.onnx"),
    ]


def test_a_file_is_never_a_flag() -> None:
    assert perf_test("-I.onnx")[-1] == "./-I.onnx"


@pytest.mark.parametrize("build", [benchmark_model, perf_test])
@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"threads": 0}, "threads=1 or more"),
        ({"threads": -1}, "threads=1 or more"),
        ({"warmup": -1}, "warmup=0 or more"),
        ({"runs": 0}, "runs=1 or more"),
        ({"extra": "-t 5"}, r"extra=\['-t', '5'\]"),
    ],
)
def test_what_cannot_work_is_refused(
    build: Callable[..., list[str]], wrong: dict[str, object], hint: str
) -> None:
    with pytest.raises(ConfigError, match=hint):
        build("m", **wrong)


def test_onnx_runtime_warms_up_once() -> None:
    with pytest.raises(ConfigError, match="cannot be told to take 5"):
        perf_test("m.onnx", warmup=5)
