from __future__ import annotations

import math

import pytest

from torchopt2edge.report.text.row_view import (
    is_percent,
    join_names,
    metric_title,
    plain,
    row_views,
)
from torchopt2edge.types import Measurement, Verdict


def test_fastest_first_and_failures_last(run) -> None:
    rows, verdict = run
    views = row_views(rows, verdict)
    assert [view.name for view in views][:2] == ["pruned-ort-int8", "pruned-litert-int8"]
    assert views[-1].failed
    assert [view.number for view in views] == list(range(1, len(rows) + 1))
    marks = {view.name: view.mark for view in views}
    assert marks["pruned-litert-int8"] == "★"
    assert marks["pruned-ort-int8"] == "○"
    assert marks["pruned-litert-int8_dynamic"] == "✗"
    assert marks["torch-fp32"] == " ", "the reference is no candidate, so it is not rejected either"


def test_changes_count_from_pytorch_unless_a_row_says_it_is_the_reference(make_row) -> None:
    rows = [make_row("torch-fp32", top1=97.5), make_row("ort-int8", top1=97.0)]
    change = {x.name: x.change for x in row_views(rows, Verdict(None))}
    assert change == {"torch-fp32": None, "ort-int8": -0.5}

    rows.append(make_row("ort-fp32", top1=98.0, reference=True))
    change = {x.name: x.change for x in row_views(rows, Verdict(None))}
    assert change == {"torch-fp32": -0.5, "ort-int8": -1.0, "ort-fp32": None}


def test_no_row_and_no_metric() -> None:
    assert row_views([], Verdict(None)) == []
    bare = Measurement("ort-int8", "ort", "int8", metrics={"latency_ms": 1.0})
    (view,) = row_views([bare], Verdict(None))
    assert view.metric == ""
    assert view.change is None
    assert view.note == ""


def test_a_failed_candidate_is_never_the_winner(make_failed) -> None:
    (view,) = row_views([make_failed("x-ort-int8", "crash")], Verdict("x-ort-int8"))
    assert not view.winner
    assert view.note == "failed: crash"


def test_unknown_metrics_have_no_unit_and_keep_their_digits(make_row) -> None:
    assert is_percent("top1")
    assert is_percent("accuracy")
    assert not is_percent("mIoU")
    assert metric_title("top5") == "top-5"
    row = make_row("ort-fp32", top1=None)
    row.metrics["mIoU"] = 0.7134
    row.facts["metric"] = "mIoU"
    (view,) = row_views([row], Verdict(None))
    assert view.decimals == 4


def test_decimals_follow_the_number_of_samples(make_row) -> None:
    def decimals(samples: int) -> int:
        return row_views([make_row("ort-fp32", n_eval=samples)], Verdict(None))[0].decimals

    assert decimals(50_000) == 2
    assert decimals(300) == 1


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_shown_and_never_drawn(make_row, value: float) -> None:
    row = make_row("ort-fp32")
    row.metrics.update(sqnr_db=value, latency_low_ms=value)
    (view,) = row_views([row], Verdict(None))
    assert view.value("sqnr_db") == (None if math.isnan(value) else value)
    assert view.finite("sqnr_db") is None
    assert view.ends("latency_ms")[1] == row.metrics["latency_high_ms"]
    assert view.finite_ends("latency_ms") is None
    assert view.finite_ends("top1") == (row.metrics["top1_low"], row.metrics["top1_high"])


def test_names_cannot_move_the_cursor_or_hide() -> None:
    assert plain("a\x1b[31m\nb\u202ec\u200bd\te") == "a [31m b c d e"
    assert plain("漢字 ok") == "漢字 ok"


def test_names_are_joined_as_in_a_sentence() -> None:
    assert [join_names(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
