"""The JSON Schema of a verdict and of a row holds what is written, and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchopt2edge.report import write
from torchopt2edge.report.schema import devices_schema, row_schema, schema
from torchopt2edge.types import Constraints, Measurement, Verdict
from torchopt2edge.verdict.decide import decide

CHECK = jsonschema.Draft202012Validator(schema())
ROW = jsonschema.Draft202012Validator(row_schema())
NAMES = ("torch-fp32", "ort-fp32", "ort-int8", "litert-int8")
FLAGS = ("throttled", "too-few-samples", "emulated", "drift", "contended")


@st.composite
def rows(draw: st.DrawFn) -> list[Measurement]:
    """Rows of one device, each with or without what a row may lack."""
    return [draw(row(name)) for name in draw(st.permutations(NAMES))[: draw(st.integers(0, 4))]]


@st.composite
def row(draw: st.DrawFn, name: str) -> Measurement:
    """One row: failed, or measured in up to nine rounds."""
    backend, _, scheme = name.partition("-")
    if draw(st.integers(0, 5)) == 0:
        return Measurement(name, backend, scheme, "local", "quick", err="it crashed")
    noise = np.random.default_rng(draw(st.integers(0, 99)))
    ms = draw(st.floats(0.1, 50.0))
    count = draw(st.sampled_from([0, 4, 9, 9]))
    rounds = [[int(1e6 * ms * pace)] * 3 for pace in noise.normal(1.0, 0.02, count)]
    metrics = {"latency_ms": ms, "size_mb": ms / 3, "memory_mb": 50.0} if count else {}
    facts: dict[str, Any] = {
        "run": draw(st.sampled_from(["a", "a", "a", "b"])),
        "order": draw(st.sampled_from(["turns", "blocks"])),
        "flags": draw(st.lists(st.sampled_from(FLAGS), max_size=2, unique=True)),
        "arch": draw(st.sampled_from(["x86_64", "aarch64"])),
        "timer_resolution_ns": draw(st.sampled_from([1.0, 1e5, "unavailable"])),
        "anchor_spread": draw(st.sampled_from([0.0, 0.3, math.nan])),
    }
    if draw(st.integers(0, 5)) == 0:
        metrics |= {"size_mb": math.nan, "memory_mb": math.inf}
    if count and draw(st.integers(0, 5)) == 0:
        rounds[0] = draw(st.sampled_from([[], [0, 0, 0]]))
    if draw(st.booleans()):
        metrics |= {"top1": draw(st.floats(0.0, 100.0)), "drop_low": -1.0, "drop_high": 1.0}
        facts |= {"metric": "top1", "n_eval": 500}
    return Measurement(name, backend, scheme, "local", "quick", metrics, rounds, facts)


@settings(max_examples=60, deadline=None)
@given(
    made=rows(),
    drop=st.sampled_from([None, 0.5]),
    latency=st.sampled_from([None, 5.0]),
    reference=st.sampled_from([None, "torch-fp32"]),
)
def test_every_verdict_holds(
    made: list[Measurement], drop: float | None, latency: float | None, reference: str | None
) -> None:
    found = decide(made, Constraints(max_drop=drop, max_latency_ms=latency), reference)
    told = json.loads(json.dumps(found.to_json()))
    CHECK.validate(told)
    assert Verdict.from_json(told) == found, "what is written is what is read"
    measured = {row.candidate for row in made if row.err is None and row.latency_ns}
    named = {*found.tie, *found.pareto, *found.ratios} | ({found.winner} - {None})
    assert named <= measured
    assert {row.candidate for row in made} - measured <= set(found.rejected)
    assert found.reasons


def test_the_schema_is_one_and_every_field_is_described() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    fields = {
        **schema()["properties"],
        **schema()["$defs"],
        **schema()["$defs"]["row"]["properties"],
    }
    for name, field in fields.items():
        assert field["description"].endswith("."), name
        assert ". " not in field["description"], name
    assert set(schema()["required"]) == set(schema()["properties"]) == set(Verdict(None).to_json())


GOOD = json.loads(
    json.dumps(Verdict("a", ratios={"a": (1.0, 1.0, 1.0)}, pareto=("a",), reasons=["so"]).to_json())
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema": 2},
        {"winner": 3},
        {"winner": ""},
        {"tie": ["a", "b"]},
        {"winner": None, "tie": ["a", "a"]},
        {"ratios": {"a": [1.0, 1.0]}},
        {"ratios": {"a": [0.0, 1.0, 1.0]}},
        {"ratios": {"a": [1.0, 1.0, "inf"]}},
        {"pareto": "a"},
        {"rejected": ["a"]},
        {"rejected": {"a": ""}},
        {"reasons": [1]},
        {"more": 1},
    ],
)
def test_a_wrong_verdict_does_not(wrong: dict[str, Any]) -> None:
    CHECK.validate(GOOD)
    assert not CHECK.is_valid({**GOOD, **wrong})


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_no_field_may_be_missing(missing: str) -> None:
    assert not CHECK.is_valid({name: value for name, value in GOOD.items() if name != missing})


def test_what_a_run_writes_holds(
    make_row: Callable[..., Measurement], make_failed: Callable[..., Measurement], tmp_path: Path
) -> None:
    kept = make_row("ort-fp32")
    kept.metrics["sqnr_db"] = float("inf")
    write(tmp_path, [kept, make_failed("ort-int8", "crash")], Verdict("ort-fp32"), title="t")
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for line in lines:
        ROW.validate(line)
    CHECK.validate(json.loads((tmp_path / "verdict.json").read_text()))
    assert not ROW.is_valid({**lines[0], "metrics": {"top1": "many"}})
    assert not ROW.is_valid({**lines[0], "latency_ns": [1.5]})
    assert not ROW.is_valid({**lines[0], "more": 1})


def test_the_page_of_the_docs_is_the_packaged_schema() -> None:
    docs = Path(__file__).parents[2] / "docs"
    assert json.loads((docs / "verdict.schema.json").read_text()) == schema()
    assert json.loads((docs / "devices.schema.json").read_text()) == devices_schema()
