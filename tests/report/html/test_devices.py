"""The page above several devices: what it holds, and its accessibility."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.report.visit import HOSTILE, Opener, Visit
from torchopt2edge.errors import HINT
from torchopt2edge.report.devices.figures import devices_figures
from torchopt2edge.report.devices.table import DeviceRun, DeviceTable
from torchopt2edge.report.html.devices import render_html
from torchopt2edge.types import Measurement, Verdict

Run = tuple[list[Measurement], Verdict, dict[str, Any]]


def render(table: DeviceTable) -> str:
    return render_html(table, devices_figures(table))


@pytest.fixture
def table(whole: Run) -> DeviceTable:
    """Eight devices, one of which could not be used and one of which flips the order."""
    rows, verdict, context = whole
    other = replace(verdict, winner="dense-litert-int8", warnings=["it is hot"])
    each = [
        DeviceRun("local", "local", rows, verdict, context),
        DeviceRun("ssh:pi", "ssh-pi", rows[:6], other, context),
        DeviceRun("adb:" + "R58N30" * 6, "adb-R58", rows, replace(verdict, winner=None), context),
        DeviceRun("ssh:gone", "ssh-gone", error=f"nobody answers.{HINT}ssh gone true"),
    ]
    each += [DeviceRun(f"ssh:{at}", f"ssh-{at}", rows, verdict, context) for at in range(4)]
    return DeviceTable("digits", tuple(each), "torchopt2edge compare devices=[local,ssh:pi]")


class Reader(HTMLParser):
    """Collects the ids, the links and the texts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what matters here."""
        known = dict(attrs)
        self.tags.add(tag)
        self.ids += [known["id"]] if known.get("id") else []
        self.links += [known["href"]] if known.get("href") else []


def read(page: str) -> Reader:
    """Parse a page."""
    reader = Reader()
    reader.feed(page)
    return reader


def test_it_holds_every_device_and_leads_to_each_report(table: DeviceTable) -> None:
    page = render(table)
    found = read(page)
    assert len(found.ids) == len(set(found.ids))
    reports = [link for link in found.links if not link.startswith("#")]
    assert reports == [f"{run.folder}/report.html" for run in table.measured]
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert "nobody answers" in page
    assert page == render(table)


def test_its_figures_hold_a_mark_for_every_ratio(table: DeviceTable) -> None:
    drawings = re.findall(r"<svg role.*?</svg>", render(table))
    assert len(drawings) == 2
    count = sum(len(one.verdict.ratios) for one in table.measured if one.verdict)
    for drawing in drawings:
        marks = [x for x in ET.fromstring(drawing).iter() if "mark" in x.get("class", "").split()]
        assert len(marks) == count + len(table.measured)  # those of the key


def test_hostile_names_are_text(table: DeviceTable) -> None:
    named = replace(table.runs[0], device=HOSTILE)
    broken = DeviceRun(HOSTILE, "gone", error=HOSTILE)
    page = render(replace(table, title=HOSTILE, runs=(named, broken), command=HOSTILE))
    assert "img" not in read(page).tags
    assert page.count("<script>") == 1


def test_no_device_measured(table: DeviceTable) -> None:
    page = render(replace(table, runs=table.runs[3:4]))
    assert "No winner: ssh:gone could not be used." in page
    assert "No device measured anything." in page


@pytest.fixture
def visit(opened: Opener, table: DeviceTable) -> Callable[..., Visit]:
    """Return what opens the page in a window of some width."""

    def to(width: int, scheme: str = "light", shown: DeviceTable = table) -> Visit:
        return opened(render(shown), width, scheme)

    return to


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(visit: Callable[..., Visit], width: int, scheme: str) -> None:
    seen = visit(width, scheme)
    assert seen.complaints == []
    seen.check_access()


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_only_tables_scroll_and_texts_stay_in_their_drawing(
    visit: Callable[..., Visit], width: int
) -> None:
    seen = visit(width)
    assert seen.overflow() <= 0
    assert seen.texts_outside() == []


def test_hostile_names_do_nothing(visit: Callable[..., Visit], table: DeviceTable) -> None:
    named = replace(table.runs[0], device=HOSTILE)
    seen = visit(360, shown=replace(table, title=HOSTILE, runs=(named, *table.runs[1:])))
    assert seen.complaints == []
    assert seen.page.title().startswith('"><img src=x')
    assert seen.page.locator("img").count() == 0
