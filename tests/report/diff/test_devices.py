"""Two runs on several devices: each held against itself, and what a CI may fail on."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.report.visit import HOSTILE, Opener
from torchopt2edge.cli.main import main
from torchopt2edge.errors import ConfigError
from torchopt2edge.report import run_folder
from torchopt2edge.report.devices import write as device_write
from torchopt2edge.report.devices.table import Column, Side
from torchopt2edge.report.diff.devices import Across, across, holds
from torchopt2edge.report.diff.devices_text import headline
from torchopt2edge.report.diff.devices_write import render_console, render_markdown
from torchopt2edge.report.html.diff_devices import render_html
from torchopt2edge.types import Measurement, Verdict

MakeRow = Callable[..., Measurement]
MakeSide = Callable[..., Side]
FILES = {"ort-fp32": 1.4, "ort-int8": 0.74}


@pytest.fixture
def make_side(make_row: MakeRow) -> MakeSide:
    """Return what makes a run: its devices by name, each with how much slower int8 is there.

    None: the device could not be used.
    """

    def column(device: str, slower: float | None) -> Column:
        place = device.replace(":", "-").replace(" ", "-")
        if slower is None:
            return Column(device, place, err="nobody answers. To mend it: wake it")
        rows = []
        for name, ms in FILES.items():
            changed = slower if name == "ort-int8" else 1.0
            facts = {"file_sha256": f"{name} {changed}", "order": "turns", "run": "r", "cpu": "c"}
            one = make_row(name, **facts)
            pace = [[round(ms * changed * ns) for ns in each] for each in one.latency_ns]
            metrics = {**one.metrics, "latency_ms": ms * changed}
            rows.append(replace(one, device=device, latency_ns=pace, metrics=metrics))
        context = {"title": "net", "stages": [], "environment": {}, "decisions": []}
        return Column(device, place, rows, Verdict("ort-int8"), context)

    def make(**slower: float | None) -> Side:
        names = {name.replace("_", ":"): by for name, by in slower.items()}
        return Side("net", tuple(column(name, by) for name, by in names.items()), "the command")

    return make


def written(place: Path, run: Side) -> Path:
    """Write a run as `many` does."""
    for one in run.used:
        assert one.verdict is not None
        run_folder.write(place / one.folder, one.rows, one.verdict, **one.context)
    device_write.write(place, run)
    return place


def shown(found: Across, width: int = 160) -> str:
    text = io.StringIO()
    render_console(Console(file=text, width=width), found)
    return text.getvalue()


def test_one_device_that_breaks_the_limit_breaks_it(make_side: MakeSide) -> None:
    found = across(make_side(local=1.0, ssh_pi=1.0), make_side(local=1.0, ssh_pi=1.2), 0.05)
    (said,) = found.broken
    assert said.startswith("ssh:pi: ort-int8: latency is 1.20×")
    assert found.strict == []
    assert headline(found) == "Regression beyond 5 % on ssh:pi (1 of 2 devices): 1 finding."
    same = across(make_side(local=1.0, ssh_pi=1.0), make_side(ssh_pi=1.0, local=1.0), 0.05)
    assert (same.broken, same.strict) == ([], [])
    assert headline(same) == "No regression beyond 5 % on ssh:pi and local."
    free = across(make_side(local=1.0, ssh_pi=1.0), make_side(local=1.0, ssh_pi=1.2), None)
    assert (free.broken, free.strict) == ([], [])
    assert headline(free) == "Of 4 candidates on local and ssh:pi: 3 same, 1 slower."


def test_a_device_of_one_run_alone_is_said_in_a_clear_word(make_side: MakeSide) -> None:
    before = make_side(local=1.0, ssh_gone=1.0, ssh_lost=1.0, ssh_back=None, ssh_dead=None)
    after = make_side(local=1.0, ssh_lost=None, ssh_back=1.0, ssh_new=1.0, ssh_dead=None)
    found = across(before, after, 0.05)
    assert found.broken == []
    assert found.strict == [
        "ssh:lost could not be used now: nobody answers. To mend it: wake it",
        "ssh:gone is not in the later run, so nothing is known of it",
    ]
    assert found.apart == [
        *found.strict,
        "ssh:back could not be used before: there is nothing to compare with",
        "ssh:new is not in the earlier run: there is nothing to compare with",
        "ssh:dead could not be used now: nobody answers. To mend it: wake it",
    ]
    assert headline(found) == (
        "No regression beyond 5 % is proven on local; 2 findings cannot exclude one."
    )
    for text in (shown(found), render_markdown(found), render_html(found)):
        for device in ("gone", "lost", "back", "new", "dead"):
            assert len(re.findall(rf"ssh:{device} (?:is not|could)", text)) == 1, device


def test_files_that_differ_on_one_device_leave_the_others(make_side: MakeSide) -> None:
    after = make_side(local=1.0, ssh_pi=1.0)
    other = [replace(row, candidate=f"new-{row.candidate}") for row in after.columns[1].rows]
    mixed = replace(after, columns=(after.columns[0], replace(after.columns[1], rows=other)))
    found = across(make_side(local=1.0, ssh_pi=1.0), mixed, 0.05)
    assert [one.device for one, _ in found.compared] == ["local"]
    assert "ssh:pi cannot be compared: the two runs have no candidate in common" in found.strict[0]


def test_nothing_to_compare_is_an_error_and_no_pass(make_side: MakeSide) -> None:
    with pytest.raises(ConfigError, match=r"no device can be compared: phone is not in the earl"):
        across(make_side(local=1.0), make_side(phone=1.0), 0.05)
    with pytest.raises(ConfigError, match="could not be used now"):
        across(make_side(local=1.0), make_side(local=None), 0.05)


def test_the_command_compares_every_device_and_fails_with_one(
    make_side: MakeSide, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(tmp_path / "a", make_side(local=1.0, ssh_pi=1.0))
    after = written(tmp_path / "b", make_side(local=1.0, ssh_pi=1.2))
    given = ["report", f"run={before}", f"run={after}"]
    assert main(given) == 0
    assert main([*given, "report.max_regression=50%"]) == 0
    assert main([*given, "report.max_regression=5%", f"out={tmp_path / 'c'}"]) == 1
    said = "".join(capsys.readouterr().out.split())  # a long path is folded
    assert "✗ssh:pi:ort-int8:latencyis1.20×" in said
    assert f"comparison:{tmp_path / 'c' / 'against.html'}" in said
    kept = json.loads((tmp_path / "c/against.json").read_text())
    assert [one["device"] for one in kept["devices"]] == ["local", "ssh:pi"]
    assert len(kept["broken"]) == len(kept["devices"][1]["against"]["broken"]) == 1
    for place in ("c", "c/local", "c/ssh-pi"):
        assert {"against.html", "against.md"} <= {x.name for x in (tmp_path / place).iterdir()}
    links = re.findall(r"\]\((\S+)\)", (tmp_path / "c/against.md").read_text())
    links += re.findall(r'href="([^#"]+)"', (tmp_path / "c/against.html").read_text())
    assert len(links) == 4
    assert all((tmp_path / "c" / link).is_file() for link in links)
    assert main(["report", f"run={after}"]) == 0, "the run itself is still whole"


def test_a_run_on_one_device_is_told_what_to_compare_with(
    make_side: MakeSide, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = written(tmp_path / "a", make_side(local=1.0, ssh_pi=1.0))
    alone = several / "local"
    assert not holds(alone, alone)
    assert main(["report", f"run={several}", f"run={alone}"]) == 1
    assert f"run={several}/local or run={several}/ssh-pi" in capsys.readouterr().err


def test_tables_in_markdown_are_tables(make_side: MakeSide) -> None:
    run = make_side(local=1.0, ssh_pi=1.0)
    for text in (render_markdown(across(run, run, 0.05)), device_write.render_markdown(run)):
        tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
        assert [len(table.splitlines()) for table in tables] == [4, 4], "a head, a rule, two rows"
        assert "\n\n\n" not in text


@pytest.mark.parametrize("width", [60, 160])
def test_the_terminal_shows_what_fits(make_side: MakeSide, width: int) -> None:
    run = make_side(local=1.0, ssh_pi=1.0, phone=1.0)
    said = shown(across(run, make_side(local=1.1, ssh_pi=1.1, phone=1.1), 0.05), width)
    assert max(map(len, said.split("Regression")[0].splitlines())) <= width
    assert ("not shown at this width: the intervals" in said) == (width == 60)
    assert said.count("slower") >= 3


def hostile(run: Side) -> Side:
    """Give a device, a file and the title names that attack a page and a terminal."""
    first, *rest = run.columns
    rows = [replace(row, candidate=f"{row.candidate}{HOSTILE}|") for row in first.rows]
    return replace(run, title=HOSTILE, columns=(replace(first, device=HOSTILE, rows=rows), *rest))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_everybody_can_read_the_page_and_hostile_names_do_nothing(
    make_side: MakeSide, opened: Opener, width: int, scheme: str
) -> None:
    before, after = make_side(local=1.0, ssh_pi=1.0), make_side(local=1.2, ssh_pi=1.0, new=1.0)
    found = across(hostile(before), hostile(after), 0.05)
    seen = opened(render_html(found), width, scheme)
    seen.check_access()
    assert (len(seen.asked), seen.complaints) == (1, [])
    assert seen.page.title().startswith('"><img src=x')
    assert seen.page.locator("img").count() == 0
    assert seen.overflow() <= 0
    assert seen.texts_outside() == []
    assert seen.page.locator("#ratio svg[role=img]:visible .mark").count() == 4 + 2
    assert "<img" not in render_markdown(found)
