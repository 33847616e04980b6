from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from torchopt2edge.errors import HINT, OLD_HINT
from torchopt2edge.report import headline, show
from torchopt2edge.types import Verdict


def shown(rows, verdict, width: int, *, terminal: bool = False) -> str:
    out = io.StringIO()
    system = "truecolor" if terminal else None
    show(
        Console(file=out, width=width, force_terminal=terminal, color_system=system), rows, verdict
    )
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 140, 200])
def test_the_table_fits_and_no_number_is_cut(run, width: int) -> None:
    rows, verdict = run
    text = shown(rows, verdict, width)
    table = [line for line in text.splitlines() if not line.startswith(" " * 30)]  # folded notes
    grid = table[: 1 + len(rows)]
    assert grid
    assert all(cell_len(line) <= width for line in grid)
    assert "…" not in text
    winner = next(line for line in grid if line.startswith("★ pruned-litert-int8"))
    assert "96.7" in winner
    assert f"{rows[8].metrics['latency_ms']:.3f}" in winner


def test_a_narrow_terminal_shows_what_decides_and_says_what_it_hides(run) -> None:
    text = shown(*run, 80)
    head = text.splitlines()[0]
    assert all(word in head for word in ("candidate", "top-1 %", "Δ points", "latency ms", "ratio"))
    assert "SQNR" not in head
    assert "not shown at this width: agree %, SQNR dB" in text
    assert "pruned-litert-int8_dynamic: failed: SQNR −2.1 dB" in text


def test_a_wide_terminal_shows_everything(run) -> None:
    text = shown(*run, 220)
    head = text.splitlines()[0]
    for word in ("p90 ms", "file MB", "memory MB", "SQNR dB", "agree %", "note"):
        assert word in head
    assert "not shown" not in text
    assert "96.7 (95.7–97.6)" in text
    assert "drift" in text


def test_failures_come_last_and_the_verdict_after_them(run) -> None:
    rows, verdict = run
    text = shown(rows, verdict, 140)
    order = ["★ pruned-litert-int8", "torch-fp32", "✗ pruned-litert", headline(rows, verdict)]
    places = [text.index(part) for part in (*order, verdict.reasons[0], verdict.warnings[0])]
    assert places == sorted(places)


def test_no_escape_codes_where_nobody_can_show_them(run) -> None:
    assert "\x1b" not in shown(*run, 120)
    assert "\x1b[" in shown(*run, 120, terminal=True)


def test_hostile_names_stay_text(make_row) -> None:
    name = "[red]x[/red]\x1b[2J\nfake-row"
    text = shown([make_row(name, backend="ort", scheme="[/]")], Verdict(name), 140)
    assert "[red]x[/red] [2J fake-row" in text
    assert "\x1b" not in text


def test_a_very_long_name_leaves_room_for_the_numbers(make_row) -> None:
    row = make_row("m" * 150 + "-ort-int8")
    text = shown([row], Verdict(None), 80)
    assert f"{row.metrics['latency_ms']:.2f}" in text
    assert text.count("m") >= 150


def test_nothing_measured_is_still_a_verdict() -> None:
    assert "No winner: nothing was measured." in shown([], Verdict(None), 80)


def test_many_reasons_are_counted(run) -> None:
    rows, _ = run
    text = shown(rows, Verdict(None, reasons=[f"reason {i}" for i in range(20)]), 140)
    assert text.count("reason 0") == 1, "the headline holds it already"
    assert "reason 6" in text
    assert "reason 7" not in text
    assert "and 13 more in the report" in text


def test_a_device_with_other_answers_is_named(make_row) -> None:
    said = "the device answers otherwise than this machine on 7 of 500 samples"
    rows = [
        make_row("ort-fp32", host_agreement=98.6, notes=[said]),
        make_row("ort-int8", ms=2.0, host_agreement=100.0),
        make_row("litert-int8", ms=3.0, notes=["one", "two", "three", "four"]),
    ]
    text = shown(rows, Verdict("ort-fp32"), 200)
    assert "as host %" in text.splitlines()[0]
    assert "98.6" in text
    assert "100.0" in text
    assert f"  ! ort-fp32: {said}\n" in text
    assert "litert-int8: three" in text
    assert "four" not in text  # that is in the report
    assert "not shown at this width: as host %" in shown(rows, Verdict("ort-fp32"), 60)
    local = shown([make_row("ort-fp32")], Verdict("ort-fp32"), 200)
    assert "as host" not in local
    assert "!" not in local


@pytest.mark.parametrize("sign", [HINT, OLD_HINT])  # the latter in a run of the previous release
def test_a_long_failure_is_shortened_and_its_hint_is_not(make_failed, sign: str) -> None:
    err = f"{'it went wrong ' * 40}.{sign}torchopt2edge doctor device=ssh device.host=pi"
    text = shown([make_failed("ort-int8", err)], Verdict(None), 80)
    assert "…" in text
    assert "torchopt2edge doctor device=ssh device.host=pi" in " ".join(text.split())


def test_a_long_hint_does_not_hide_what_happened(make_failed) -> None:
    what = "the Python python3 on ssh:board has no onnxruntime"
    err = f"{what}.{HINT}{'one way or another; ' * 10}device.runner=native"
    text = " ".join(shown([make_failed("ort-int8", err)], Verdict(None), 80).split())
    assert what in text
    assert text.count("another") == 10
