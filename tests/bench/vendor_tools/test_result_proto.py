"""The decoder of results.pb, against protobuf's own encoder."""

from __future__ import annotations

from typing import Any

import pytest

from torchopt2edge.bench.vendor_tools.result_proto import parse
from torchopt2edge.errors import BenchError

FIELDS = {
    "Latency": "avg min max stddev median p5 p95 init first warm".split(),
    "Memory": "init_kb:int64 overall_kb:int64 peak".split(),
    "Misc": "size runs:int32 warm_runs:int32 throughput".split(),
}
VALUES = {
    "Latency": [9.92, 8.5, 12.25, 0.5, 9.9, 8.6, 11.0, 23744.73, 40.0, 20.0],
    "Memory": [-1, 2048, 25.5],
    "Misc": [4.276352, 50, 3, 27.46],
}


def message(name: str = "", **parts: list[float]) -> bytes:
    """Encode a BenchmarkResult with protobuf itself."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="result.proto", package="t", syntax="proto2")
    kinds = {"int64": 3, "int32": 5, "": 2}
    for title, fields in FIELDS.items():
        part = file.message_type.add(name=title)
        for at, field in enumerate(fields):
            label, _, kind = field.partition(":")
            part.field.add(name=label, number=at + 1, label=1, type=kinds[kind])
    whole = file.message_type.add(name="Result")
    whole.field.add(name="name", number=1, label=1, type=9)
    for at, title in enumerate(FIELDS):
        whole.field.add(name=title, number=at + 2, label=1, type=11, type_name=f".t.{title}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    result: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Result"))()
    if name:
        result.name = name
    for title, values in parts.items():
        for field, value in zip(FIELDS[title], values, strict=False):
            setattr(getattr(result, title), field.partition(":")[0], value)
    encoded: bytes = result.SerializeToString()
    return encoded


def test_a_whole_result_is_read() -> None:
    found = parse(message("mobilenet", **VALUES))
    assert (found.tool, found.generation, found.model) == ("benchmark_model", "proto", "mobilenet")
    assert (found.mean_ms, found.min_ms, found.max_ms, found.std_ms) == (9.92, 8.5, 12.25, 0.5)
    assert (found.median_ms, dict(found.percentiles)) == (9.9, {5: 8.6, 95: 11.0})
    assert (found.init_ms, found.first_ms, found.warmup_ms) == (23744.73, 40.0, 20.0)
    assert (found.runs, found.facts["warmup_runs"]) == (50, 3)
    assert found.memory_mb == pytest.approx(25.5 * 1.048576)
    assert found.facts["memory_delta_mb"] == {"overall": pytest.approx(2.097152)}  # -1: unknown
    assert found.facts["model_size_mb"] == pytest.approx(4.276352)


def test_what_was_not_written_is_none() -> None:
    found = parse(message(Latency=[3.0, 0.0, float("nan")]))
    assert (found.mean_ms, found.min_ms, found.max_ms) == (3.0, None, None)
    assert (found.runs, found.memory_mb, found.std_ms, found.model) == (None, None, None, None)


def test_fields_of_a_later_version_are_passed_over() -> None:
    later = b"\x9a\x06\x03abc" + b"\xa1\x06" + b"\0" * 8 + b"\xa8\x06\x96\x01"
    assert parse(message(**VALUES) + later) == parse(message(**VALUES))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no mean latency"),
        (message("m"), "no mean latency"),
        (message(Latency=[0.0]), "no mean latency"),
        (message(**VALUES)[:20], "cut, or no BenchmarkResult"),
        (b"\x0a\x02\xff\xff", "cut, or no BenchmarkResult"),
        (b"\xff" * 40, "cut, or no BenchmarkResult"),
        (b"ONNX says hello", "cut, or no BenchmarkResult"),
    ],
)
def test_what_is_no_result_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        parse(data)
