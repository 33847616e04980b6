from __future__ import annotations

from dataclasses import replace

import pytest

from torchopt2edge.report import headline
from torchopt2edge.report.text.row_view import row_views
from torchopt2edge.report.text.verdict_text import no_winner_code, warnings
from torchopt2edge.types import Measurement, Verdict


def code(rows: list[Measurement], verdict: Verdict) -> str:
    return no_winner_code(row_views(rows, verdict), verdict)


def test_winner_with_its_lead_its_metric_and_its_size(run) -> None:
    rows, verdict = run
    ratios = {**verdict.ratios, "dense-litert-int8": (1.834, 1.79, 1.88)}
    assert headline(rows, replace(verdict, ratios=ratios)) == (
        "Ship pruned-litert-int8: 1.83× (1.79–1.88) faster than the next, dense-litert-int8, "
        "96.7 % top-1 (−0.8 points against PyTorch), 0.0940 MB."
    )


def test_the_next_is_never_a_file_that_may_not_be_shipped(run) -> None:
    rows, verdict = run
    assert verdict.ratios["pruned-ort-int8"][0] < 1, "the loser is the fastest of all"
    assert "pruned-ort-int8," not in headline(rows, verdict)


def test_a_lead_that_its_interval_does_not_show_is_not_claimed(run) -> None:
    rows, verdict = run
    ratios = {**verdict.ratios, "dense-litert-int8": (1.02, 0.99, 1.05)}
    said = headline(rows, replace(verdict, ratios=ratios))
    assert "about as fast as the next, dense-litert-int8 at 1.02× (0.99–1.05)" in said
    assert "faster than" not in said


def test_alone_it_is_compared_with_pytorch(make_row) -> None:
    rows = [make_row("torch-fp32", ms=4, size=None), make_row("ort-int8", top1=97.1)]
    verdict = Verdict("ort-int8", ratios={"ort-int8": (1, 1, 1), "torch-fp32": (4.0, 3.9, 4.1)})
    assert headline(rows, verdict).startswith(
        "Ship ort-int8: 4.00× (3.90–4.10) faster than PyTorch"
    )
    assert "+0.1 points against PyTorch" in headline(rows, verdict)


def test_a_winner_with_nothing_else_known(make_row) -> None:
    row = make_row("ort-int8", top1=None, size=None)
    assert headline([row], Verdict("ort-int8")) == "Ship ort-int8."


def test_tie_points_at_the_smallest_file(make_row) -> None:
    rows = [make_row("ort-int8", size=0.4), make_row("litert-int8", size=0.3)]
    ratios = {"ort-int8": (1.0, 1.0, 1.0), "litert-int8": (1.01, 0.99, 1.03)}
    said = headline(rows, Verdict(None, ("ort-int8", "litert-int8"), ratios))
    assert said == (
        "Tie: no real difference in latency between ort-int8 and litert-int8 (within 1.01×); "
        "the smallest file is litert-int8, 0.300 MB."
    )


def test_no_winner_says_why(make_row, make_failed) -> None:
    assert code([], Verdict(None)) == "nothing-measured"
    crashes = [make_failed("ort-int8", "crash"), make_failed("litert-int8", "crash")]
    assert code(crashes, Verdict(None)) == "all-failed"
    assert code(crashes[:1], Verdict(None)) == "only-one-failed"
    stopped = [replace(each, facts={"interrupted": True}) for each in crashes]
    assert code(stopped, Verdict(None)) == "interrupted"
    row = make_row("ort-int8")
    rejected = Verdict(None, rejected={"ort-int8": "2 MB is more than 1 MB"})
    assert code([row], rejected) == "all-rejected"
    assert code([row], Verdict(None)) == "undecided"
    invalid = Verdict(None, reasons=["no winner is named: ort-int8 is throttled."])
    assert code([row], invalid) == "reason"
    assert headline([row], invalid) == "No winner: ort-int8 is throttled."


def test_every_code_of_no_winner_has_its_sentence(make_row, make_failed) -> None:
    row, crash = make_row("ort-int8"), make_failed("litert-int8", "crash")
    runs = [[], [crash], [crash, replace(crash, candidate="x")], [row]]
    said = {headline(rows, Verdict(None)) for rows in runs}
    assert len(said) == len(runs)
    assert all(sentence.startswith("No winner: ") for sentence in said)


def test_a_metric_of_unknown_unit_is_neither_per_cent_nor_points(make_row) -> None:
    rows = [make_row("torch-fp32", top1=None), make_row("ort-int8", top1=None)]
    for row, value in zip(rows, (0.7134, 0.7021), strict=True):
        row.metrics["mIoU"] = value
        row.facts["metric"] = "mIoU"
    said = headline(rows, Verdict("ort-int8"))
    assert "0.7021 mIoU (−0.0113 against PyTorch)" in said
    assert "%" not in said


@pytest.mark.parametrize("err", [None, "it crashed"])
def test_a_vendor_tools_row_is_no_candidate(make_row, err) -> None:
    """The one file of a run is its reference; a row that checks it does not count."""
    own = make_row("ort-fp32", reference=True)
    tool = make_row("ort-fp32 (perf_test)", backend="ort", scheme="fp32", checks="ort-fp32")
    verdict = Verdict(
        None,
        rejected={tool.candidate: "cross-check of ort-fp32"},
        reasons=["no winner is named: ort-fp32 is throttled: let it cool"],
    )
    assert code([own, replace(tool, err=err)], verdict) == "reason"


def test_a_flag_is_warned_of_once_with_its_rows(make_row) -> None:
    rows = [
        make_row(f"{name}-ort-fp32", flags=["drift"], warnings={"drift": f"moved by {i} %"})
        for i, name in enumerate("ab")
    ]
    views = row_views(rows, Verdict(None))
    (text,) = warnings(views, Verdict(None))
    assert text.startswith("drift: ")
    assert "a-ort-fp32, b-ort-fp32" in text
    assert "moved by 0 %" in text
    assert "moved by 1 %" not in text
    own = Verdict(None, warnings=["drift (a-ort-fp32): moved"])
    assert warnings(views, own) == own.warnings
