"""What is in the fast path, from facts as they are read back."""

from __future__ import annotations

from typing import Any

import pytest

from torchopt2edge.bench.fast_path import falls_back, placement

WHOLE: dict[str, Any] = {
    "ops": {"Conv": 10}, "integer_ops": {"QLinearConv": 10}, "float_ops": {}, "int8_macs": 100.0,
    "unfused_qdq": 0, "transposes": 2,
}  # fmt: skip


def test_a_whole_integer_file_is_in_the_fast_path() -> None:
    found = placement("ort", "int8", WHOLE)
    assert found["nodes"] == found["macs"] == 100.0
    assert found["transposes"] == 2
    assert falls_back(found) is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"int8_macs": 80.0, "float_ops": {"Conv": 2}}, r"20.0 % .* in float \(outside: 2 Conv\)"),
        ({"unfused_qdq": 3}, "3 dequantizations"),
        ({"partitions": 4}, "4 pieces"),
    ],
)
def test_what_leaves_it_is_named(changed: dict[str, Any], why: str) -> None:
    import re

    found = placement("litert" if "partitions" in changed else "ort", "int8", {**WHOLE, **changed})
    said = falls_back(found)
    assert said is not None
    assert re.search(why, said)


def test_a_float_file_of_litert_is_judged_by_its_delegate() -> None:
    facts = {"ops": {"CONV_2D": 8, "MAX_POOL_2D": 2}, "float_ops": {"CONV_2D": 8}, "partitions": 3}
    found = placement("litert", "fp32", {**facts, "outside_ops": {"MAX_POOL_2D": 2}})
    assert found["nodes"] == 80.0
    assert found["fallback"] == {"MAX_POOL_2D": 2}
    assert "macs" not in found
    assert "3 pieces" in str(falls_back(found))
    assert falls_back(placement("ort", "fp32", {"ops": {"Conv": 3}})) is None


def test_what_falls_back_is_not_in_the_fast_path_of_an_integer_file_either() -> None:
    facts = {**WHOLE, "integer_ops": {"CONV_2D": 8, "MAX_POOL_2D": 2}, "partitions": 3}
    found = placement("litert", "int8", {**facts, "outside_ops": {"MAX_POOL_2D": 2}})
    assert (found["nodes"], found["fallback"]) == (80.0, {"MAX_POOL_2D": 2})
    both = {**facts, "float_ops": {"HARD_SWISH": 10}}
    found = placement("litert", "int8", {**both, "outside_ops": {"HARD_SWISH": 4}})
    assert (found["nodes"], found["fallback"]) == (50.0, {"HARD_SWISH": 10})


def test_nothing_read_is_nothing_said() -> None:
    assert placement("torch", "fp32", {}) == {}
