"""Builds the argument lists of the runtimes' own benchmark tools; no shell is involved.

A device that runs a command through a shell (adb, ssh) quotes the list itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from torchopt2edge.errors import ConfigError


def benchmark_model(
    file: str | PurePath,
    threads: int | None = None,
    warmup: int | None = None,
    runs: int | None = None,
    extra: Sequence[str] = (),
    *,
    tool: str = "benchmark_model",
) -> list[str]:
    """Return the command that times a .tflite with TFLite's or LiteRT's tool.

    What is None is left to the tool. ``warmup`` and ``runs`` are the least number of inferences:
    the tool goes on until half a second and one second have passed, unless ``extra`` holds
    ``--warmup_min_secs=0`` and ``--min_secs=0``.

    Raises:
        ConfigError: a number is too small, or ``extra`` is not a list of words.
    """
    _check(threads, warmup, runs, extra)
    flags = {"num_threads": threads, "warmup_runs": warmup, "num_runs": runs}
    asked = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    return [tool, f"--graph={file}", *asked, *extra]


def perf_test(
    file: str | PurePath,
    threads: int | None = None,
    warmup: int | None = None,
    runs: int | None = None,
    extra: Sequence[str] = (),
    *,
    tool: str = "onnxruntime_perf_test",
) -> list[str]:
    """Return the command that times an .onnx or .ort with ONNX Runtime's tool.

    It makes its inputs (``-I``) and its threads do not spin (``-D``). What is None is left to the
    tool; without ``runs`` it runs for ten minutes, unless ``extra`` holds ``-t seconds``.

    Raises:
        ConfigError: a number is too small, ``warmup`` is not the one inference that the tool
            warms up with, or ``extra`` is not a list of words.
    """
    _check(threads, warmup, runs, extra)
    if warmup not in (None, 1):
        raise ConfigError(
            f"{tool} warms up with one inference and cannot be told to take {warmup}",
            artifact=str(file),
            hint="warmup=1",
        )
    times = [] if runs is None else ["-m", "times", "-r", str(runs)]
    intra = [] if threads is None else ["-x", str(threads)]
    place = str(file)
    # The file comes without a flag of its own, and must not look like one.
    return [tool, "-I", *times, *intra, "-D", *extra, f"./{place}" if place[:1] == "-" else place]


def _check(threads: int | None, warmup: int | None, runs: int | None, extra: Sequence[str]) -> None:
    for name, value, least in (("threads", threads, 1), ("warmup", warmup, 0), ("runs", runs, 1)):
        if value is not None and value < least:
            raise ConfigError(f"{name}={value} is too small", hint=f"{name}={least} or more")
    if isinstance(extra, str):
        raise ConfigError(
            f"extra is one string, {extra!r}, and would be cut into letters",
            hint=f"extra={extra.split()!r}",
        )
