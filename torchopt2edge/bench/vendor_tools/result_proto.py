"""Decodes ``results.pb``, which ``benchmark_model --result_file_path`` writes.

The message is ``tflite.tools.benchmark.BenchmarkResult``: three messages of numbers. Its wire
format needs the four cases below, and neither a compiler nor a library.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from torchopt2edge.bench.vendor_tools.benchmark_model import NAME
from torchopt2edge.bench.vendor_tools.summary import MIB, ToolSummary
from torchopt2edge.bench.vendor_tools.text import positive, spread, whole
from torchopt2edge.errors import BenchError

_KIB = 1024 / 1e6
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NAME = 1
_PARTS = {
    2: "avg min max stddev median p5 p95 init first warmup".split(),
    3: "init_kb overall_kb peak_mb".split(),
    4: "size_mb runs warmup_runs throughput".split(),
}


def parse(data: bytes) -> ToolSummary:
    """Return the measurement in a result file: milliseconds as 32-bit floats.

    Raises:
        BenchError: it is no such file, it was cut, or it holds no mean.
    """
    try:
        told = _decode(data)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise _broken("it is cut, or no BenchmarkResult") from error
    values = {name: positive(value) for name, value in told.items() if isinstance(value, float)}
    if values.get("avg") is None:
        raise _broken("it holds no mean latency")
    std, peak = told.get("stddev"), values.get("peak_mb")
    delta = {at: kb * _KIB for at in ("init", "overall") if (kb := values.get(f"{at}_kb"))}
    facts = {
        "resolution_ms": 1e-3,
        "warmup_runs": whole(values.get("warmup_runs")),
        "model_size_mb": values.get("size_mb"),
        "throughput_mb_s": values.get("throughput"),
        "memory_delta_mb": delta or None,
    }
    return ToolSummary(
        NAME,
        "proto",
        model=str(told["name"]) if told.get("name") else None,
        runs=whole(values.get("runs")),
        mean_ms=values["avg"],
        median_ms=values.get("median"),
        min_ms=values.get("min"),
        max_ms=values.get("max"),
        std_ms=spread(std) if isinstance(std, float) else None,
        percentiles={float(at): ms for at in (5, 95) if (ms := values.get(f"p{at}"))},
        init_ms=values.get("init"),
        first_ms=values.get("first"),
        warmup_ms=values.get("warmup"),
        memory_mb=None if peak is None else peak * MIB,
        facts={name: value for name, value in facts.items() if value is not None},
    )


def _broken(why: str) -> BenchError:
    hint = "fetch the file again, in binary, after the tool has ended"
    return BenchError(why, artifact="results.pb", hint=hint)


def _decode(data: bytes) -> Mapping[str, float | str]:
    """Return the numbers by name; those of a later version are passed over."""
    told: dict[str, float | str] = {}
    for number, value in _fields(data):
        if number == _NAME and isinstance(value, bytes):
            told["name"] = value.decode()
        elif isinstance(value, bytes) and (names := _PARTS.get(number)):
            for at, inner in _fields(value):
                if at <= len(names) and not isinstance(inner, bytes):
                    told[names[at - 1]] = float(inner)
    return told


def _fields(data: bytes) -> Iterator[tuple[int, float | bytes]]:
    """Yield (field number, value) of one message; a cut one raises IndexError or struct.error."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value: float | bytes
        if tag & 7 == _VARINT:
            value, at = _varint(data, at)
        elif tag & 7 == _FIXED32:
            value, at = _shortest(struct.unpack_from("<f", data, at)[0]), at + 4
        elif tag & 7 == _FIXED64:
            value, at = struct.unpack_from("<d", data, at)[0], at + 8
        elif tag & 7 == _BYTES:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + max(size, 0)
        else:
            raise IndexError(tag)
        if at > len(data) or tag < 8:  # fields are numbered from 1
            raise IndexError(at)
        yield tag >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; a negative number has its 64th bit set."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at + shift // 7]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value - (1 << 64) if value >> 63 else value, at + shift // 7 + 1
    raise IndexError(at)


def _shortest(value: float) -> float:
    """A 32-bit float holds seven digits; the others are the conversion's."""
    return float(f"{value:.7g}")
