"""A run on several devices: who wins where, its sentences, and how it is read again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from torchopt2edge.errors import HINT, ConfigError
from torchopt2edge.report import run_folder
from torchopt2edge.report.devices.figures import devices_figures
from torchopt2edge.report.devices.table import (
    DeviceRun,
    DeviceTable,
    flips,
    headline,
    holds,
    notes,
    read,
)
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


def hot(winner: str) -> Verdict:
    """A verdict with a warning."""
    return decided(winner, warnings=["it is hot"])


def device_run(device: str, verdict: Verdict, make_row: MakeRow, **ms: float) -> DeviceRun:
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
    return DeviceRun(device, device.replace(":", "-"), rows, verdict, context)


def markdown(table: DeviceTable) -> str:
    return render_markdown(table, devices_figures(table))


@pytest.fixture
def flipped(make_row: MakeRow) -> DeviceTable:
    """A board and a phone whose orders differ, and a host that does not answer."""
    return DeviceTable(
        "net",
        (
            device_run("ssh:pi", hot("a-ort-fp32"), make_row),
            device_run("adb:X", hot("b-ort-int8"), make_row, a=1.4, b=1.0),
            DeviceRun("ssh:gone", "ssh-gone", error=f"nobody answers.{HINT}ssh gone true"),
        ),
        "torchopt2edge bench devices=[ssh:pi,adb:X,ssh:gone]",
    )


def test_a_flipped_order_is_the_headline(flipped: DeviceTable) -> None:
    assert flipped.common_winner is None
    assert flipped.winner is None
    assert headline(flipped) == (
        "It depends on the device: a-ort-fp32 wins on ssh:pi, b-ort-int8 wins on adb:X; ssh:gone "
        "could not be used."
    )


def test_a_flip_names_both_files_and_the_ratio(flipped: DeviceTable) -> None:
    first, second = flips(flipped)
    for sentence, device, other in ((first, "ssh:pi", "adb:X"), (second, "adb:X", "ssh:pi")):
        assert sentence.startswith(f"On {device} ")
        assert all(name in sentence for name in ("a-ort-fp32", "b-ort-int8"))
        assert f"on {other}," in sentence
        assert "1.40× (1.35–1.46)" in sentence


def test_a_file_that_differs_between_devices_is_noted_and_a_warning_stands_once(
    flipped: DeviceTable,
) -> None:
    different, warning = notes(flipped)
    assert different.startswith("b-ort-int8 ")
    assert "on ssh:pi and adb:X" in different
    assert warning == "ssh:pi, adb:X: it is hot"


TIE = Verdict(None, tie=("a-ort-fp32", "b-ort-int8"))
NONE = Verdict(None, reasons=["no winner is named: it is throttled"])


@pytest.mark.parametrize(
    ("verdicts", "sentence", "common"),
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
    verdicts: list[Verdict], sentence: str, common: str | None, make_row: MakeRow
) -> None:
    """A tie alone is no reason to ship a file, and nothing is common with a device without one."""
    runs = tuple(device_run(f"d{at}", each, make_row) for at, each in enumerate(verdicts))
    table = DeviceTable("net", runs)
    assert (headline(table), table.common_winner) == (sentence, common)


def test_no_device_could_be_used() -> None:
    table = DeviceTable("net", (DeviceRun("a", "a", error="x"), DeviceRun("b", "b", error="y")))
    assert headline(table) == "No winner: a and b could not be used."
    assert "- a: x\n- b: y\n" in markdown(table)
    assert devices_figures(table) == {}


def test_a_winner_that_is_rejected_elsewhere_has_no_ratio(make_row: MakeRow) -> None:
    reason = "2 MB are more than 1 MB"
    there = decided("b-ort-int8", ratios={}, rejected={"a-ort-fp32": reason})
    runs = (
        device_run("pi", decided("a-ort-fp32"), make_row),
        device_run("phone", there, make_row),
    )
    second = flips(DeviceTable("net", runs))[1]
    assert second.endswith(f"{reason}.")
    assert "×" not in second


def test_cells_hold_marks_and_intervals_and_gaps(
    flipped: DeviceTable, make_row: MakeRow, make_failed: Callable[..., Measurement]
) -> None:
    first, second, gone = flipped.runs
    only = make_row("c-litert-fp32", ms=3.0)
    broken = make_failed("a-ort-fp32", "it crashed")
    more = replace(second, rows=[broken, second.rows[1], only])
    head, a, b, c = cells(DeviceTable("net", (first, more, gone)))
    assert head == ["candidate", "ssh:pi ms", "adb:X ms", "ssh:gone"]
    assert a[3] == "not used"
    assert a[0] == "a-ort-fp32"
    assert a[1].startswith("★ ")
    assert "–" in a[1]
    assert a[2] == "✗ failed"
    assert b[2].startswith("★ ")
    assert c[1] == ""
    assert c[2].startswith("3.0") or c[2].startswith("2.9")


def test_it_is_written_and_read_again(flipped: DeviceTable, tmp_path: Path) -> None:
    for run in flipped.measured:
        assert run.verdict is not None
        run_folder.write(tmp_path / run.folder, run.rows, run.verdict, **run.context)
    write(tmp_path, flipped)
    assert holds(tmp_path)
    assert not holds(tmp_path / "ssh-pi")
    assert not holds(tmp_path / "nowhere")
    again = read(tmp_path)
    assert again.to_json() == flipped.to_json()
    assert markdown(again) == markdown(flipped) == (tmp_path / "report.md").read_text()
    assert "](figures/ratio.svg)" in markdown(again)
    assert (tmp_path / "figures/ratio.svg").is_file()
    kept = json.loads((tmp_path / "verdict.json").read_text())
    assert kept["winner"] is None
    assert kept["devices"][0]["candidates"]["a-ort-fp32"]["latency_ms"] == pytest.approx(1.0, 0.1)


@pytest.mark.parametrize("place", ["../elsewhere", "a/b", "..", "javascript:alert(1)", ""])
def test_what_lies_elsewhere_is_not_read(flipped: DeviceTable, tmp_path: Path, place: str) -> None:
    write(tmp_path, flipped)
    kept = json.loads((tmp_path / "verdict.json").read_text())
    kept["devices"][0]["folder"] = place
    (tmp_path / "verdict.json").write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match="damaged"):
        read(tmp_path)


def test_hostile_names_are_inert_in_markdown(flipped: DeviceTable) -> None:
    named = replace(flipped.runs[0], device=HOSTILE)
    text = markdown(replace(flipped, title=HOSTILE, runs=(named, *flipped.runs[1:])))
    assert "<img" not in text
    assert "|`[a]" not in text
    assert outcome(named) == "★ a-ort-fp32"


@pytest.mark.parametrize("width", [40, 200])
def test_the_terminal_shows_what_fits(flipped: DeviceTable, width: int) -> None:
    out = io.StringIO()
    render_console(Console(file=out, width=width), flipped)
    text = " ".join(out.getvalue().split())
    table, _, rest = text.partition("It depends on the device")
    assert "✗ ssh:gone: nobody answers" in rest
    assert ("not shown at this width" in table) == (width == 40)
    assert ("–" in table) == (width == 200)
