"""A figure as a file: whole, without variables, and readable on a white and on a dark page."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from torchopt2edge.report.figure.standalone import figure_files, figure_style, standalone
from torchopt2edge.report.run_report import RunReport

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def documents(whole_report: RunReport) -> dict[str, str]:
    return figure_files(whole_report.figures.values())


def test_every_file_is_a_document_with_title_and_description(documents) -> None:
    assert len(documents) == 11
    for name, text in documents.items():
        assert re.fullmatch(r"figures/[a-z0-9-]+\.svg", name)
        root = ET.fromstring(text)
        assert root.tag == f"{SVG}svg"
        assert [child.tag for child in root][:2] == [f"{SVG}title", f"{SVG}desc"]
        ids = [x.get("id") for x in root.iter() if x.get("id")]
        assert root.get("aria-labelledby") in ids
        assert root.get("aria-describedby") in ids
        assert len(ids) == len(set(ids))


def test_a_file_needs_nothing_from_elsewhere(documents) -> None:
    for text in documents.values():
        assert text.count("://") == 1, "the name space"
        assert not re.search(r"var\(|@import|url\(|<script|@media|href", text)


def test_every_class_of_a_file_has_its_rule(documents) -> None:
    unstyled = {"bar", "mark", "strong"}  # coloured together with another class
    for name, text in documents.items():
        root = ET.fromstring(text)
        (style,) = (x.text or "" for x in root.iter(f"{SVG}style"))
        named = set(re.findall(r"\.([\w-]+)", style))
        used = {one for x in root.iter() for one in (x.get("class") or "").split()}
        assert used - named <= unstyled, name
        assert "text{" in style
        assert "path{" in style


def test_colours_are_those_of_the_light_theme(documents) -> None:
    light = set(re.findall(r"#[0-9a-f]{6}", figure_style().partition("@media")[0]))
    for text in documents.values():
        assert set(re.findall(r"#[0-9a-f]{6}", text)) <= light


def test_equal_figures_give_equal_files(whole_report, whole) -> None:
    again = RunReport.of(*whole)
    for key, figure in whole_report.figures.items():
        assert standalone(figure) == standalone(again.figures[key])


@pytest.mark.parametrize("background", ["#ffffff", "#0d1117"])
def test_it_is_shown_as_an_image_on_any_page(
    documents, browser: Any, tmp_path: Path, background: str
) -> None:
    """The image brings its own background: its corner looks alike on a white and a dark page."""
    (tmp_path / "figures").mkdir()
    for name, text in documents.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    images = "".join(f'<img src="{name}">' for name in documents)
    page_file = tmp_path / "page.html"
    page_file.write_text(f'<body style="background:{background}">{images}</body>')
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    page.goto(page_file.as_uri())
    sizes = page.evaluate(
        "() => [...document.images].map((one) => [one.naturalWidth, one.naturalHeight])"
    )
    assert len(sizes) == len(documents)
    assert all(width > 800 and height > 100 for width, height in sizes)
    box = page.locator("img").first.bounding_box()
    clip = {"x": box["x"] + 4, "y": box["y"] + 4, "width": 6, "height": 6}
    shot = tmp_path / "corner.png"
    page.screenshot(path=str(shot), clip=clip)
    context.close()
    from PIL import Image

    with Image.open(shot) as image:
        assert image.convert("RGB").getcolors() == [(36, (255, 255, 255))]


def test_labels_of_the_scatter_do_not_overlap(documents, browser: Any, tmp_path: Path) -> None:
    """The places are found with estimated widths; these are the real ones."""
    file = tmp_path / "trade-off.svg"
    file.write_text(documents["figures/trade-off.svg"], encoding="utf-8")
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    page.goto(file.as_uri())
    boxes = page.evaluate(
        """() => [...document.querySelectorAll('.halo')].map((text) => {
            const box = text.getBoundingClientRect();
            return [box.left, box.top, box.right, box.bottom];
        })"""
    )
    context.close()
    assert len(boxes) == 9
    for a, b in itertools.combinations(boxes, 2):
        assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] - 2 or b[1] >= a[3] - 2


def test_texts_of_a_file_stay_within_it(documents, browser: Any, tmp_path: Path) -> None:
    """What was laid out with estimated widths is measured with the real font."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    for at, text in enumerate(documents.values()):
        file = tmp_path / f"{at}.svg"
        file.write_text(text, encoding="utf-8")
        page.goto(file.as_uri())
        outside = page.evaluate(
            """() => {
                const box = document.documentElement.getBoundingClientRect();
                return [...document.querySelectorAll('text')].filter((text) => {
                    const a = text.getBoundingClientRect();
                    return a.left < box.left || a.right > box.right ||
                        a.top < box.top || a.bottom > box.bottom;
                }).map((text) => text.textContent);
            }"""
        )
        assert outside == []
    context.close()
