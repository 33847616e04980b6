"""Task metric, reference row and loss: one rule each, for the verdict and for the report."""

from __future__ import annotations

import math

import pytest

from torchopt2edge.report.text.row_view import row_views
from torchopt2edge.stats.rows import drop_of, half_width, metric_value, reference_row, task_metric
from torchopt2edge.types import Constraints, Measurement, Verdict
from torchopt2edge.verdict.decide import decide


def row(name: str, err: str | None = None, **metrics: float) -> Measurement:
    backend, _, scheme = name.partition("-")
    return Measurement(
        name, backend, scheme, metrics=dict(metrics), facts={"metric": "top1"}, err=err
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_no_task_metric(value: float) -> None:
    bad, good = row("torch-fp32", top1=value), row("ort-fp32", top1=90.0)
    assert metric_value(bad, "top1") is None
    assert task_metric([bad]) == ""
    assert task_metric([bad, good]) == "top1"
    assert drop_of(good, bad) is None
    assert drop_of(bad, good) is None


def test_the_verdict_and_the_report_read_the_same_metric() -> None:
    """A NaN once counted in the report and not in the verdict."""
    rows = [row("torch-fp32", top1=math.nan), row("ort-int8", top1=math.nan, latency_ms=1.0)]
    found = decide(rows, Constraints(max_drop=1.0), "torch-fp32")
    assert [view.metric for view in row_views(rows, found)] == ["", ""]
    assert not any("drop is unknown" in reason for reason in found.rejected.values())


def test_the_reference_is_the_marked_row_then_pytorch_then_a_float_file() -> None:
    torch, ort, int8 = row("torch-fp32"), row("ort-fp32"), row("ort-int8")
    assert reference_row([int8]) is None
    assert reference_row([int8, ort]) is ort
    assert reference_row([int8, ort, torch]) is torch
    int8.facts["reference"] = True
    assert reference_row([int8, ort, torch]) is int8


def test_a_failed_row_and_a_vendor_tools_row_are_no_reference() -> None:
    failed, tool = row("torch-fp32", err="it crashed"), row("ort-fp32")
    tool.facts["checks"] = "ort-fp32"
    assert reference_row([failed, tool]) is None
    (view,) = row_views([tool], Verdict(None))
    assert not view.reference


def test_a_loss_is_paired_where_the_row_says_so_and_else_from_both_intervals() -> None:
    base = row("torch-fp32", top1=90.0, top1_low=87.0, top1_high=93.0)
    paired = row("ort-int8", top1=89.0, drop_low=0.5, drop_high=1.5)
    apart = row("ort-int8", top1=89.0, top1_low=85.0, top1_high=93.0)
    assert half_width(base, "top1") == 3.0
    assert half_width(paired, "top1") is None
    first, second = drop_of(paired, base), drop_of(apart, base)
    assert first is not None
    assert (first.points, first.low, first.high) == (1.0, 0.5, 1.5)
    assert second is not None
    assert (second.low, second.high) == (-4.0, 6.0)
    own = drop_of(base, base)
    assert own is not None
    assert (own.low, own.high) == (0.0, 0.0)
