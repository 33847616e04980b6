"""Two runs on several devices: each compared with itself, and what a CI may fail on."""

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
from torchopt2edge.errors import HINT, ConfigError
from torchopt2edge.report import run_folder
from torchopt2edge.report.devices import write as device_write
from torchopt2edge.report.devices.figures import devices_figures
from torchopt2edge.report.devices.table import DeviceRun, DeviceTable
from torchopt2edge.report.diff.devices import DevicesDiff, compare_devices, holds
from torchopt2edge.report.diff.devices_text import headline
from torchopt2edge.report.diff.devices_write import render_console, render_markdown
from torchopt2edge.report.diff.figures import LATENCY, devices_diff_figures
from torchopt2edge.report.html.diff_devices import render_html
from torchopt2edge.types import Measurement, Verdict

MakeRow = Callable[..., Measurement]
MakeTable = Callable[..., DeviceTable]
FILES = {"ort-fp32": 1.4, "ort-int8": 0.74}


@pytest.fixture
def make_table(make_row: MakeRow) -> MakeTable:
    """Return what makes a run: its devices by name, each with how much slower int8 is there.

    None: the device could not be used.
    """

    def device_run(device: str, slower: float | None) -> DeviceRun:
        place = device.replace(":", "-").replace(" ", "-")
        if slower is None:
            return DeviceRun(device, place, error=f"nobody answers.{HINT}wake it")
        rows = []
        for name, ms in FILES.items():
            changed = slower if name == "ort-int8" else 1.0
            facts = {"file_sha256": f"{name} {changed}", "order": "turns", "run": "r", "cpu": "c"}
            row = make_row(name, **facts)
            pace = [[round(ms * changed * ns) for ns in each] for each in row.latency_ns]
            metrics = {**row.metrics, "latency_ms": ms * changed}
            rows.append(replace(row, device=device, latency_ns=pace, metrics=metrics))
        context = {"title": "net", "stages": [], "environment": {}, "decisions": []}
        return DeviceRun(device, place, rows, Verdict("ort-int8"), context)

    def make(**slower: float | None) -> DeviceTable:
        names = {name.replace("_", ":"): by for name, by in slower.items()}
        runs = tuple(device_run(name, by) for name, by in names.items())
        return DeviceTable("net", runs, "the command")

    return make


def written(place: Path, table: DeviceTable) -> Path:
    """Write a run on several devices as the commands do."""
    for run in table.measured:
        assert run.verdict is not None
        run_folder.write(place / run.folder, run.rows, run.verdict, **run.context)
    device_write.write(place, table)
    return place


def shown(diff: DevicesDiff, width: int = 160) -> str:
    text = io.StringIO()
    render_console(Console(file=text, width=width), diff)
    return text.getvalue()


def markdown(diff: DevicesDiff) -> str:
    return render_markdown(diff, devices_diff_figures(diff))


def html(diff: DevicesDiff) -> str:
    return render_html(diff, devices_diff_figures(diff))


def findings(diff: DevicesDiff) -> list[tuple[str, str, str, str]]:
    """Return (device, code, candidate, metric) of every finding."""
    return [
        (device.device, finding.code, finding.candidate, finding.metric)
        for device, each in diff.compared
        for finding in each.findings
    ]


def test_one_device_that_breaks_the_limit_breaks_it(make_table: MakeTable) -> None:
    before, after = make_table(local=1.0, ssh_pi=1.0), make_table(local=1.0, ssh_pi=1.2)
    diff = compare_devices(before, after, 0.05)
    assert findings(diff) == [("ssh:pi", "beyond", "ort-int8", "latency_ms")]
    (sentence,) = diff.broken
    assert sentence.startswith("ssh:pi: ort-int8: ")
    assert diff.strict == []
    assert headline(diff) == "Regression beyond 5 % on ssh:pi (1 of 2 devices): 1 finding."


def test_the_order_of_the_devices_does_not_matter(make_table: MakeTable) -> None:
    before, after = make_table(local=1.0, ssh_pi=1.0), make_table(ssh_pi=1.0, local=1.0)
    diff = compare_devices(before, after, 0.05)
    assert (diff.broken, diff.strict) == ([], [])
    assert headline(diff) == "No regression beyond 5 % on ssh:pi and local."


def test_without_a_limit_nothing_is_broken(make_table: MakeTable) -> None:
    before, after = make_table(local=1.0, ssh_pi=1.0), make_table(local=1.0, ssh_pi=1.2)
    diff = compare_devices(before, after, None)
    assert (diff.broken, diff.strict) == ([], [])
    assert headline(diff) == "Of 4 candidates on local and ssh:pi: 3 same, 1 slower."


def test_a_device_of_one_run_alone_is_named_once(make_table: MakeTable) -> None:
    before = make_table(local=1.0, ssh_gone=1.0, ssh_lost=1.0, ssh_back=None, ssh_dead=None)
    after = make_table(local=1.0, ssh_lost=None, ssh_back=1.0, ssh_new=1.0, ssh_dead=None)
    diff = compare_devices(before, after, 0.05)
    lost = {device.device: device.lost for device in diff.devices if device.diff is None}
    assert lost == {
        "ssh:lost": True,
        "ssh:back": False,
        "ssh:new": False,
        "ssh:dead": False,
        "ssh:gone": True,
    }
    assert diff.broken == []
    assert [sentence.split()[0] for sentence in diff.strict] == ["ssh:lost", "ssh:gone"]
    assert diff.not_compared[:2] == diff.strict
    assert len(diff.not_compared) == len(lost)
    for text in (shown(diff), markdown(diff), html(diff)):
        for device in lost:
            assert len(re.findall(rf"{device} (?:is not|could)", text)) == 1, device


def test_files_that_differ_on_one_device_leave_the_others(make_table: MakeTable) -> None:
    after = make_table(local=1.0, ssh_pi=1.0)
    other = [replace(row, candidate=f"new-{row.candidate}") for row in after.runs[1].rows]
    mixed = replace(after, runs=(after.runs[0], replace(after.runs[1], rows=other)))
    diff = compare_devices(make_table(local=1.0, ssh_pi=1.0), mixed, 0.05)
    assert [device.device for device, _ in diff.compared] == ["local"]
    assert diff.devices[1].lost
    assert "no candidate in common" in diff.devices[1].note
    assert len(diff.strict) == 1


def test_nothing_to_compare_is_an_error_and_no_pass(make_table: MakeTable) -> None:
    with pytest.raises(ConfigError, match="no device can be compared: phone "):
        compare_devices(make_table(local=1.0), make_table(phone=1.0), 0.05)
    with pytest.raises(ConfigError, match="no device can be compared: local "):
        compare_devices(make_table(local=1.0), make_table(local=None), 0.05)


def test_the_command_compares_every_device_and_fails_with_one(
    make_table: MakeTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(tmp_path / "a", make_table(local=1.0, ssh_pi=1.0))
    after = written(tmp_path / "b", make_table(local=1.0, ssh_pi=1.2))
    given = ["report", f"run={before}", f"run={after}"]
    assert main(given) == 0
    assert main([*given, "report.max_regression=50%"]) == 0
    assert main([*given, "report.max_regression=5%", f"out={tmp_path / 'c'}"]) == 1
    text = "".join(capsys.readouterr().out.split())  # a long path is folded
    assert "✗ssh:pi:ort-int8:" in text
    assert f"comparison:{tmp_path / 'c' / 'against.html'}" in text
    kept = json.loads((tmp_path / "c/against.json").read_text())
    assert [each["device"] for each in kept["devices"]] == ["local", "ssh:pi"]
    assert len(kept["broken"]) == len(kept["devices"][1]["against"]["broken"]) == 1
    for place in ("c", "c/local", "c/ssh-pi"):
        assert {"against.html", "against.md"} <= {x.name for x in (tmp_path / place).iterdir()}
    links = re.findall(r"\]\((\S+)\)", (tmp_path / "c/against.md").read_text())
    links += re.findall(r'href="([^#"]+)"', (tmp_path / "c/against.html").read_text())
    assert len(links) == 5, "a figure, and each device's comparison from either file"
    assert all((tmp_path / "c" / link).is_file() for link in links)
    assert main(["report", f"run={after}"]) == 0, "the run itself is still whole"


def test_with_a_run_on_one_device_the_hint_names_what_can_be_compared(
    make_table: MakeTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = written(tmp_path / "a", make_table(local=1.0, ssh_pi=1.0))
    alone = several / "local"
    assert not holds(alone, alone)
    assert main(["report", f"run={several}", f"run={alone}"]) == 1
    assert f"run={several}/local or run={several}/ssh-pi" in capsys.readouterr().err


def test_tables_in_markdown_are_tables(make_table: MakeTable) -> None:
    table = make_table(local=1.0, ssh_pi=1.0)
    texts = (
        markdown(compare_devices(table, table, 0.05)),
        device_write.render_markdown(table, devices_figures(table)),
    )
    for text in texts:
        tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
        assert [len(each.splitlines()) for each in tables] == [4, 4], "a head, a rule, two rows"
        assert "\n\n\n" not in text


@pytest.mark.parametrize("width", [60, 160])
def test_the_terminal_shows_what_fits(make_table: MakeTable, width: int) -> None:
    before = make_table(local=1.0, ssh_pi=1.0, phone=1.0)
    after = make_table(local=1.1, ssh_pi=1.1, phone=1.1)
    diff = compare_devices(before, after, 0.05)
    text = shown(diff, width)
    table = text.split(headline(diff).split()[0])[0]
    assert max(map(len, table.splitlines())) <= width
    assert ("not shown at this width" in table) == (width == 60)
    assert text.count("slower") >= 3


def hostile(table: DeviceTable) -> DeviceTable:
    """Give a device, a file and the title names that attack a page and a terminal."""
    first, *rest = table.runs
    rows = [replace(row, candidate=f"{row.candidate}{HOSTILE}|") for row in first.rows]
    return replace(table, title=HOSTILE, runs=(replace(first, device=HOSTILE, rows=rows), *rest))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_accessible_and_hostile_names_do_nothing(
    make_table: MakeTable, opened: Opener, width: int, scheme: str
) -> None:
    before, after = make_table(local=1.0, ssh_pi=1.0), make_table(local=1.2, ssh_pi=1.0, new=1.0)
    diff = compare_devices(hostile(before), hostile(after), 0.05)
    visit = opened(html(diff), width, scheme)
    visit.check_access()
    assert (len(visit.requests), visit.complaints) == (1, [])
    assert visit.page.title().startswith('"><img src=x')
    assert visit.page.locator("img").count() == 0
    assert visit.overflow() <= 0
    assert visit.texts_outside() == []
    marks = visit.page.locator(f"svg[aria-labelledby^={LATENCY}]:visible .mark")
    assert marks.count() == 4 + 2, "a mark for each ratio, and those of the legend"
    assert "<img" not in markdown(diff)
