"""Several devices side by side: who wins where, what is said of it, and how it is read again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from torchopt2edge.errors import ConfigError
from torchopt2edge.report import run_folder
from torchopt2edge.report.devices.table import Column, Side, flips, headline, holds, notes, read
from torchopt2edge.report.devices.text import cells, outcome
from torchopt2edge.report.devices.write import render_console, render_markdown, write
from torchopt2edge.types import Measurement, Verdict

MakeRow = Callable[..., Measurement]
HOSTILE = "<img src=x onerror=alert(1)>|`[a](javascript:x)`"


def decided(winner: str | None, **more: Any) -> Verdict:
    """A verdict in which ``b`` takes 1.4 times the time of ``a``, or the other way round."""
    other = "b-ort-int8" if winner == "a-ort-fp32" else "a-ort-fp32"
    ratios = {str(winner): (1.0, 1.0, 1.0), other: (1.4, 1.35, 1.46)} if winner else {}
    return replace(Verdict(winner, ratios=ratios), **more)


def column(device: str, verdict: Verdict, make_row: MakeRow, **ms: float) -> Column:
    """A device with two files."""
    rows = [
        make_row("a-ort-fp32", ms=ms.get("a", 1.0), digest="a", runner="python"),
        make_row("b-ort-int8", ms=ms.get("b", 1.4), digest=f"b of {device}", runner="python"),
    ]
    facts = {"cpu": f"cpu of {device}", "arch": "aarch64", "cores": 4}
    context = {
        "title": "net",
        "stages": [],
        "environment": {"device": facts},
        "decisions": [],
    }
    return Column(device, device.replace(":", "-"), rows, verdict, context)


@pytest.fixture
def turned(make_row: MakeRow) -> Side:
    """A board and a phone whose order is turned, and a host that is not there."""
    return Side(
        "net",
        (
            column("ssh:pi", decided("a-ort-fp32", warnings=["it is hot"]), make_row),
            column("adb:X", decided("b-ort-int8", warnings=["it is hot"]), make_row, a=1.4, b=1.0),
            Column("ssh:gone", "ssh-gone", err="nobody answers. To mend it: ssh gone true"),
        ),
        "torchopt2edge bench devices=[ssh:pi,adb:X,ssh:gone]",
    )


def test_a_turned_order_is_the_headline_and_says_by_how_much(turned: Side) -> None:
    assert headline(turned) == (
        "It depends on the device: a-ort-fp32 wins on ssh:pi, b-ort-int8 wins on adb:X; ssh:gone "
        "could not be used."
    )
    assert flips(turned) == [
        "On ssh:pi a-ort-fp32 wins; b-ort-int8, the winner on adb:X, takes 1.40× (1.35–1.46) as "
        "long there.",
        "On adb:X b-ort-int8 wins; a-ort-fp32, the winner on ssh:pi, takes 1.40× (1.35–1.46) as "
        "long there.",
    ]
    assert turned.pick is None
    assert notes(turned) == [
        "b-ort-int8 is not the same file on ssh:pi and adb:X: it is made for the processor that "
        "measures",
        "ssh:pi, adb:X: it is hot",
    ]


TIE = Verdict(None, tie=("a-ort-fp32", "b-ort-int8"))
NONE = Verdict(None, reasons=["no winner is named: it is throttled"])


@pytest.mark.parametrize(
    ("verdicts", "said", "pick"),
    [
        (
            [decided("a-ort-fp32")] * 2,
            "Ship a-ort-fp32: it wins on d0 and d1.",
            "a-ort-fp32",
        ),
        (
            [decided("a-ort-fp32"), TIE],
            "Ship a-ort-fp32: it wins on d0 and ties on d1.",
            "a-ort-fp32",
        ),
        ([TIE, TIE], "a-ort-fp32 and b-ort-int8 tie on d0 and d1.", None),
        ([NONE, NONE], "No winner on d0 and d1.", None),
        ([decided("a-ort-fp32"), NONE], "a-ort-fp32 wins on d0, no winner on d1.", None),
    ],
)
def test_the_headline(
    verdicts: list[Verdict], said: str, pick: str | None, make_row: MakeRow
) -> None:
    """A tie alone is no reason to ship a file, and a device without a verdict takes the pick."""
    each = tuple(column(f"d{at}", one, make_row) for at, one in enumerate(verdicts))
    found = Side("net", each)
    assert (headline(found), found.pick) == (said, pick)


def test_nobody_could_be_used() -> None:
    found = Side("net", (Column("a", "a", err="x"), Column("b", "b", err="y")))
    assert headline(found) == "No winner: a and b could not be used."
    assert "- a: x\n- b: y\n" in render_markdown(found)


def test_a_winner_that_is_out_elsewhere_is_no_ratio(make_row: MakeRow) -> None:
    there = decided("b-ort-int8", ratios={}, rejected={"a-ort-fp32": "2 MB are more than 1 MB"})
    each = (
        column("pi", decided("a-ort-fp32"), make_row),
        column("phone", there, make_row),
    )
    said = flips(Side("net", each))
    assert "a-ort-fp32, the winner on pi, is out there: 2 MB are more than 1 MB." in said[1]


def test_cells_hold_marks_and_intervals_and_gaps(
    turned: Side, make_row: MakeRow, make_failed: Callable[..., Measurement]
) -> None:
    first, second, gone = turned.columns
    only = make_row("c-litert-fp32", ms=3.0)
    broken = make_failed("a-ort-fp32", "it crashed")
    more = replace(second, rows=[broken, second.rows[1], only])
    head, a, b, c = cells(Side("net", (first, more, gone)))
    assert head == ["candidate", "ssh:pi ms", "adb:X ms", "ssh:gone"]
    assert a[3] == "not used"
    assert a[0] == "a-ort-fp32"
    assert a[1].startswith("★ ")
    assert "–" in a[1]
    assert a[2] == "✗ failed"
    assert b[2].startswith("★ ")
    assert c[1] == ""
    assert c[2].startswith("3.0") or c[2].startswith("2.9")


def test_it_is_written_and_read_again(turned: Side, tmp_path: Path) -> None:
    for one in turned.used:
        assert one.verdict is not None
        run_folder.write(tmp_path / one.folder, one.rows, one.verdict, **one.context)
    write(tmp_path, turned)
    assert holds(tmp_path)
    assert not holds(tmp_path / "ssh-pi")
    assert not holds(tmp_path / "nowhere")
    again = read(tmp_path)
    assert again.to_json() == turned.to_json()
    assert render_markdown(again) == render_markdown(turned)
    kept = json.loads((tmp_path / "verdict.json").read_text())
    assert kept["winner"] is None
    assert kept["devices"][0]["candidates"]["a-ort-fp32"]["latency_ms"] == pytest.approx(1.0, 0.1)


@pytest.mark.parametrize("place", ["../elsewhere", "a/b", "..", "javascript:alert(1)", ""])
def test_what_lies_elsewhere_is_not_read(turned: Side, tmp_path: Path, place: str) -> None:
    write(tmp_path, turned)
    kept = json.loads((tmp_path / "verdict.json").read_text())
    kept["devices"][0]["folder"] = place
    (tmp_path / "verdict.json").write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match="damaged"):
        read(tmp_path)


def test_hostile_names_are_inert_in_markdown(turned: Side) -> None:
    named = replace(turned.columns[0], device=HOSTILE)
    said = render_markdown(replace(turned, title=HOSTILE, columns=(named, *turned.columns[1:])))
    assert "<img" not in said
    assert "|`[a]" not in said
    assert outcome(named) == "★ a-ort-fp32"


@pytest.mark.parametrize("width", [40, 200])
def test_the_terminal_shows_what_fits(turned: Side, width: int) -> None:
    text = io.StringIO()
    render_console(Console(file=text, width=width), turned)
    said = text.getvalue()
    assert "It depends on the device" in said
    assert "✗ ssh:gone: nobody answers" in said
    assert ("not shown at this width: the intervals" in said) == (width == 40)
    assert ("–" in said.split("It depends")[0]) == (width == 200)
