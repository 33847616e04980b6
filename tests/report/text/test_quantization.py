from __future__ import annotations

from torchopt2edge.report.markdown import render
from torchopt2edge.report.run_report import RunReport
from torchopt2edge.report.text.quantization import (
    file_content,
    file_notes,
    operator_cells,
    quantization_texts,
)
from torchopt2edge.report.text.row_view import row_views
from torchopt2edge.types import Verdict

DECISION = {
    "group": "student",
    "origin": "calibrated:mse",
    "why": "mse keeps 31.0 dB at the output",
    "sqnr_db": 31.0,
    "ranked_db": 31.2,
    "excluded": ["conv_9"],
    "learned": 25,
    "calibrated": ["add_1", "add_2"],
    "sqnr_by_calibrator": {"minmax": 28.25, "mse": 31.0},
    "instability": {"median_pct": 1.25, "worst_pct": 12.0, "worst": "add_3"},
    "equalize": "tried: 30.9 dB, not kept",
    "bias_correction": {"corrected": 4},
    "mixed": {
        "excluded": ["conv_1"],
        "drop": 0.4,
        "macs_float_share": 2.1,
        "evaluations": 6,
        "met": False,
        "metric": "top1",
        "max_drop": 0.3,
        "judged_on": "512 validation samples",
    },
    "lints": [{"rule": "silu", "says": "2 SiLU | as in <b>", "hint": "train with ReLU6"}],
    "sensitivity": [
        {"op": f"conv_{i}", "op_type": "Conv", "macs": 10**i, "only_db": 20.0 + i, "without_db": 31}
        for i in range(12)
    ],
}


def test_the_report_says_how_the_model_was_quantized(make_row) -> None:
    rows = [make_row("ort-int8", ranges_origin="calibrated:mse", int8_macs=97.04, notes=["odd"])]
    context = {"title": "t", "stages": (), "environment": {}, "decisions": [DECISION]}
    report = RunReport.of(rows, Verdict("ort-int8"), context)
    text = render(report)
    assert "## How student was quantized" in text
    assert "minmax 28.2 dB, mse 31.0 dB" in text
    assert "1.2 % in the median tensor and 12.0 % in the worst" in text
    for name in ("add\\_1, add\\_2", "conv\\_9", "25 tensors"):
        assert name in text
    assert "(6 evaluated)" in text
    assert "Equalization: tried: 30.9 dB, not kept." in text
    assert "Bias correction: applied (corrected 4)." in text
    assert "2.1 % of the MACs, costs 0.40 points" in text
    assert "The budget was not met." in text
    assert "2 SiLU \\| as in &lt;b&gt;" in text
    assert "(figures/sensitivity-1.svg)" in text
    assert list(report.figures)[-1] == "sensitivity-1"
    assert "| ort-int8 | calibrated:mse | 97.0 |" in text
    assert "- ort-int8: odd" in text
    assert "\n\n\n" not in text


def test_the_table_of_operators_holds_the_costliest_alone() -> None:
    (text,) = quantization_texts([DECISION])
    assert [row[0] for row in text.operators] == [
        "operator",
        *(f"conv_{i}" for i in range(10)),
    ]


def test_a_decision_with_nothing_but_ranges_is_one_sentence() -> None:
    (text,) = quantization_texts([{"origin": "calibrated:minmax", "why": "asked for"}])
    assert text.model == ""
    assert text.sentences == ("Activation ranges: calibrated:minmax; asked for",)
    assert text.lints == ()
    assert text.operators == []


def test_a_ranking_that_lacks_numbers_is_still_a_table() -> None:
    ranking = [{"op": "conv", "only_db": "inf", "without_db": None}, {"op_type": "Conv"}]
    assert operator_cells(ranking)[1:] == [["conv", "", "", "∞", ""], ["?", "Conv", "", "", ""]]


def test_what_the_files_hold_leaves_out_pytorch_and_empty_columns(make_row) -> None:
    ops = {"HARD_SWISH": 9, "SOFTMAX": 1, "PRELU": 2, "LEAKY_RELU": 1}
    rows = [
        make_row("torch-fp32"),
        make_row("ort-int8", int8_macs=98.6, integer_ops={"QLinearConv": 52, "QGemm": 1}),
        make_row("litert-int8", int8_macs=0.0, float_ops=ops, partitions=3),
    ]
    head, *body = file_content(row_views(rows, Verdict(None)))
    assert head == [
        "candidate",
        "MACs in int8 %",
        "integer ops",
        "float ops left",
        "partitions",
    ]
    assert ["ort-int8", "98.6", "53", "", ""] in body
    assert ["litert-int8", "0.0", "", "9 HARD_SWISH, 2 PRELU, 1 SOFTMAX …", "3"] in body
    assert len(body) == 2


def test_nothing_to_say_is_no_table(make_row) -> None:
    assert file_content(row_views([make_row("ort-fp32")], Verdict(None))) == []


def test_a_note_stands_once_with_all_it_is_about(make_row) -> None:
    rows = [make_row("ort-int8", ms=1, notes=["same"]), make_row("ort-fp16", ms=2, notes=["same"])]
    assert file_notes(row_views(rows, Verdict(None))) == ["ort-int8, ort-fp16: same"]


def test_a_lint_of_an_older_run_keeps_its_hint() -> None:
    old, new = (
        quantization_texts([{"lints": [{"says": "a SiLU", key: "use ReLU6"}]}])[0].lints
        for key in ("mend", "hint")  # the key of the previous release, and today's
    )
    assert old == new == ("a SiLU → use ReLU6",)
