"""The page in a real browser: its requests, its sorting, and its accessibility."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.visit import HOSTILE, Opener, Visit
from torchopt2edge.report.html.run import render
from torchopt2edge.report.run_report import RunReport


@pytest.fixture
def visit(opened: Opener, whole: Any) -> Callable[..., Visit]:
    """Return what opens a page, of the whole run unless another one is given."""

    def to(width: int = 1280, scheme: str = "light", run: Any = whole) -> Visit:
        return opened(render(RunReport.of(*run)), width, scheme)

    return to


@pytest.mark.parametrize("width", [360, 1280])
def test_it_makes_no_request_and_logs_nothing(visit: Any, width: int) -> None:
    seen = visit(width)
    assert seen.complaints == []
    assert len(seen.requests) == 1
    assert seen.page.locator("svg[role=img]:visible").count() >= 9


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(visit: Any, width: int, scheme: str) -> None:
    seen = visit(width, scheme)
    seen.page.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    seen.check_access()


def test_the_table_sorts_by_click(visit: Any) -> None:
    seen = visit()
    heads = seen.page.locator("#result thead th")
    titles = [text.strip() for text in heads.all_text_contents()]
    latency, size = titles.index("latency ms"), titles.index("file MB")
    assert heads.nth(latency).get_attribute("aria-sort") == "ascending"
    before = seen.column(0)
    heads.nth(latency).get_by_role("button").click()
    assert heads.nth(latency).get_attribute("aria-sort") == "descending"
    assert seen.column(0) == before[::-1]
    heads.nth(size).get_by_role("button").click()
    assert heads.nth(latency).get_attribute("aria-sort") is None
    sizes = [float(text) if text else float("inf") for text in seen.column(size)]
    assert sizes == sorted(sizes)
    assert seen.page.locator("#status").text_content() == "Sorted by file MB, ascending"


def test_the_table_sorts_by_keyboard(visit: Any) -> None:
    seen = visit()
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.textContent") == "Skip to the report"
    seen.page.keyboard.press("Enter")
    for _ in range(40):
        seen.page.keyboard.press("Tab")
        if seen.page.evaluate("document.activeElement.matches('#result thead button')"):
            break
    seen.page.keyboard.press("Enter")
    names = seen.column(0)
    assert names == sorted(names)
    seen.page.keyboard.press("Space")
    assert seen.column(0) == names[::-1]


def test_what_was_not_measured_comes_last_either_way(visit: Any) -> None:
    seen = visit()
    titles = [
        text.strip() for text in seen.page.locator("#result th[scope=col]").all_text_contents()
    ]
    size = titles.index("file MB")
    for _ in range(2):
        seen.page.locator("#result thead button").nth(size).click()
        assert seen.column(size)[-1] == ""


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_only_tables_scroll_sideways(visit: Any, width: int) -> None:
    assert visit(width).overflow() <= 0


def test_hostile_names_are_inert(visit: Any, whole: Any) -> None:
    rows, verdict, context = whole
    named = [
        replace(row, candidate=f"{HOSTILE}{name}")
        for row, name in zip(rows, ("", "x" * 300, "نموذج-صغير"), strict=False)
    ]
    hostile = {**context, "title": HOSTILE, "environment": {"command": HOSTILE}}
    seen = visit(360, run=([*named, *rows[3:]], verdict, hostile))
    assert seen.complaints == []
    assert len(seen.requests) == 1
    assert seen.page.title().startswith('"><img src=x')
    assert seen.page.locator("img").count() == 0
    assert seen.overflow() <= 0


def test_a_command_is_copied(visit: Any) -> None:
    seen = visit()
    seen.context.grant_permissions(["clipboard-read", "clipboard-write"])
    seen.page.get_by_role("button", name="Copy: The run").click()
    seen.page.wait_for_function("document.getElementById('status').textContent === 'Copied'")
    command = seen.page.locator("#reproduce code").first.text_content()
    assert seen.page.evaluate("navigator.clipboard.readText()") == command


def test_texts_of_a_drawing_stay_within_it(visit: Any) -> None:
    """What was laid out with estimated widths is measured with the real font."""
    for width in (360, 1280):
        assert visit(width).texts_outside() == []


def test_without_a_script_everything_is_there(
    browser: Any, whole_report: Any, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(whole_report), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("#result tbody tr").count() == 9
    assert page.locator("svg[role=img]:visible").count() >= 9
    context.close()


def test_paper_shows_what_is_folded(visit: Any) -> None:
    seen = visit(scheme="dark")
    seen.page.emulate_media(media="print")
    seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert seen.page.locator("details:not([open])").count() == 0
    background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    seen.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert seen.page.locator("details:not([open])").count() > 0


def test_a_phone_shows_latency_beside_accuracy_and_names_every_mark(visit: Any) -> None:
    seen = visit(390)
    right = "one => one.getBoundingClientRect().right"
    heads = seen.page.locator("#result thead th")
    titles = [text.strip() for text in heads.all_text_contents()]
    assert heads.nth(titles.index("latency ms")).evaluate(right) <= 390
    row = seen.page.locator("#result tbody tr").first
    interval = row.locator(".interval").first
    assert interval.evaluate("one => getComputedStyle(one).display") == "block"
    drawn = seen.page.locator(".narrow svg[aria-labelledby^=trade-off-narrow] text")
    assert {"int8", "fp32"} <= {text.strip() for text in drawn.all_text_contents()}
