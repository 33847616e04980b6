from __future__ import annotations

from torchopt2edge.report.text.row_view import clip, is_share, lines, metric_title, plain
from torchopt2edge.stats.rows import task_metric
from torchopt2edge.types import Measurement, Verdict


def test_fastest_first_and_failures_last(run) -> None:
    rows, verdict = run
    table = lines(rows, verdict)
    assert [line.name for line in table][:2] == ["pruned-ort-int8", "pruned-litert-int8"]
    assert table[-1].failed
    assert [line.number for line in table] == list(range(1, len(rows) + 1))
    marks = {line.name: line.mark for line in table}
    assert marks["pruned-litert-int8"] == "★"
    assert marks["pruned-ort-int8"] == "○"
    assert marks["pruned-litert-int8_dynamic"] == "✗"
    assert marks["torch-fp32"] == " ", "the reference does not run, so it is not out either"


def test_changes_count_from_pytorch_unless_a_row_says_it_is_the_reference(make_row) -> None:
    rows = [make_row("torch-fp32", top1=97.5), make_row("ort-int8", top1=97.0)]
    change = {x.name: x.change for x in lines(rows, Verdict(None))}
    assert change == {"torch-fp32": None, "ort-int8": -0.5}

    rows.append(make_row("ort-fp32", top1=98.0, reference=True))
    change = {x.name: x.change for x in lines(rows, Verdict(None))}
    assert change == {"torch-fp32": -0.5, "ort-int8": -1.0, "ort-fp32": None}


def test_no_row_and_no_metric() -> None:
    assert lines([], Verdict(None)) == []
    bare = Measurement("ort-int8", "ort", "int8", metrics={"latency_ms": 1.0})
    assert task_metric([bare]) == ""
    (line,) = lines([bare], Verdict(None))
    assert line.change is None
    assert line.note == ""


def test_a_failed_candidate_is_never_the_winner(make_failed) -> None:
    (line,) = lines([make_failed("x-ort-int8", "crash")], Verdict("x-ort-int8"))
    assert not line.winner
    assert line.note == "failed: crash"


def test_unknown_metrics_claim_no_unit_and_keep_their_digits(make_row) -> None:
    assert is_share("top1")
    assert is_share("accuracy")
    assert not is_share("mIoU")
    assert metric_title("top5") == "top-5"
    row = make_row("ort-fp32", top1=None)
    row.metrics["mIoU"] = 0.7134
    row.facts["metric"] = "mIoU"
    (line,) = lines([row], Verdict(None))
    assert line.places == 4


def test_places_follow_the_number_of_samples(make_row) -> None:
    assert lines([make_row("ort-fp32", n_eval=50_000)], Verdict(None))[0].places == 2
    assert lines([make_row("ort-fp32", n_eval=300)], Verdict(None))[0].places == 1


def test_names_cannot_move_the_cursor_or_hide() -> None:
    assert plain("a\x1b[31m\nb\u202ec\u200bd\te") == "a [31m b c d e"
    assert plain("漢字 ok") == "漢字 ok"


def test_clip_keeps_both_ends() -> None:
    assert clip("abcdefghij", 10) == "abcdefghij"
    assert clip("abcdefghijk", 7) == "abc…ijk"
    assert len(clip("x" * 300, 44)) == 44
