"""The charts of a run: which there are, what each shows, and what is left out."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.run_figures import run_figures
from torchopt2edge.report.figure.style import CandidateStyle
from torchopt2edge.report.text.row_view import row_views
from torchopt2edge.types import Measurement, Verdict

EVERY = [
    "trade-off",
    "latency",
    "distribution",
    "rounds",
    "sustained",
    "accuracy",
    "start-up",
    "file-size",
    "memory",
    "energy",
    "sensitivity-1",
]


def drawn(rows: list[Measurement], verdict: Verdict, decisions=()) -> dict[str, Figure]:
    return run_figures(row_views(rows, verdict), decisions)


def elements(svg: str, kind: str) -> list[ET.Element]:
    """Return the elements of a drawing that have a class."""
    return [x for x in ET.fromstring(svg).iter() if kind in (x.get("class") or "").split()]


def texts(svg: str) -> list[str]:
    found = (x for x in ET.fromstring(svg).iter() if x.tag == "text")
    return ["".join(x.itertext()) for x in found]


def test_a_full_run_has_every_figure_in_reading_order(whole_report) -> None:
    assert list(whole_report.figures) == EVERY
    for key, figure in whole_report.figures.items():
        assert figure.key == key
        assert figure.title
        assert figure.description


def test_without_data_there_is_no_figure(make_row, make_failed) -> None:
    assert drawn([], Verdict(None)) == {}
    assert drawn([make_failed("ort-int8", "crash")], Verdict(None)) == {}
    sized = Measurement("ort-fp32", "ort", "fp32", metrics={"size_mb": 3.0})
    assert list(drawn([sized], Verdict(None))) == ["file-size"]
    no_metric = drawn([make_row("ort-fp32", top1=None)], Verdict(None))
    assert {"trade-off", "latency"} <= set(no_metric)
    assert "accuracy" not in no_metric
    assert "file size (MB)" in " ".join(texts(no_metric["trade-off"].wide_svg))


def test_equal_rows_give_equal_figures(run) -> None:
    assert drawn(*run) == drawn(*run)


def test_every_point_of_the_scatter_has_a_label(run) -> None:
    for svg in (drawn(*run)["trade-off"].wide_svg, drawn(*run)["trade-off"].narrow_svg):
        assert len(elements(svg, "halo")) == 9


def test_winner_and_tie_have_a_ring_and_rejected_marks_are_hollow(run, make_row) -> None:
    rows, verdict = run
    svg = drawn(rows, verdict)["trade-off"].wide_svg
    assert len(elements(svg, "ring")) == 1
    assert len(elements(svg, "hollow")) == 1
    assert len(elements(svg, "front")) == 1
    both = [make_row("ort-int8"), make_row("litert-int8")]
    tied = drawn(both, Verdict(None, ("ort-int8", "litert-int8")))["trade-off"].wide_svg
    assert len(elements(tied, "ring")) == 2
    assert elements(drawn(both, Verdict(None))["trade-off"].wide_svg, "ring") == []


def test_a_number_is_explained_where_one_is_used(run, make_row) -> None:
    crowd = [make_row(f"model-{i}-ort-int8", ms=1 + i / 1e4, top1=97.0) for i in range(30)]
    many = drawn(crowd, Verdict(None))["trade-off"]
    labels = ["".join(x.itertext()) for x in elements(many.wide_svg, "halo")]
    assert any(text.isdigit() for text in labels)
    assert "number" in many.caption
    alone = drawn(run[0][1:2], Verdict(None))["trade-off"]
    assert "number" not in alone.caption


def test_a_collapsed_candidate_is_at_the_edge_and_does_not_set_the_axis(run) -> None:
    figures = drawn(*run)
    assert any("↓ 61.0 %" in text for text in texts(figures["trade-off"].wide_svg))
    accuracy = figures["accuracy"].wide_svg
    ticks = [float(x) for x in texts(accuracy) if re.fullmatch(r"[\d.]+", x)]
    assert min(ticks) > 90


def test_latency_shows_every_round_the_interval_and_the_ratio(run) -> None:
    rows, verdict = run
    figure = drawn(rows, verdict)["latency"]
    svg = figure.wide_svg
    assert len(elements(svg, "band")) == len(elements(svg, "middle")) == 9
    ticks = elements(svg, "tick")
    assert {(x.get("d") or "").count("M") for x in ticks} == {12}
    assert len(elements(svg, "mark")) == 9
    assert "14.3×" in figure.description
    assert "logarithmic" in " ".join(texts(svg)), "the latencies span more than a factor of ten"
    near = drawn(rows[1:4], Verdict(None))["latency"].wide_svg
    assert "logarithmic" not in " ".join(texts(near))


def test_values_at_the_edges(make_row) -> None:
    zero = drawn([make_row("ort-fp32", ms=1e-9, top1=0.0, size=0.0)], Verdict(None))
    assert {"trade-off", "file-size", "accuracy"} <= set(zero), "zero is a value"
    wide = [make_row("a-ort-fp32", ms=0.01), make_row("b-ort-fp32", ms=9000)]
    assert {"0.01", "1000"} <= set(texts(drawn(wide, Verdict(None))["latency"].wide_svg))


@pytest.mark.parametrize(
    "name", ["$\\frac{1}{0}$", "🚀漢字", "<b>&amp;", "x" * 300, "\x1b[31m\n", "^_{}", "]]>"]
)
def test_hostile_names_draw(make_row, make_failed, name: str) -> None:
    rows = [
        make_row(name, backend=name, scheme=name, flags=[name]),
        make_row("b-ort-int8", ms=2.0),
        make_failed("x-ort-int8", name),
    ]
    verdict = Verdict(name, ratios={name: (1.0, 1.0, 1.0)}, pareto=(name,))
    for figure in drawn(rows, verdict).values():
        for svg in (figure.wide_svg, figure.narrow_svg):
            assert ET.fromstring(svg).tag == "svg"


def test_colour_names_the_runtime_and_marker_the_scheme(run, make_row) -> None:
    rows, verdict = run
    other = make_row("n-x-q4", backend="ncnn", scheme="q4")
    views = row_views([*rows, other], verdict)
    style = CandidateStyle.of(views)
    assert len(set(style.colours.values())) == len({v.row.backend for v in views}) == 4
    assert len(set(style.markers.values())) == len({v.row.scheme for v in views}) == 4


def test_parts_of_a_bar_follow_each_other(whole_report) -> None:
    svg = whole_report.figures["start-up"].wide_svg
    parts = elements(svg, "part")
    assert len(parts) == 8 * 4, "PyTorch is left out beside files"
    lane = sorted((float(x.get("x", 0)), float(x.get("width", 0))) for x in parts[:4])
    for (left, width), (right, _) in itertools.pairwise(lane):
        assert left + width == pytest.approx(right, abs=0.11)


def test_a_part_of_an_amount_is_drawn_over_the_whole(whole_report) -> None:
    svg = whole_report.figures["file-size"].wide_svg
    bars = elements(svg, "bar")
    assert [("pale" in (x.get("class") or "")) for x in bars[:2]] == [True, False]
    whole, inner = (float(x.get("width", 0)) for x in bars[:2])
    assert inner == pytest.approx(0.8 * whole, rel=0.02)


def test_a_ranking_without_a_number_has_no_figure(make_row) -> None:
    rows = [make_row("ort-int8")]
    op = {"op": "a", "op_type": "Conv", "only_db": "inf", "without_db": 3.0}
    none = [{"origin": "x"}, {"sensitivity": [op]}]
    assert "sensitivity-1" not in drawn(rows, Verdict(None), none)
    ranked = [*none, {"group": "$m$", "sensitivity": [replace_op(op, i) for i in range(40)]}]
    figure = drawn(rows, Verdict(None), ranked)["sensitivity-3"]
    assert len(elements(figure.wide_svg, "c-blue")) == 30 + 1, "the costliest, and the legend"
    assert elements(figure.wide_svg, "dashed") == []


def replace_op(op: dict[str, object], number: int) -> dict[str, object]:
    return {**op, "only_db": 20.0 + number, "without_db": 25.0}


def test_many_rounds_stay_few_marks(make_row) -> None:
    row = make_row("ort-fp32")
    long = replace(row, latency_ns=row.latency_ns * 100)
    svg = drawn([long], Verdict(None))["latency"].wide_svg
    (ticks,) = elements(svg, "tick")
    assert 60 <= (ticks.get("d") or "").count("M") <= 120
