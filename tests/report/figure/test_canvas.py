from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from torchopt2edge.report.figure.canvas import MARKERS, Canvas, fit, width_of


def test_a_long_name_keeps_both_its_ends() -> None:
    short = fit("a" * 50 + "b" * 50, 120)
    assert short.startswith("aaa")
    assert short.endswith("bbb")
    assert width_of(short) <= 120
    assert fit("ort-int8", 120) == "ort-int8"


def test_a_bold_or_a_wide_text_takes_more_room() -> None:
    assert width_of("ort-int8", strong=True) > width_of("ort-int8")
    assert width_of("漢字") > width_of("ab")


@pytest.mark.parametrize("marker", [*MARKERS, "circle"])
def test_a_marker_is_about_as_large_as_a_circle(marker: str) -> None:
    canvas = Canvas(100, 100)
    canvas.mark(marker, 50, 50, 10, "mark")
    element = ET.fromstring(canvas.finish().body)
    assert element.get("class") == "mark"
    if marker == "circle":
        assert element.get("r") == "10"
        return
    numbers = [float(x) for x in (element.get("d") or "").strip("MZ").replace("L", " ").split()]
    assert all(35 <= x <= 65 for x in numbers)
    assert max(numbers) - min(numbers) >= 15


def test_hostile_text_is_text() -> None:
    canvas = Canvas(10, 10)
    canvas.text(0, 0, "</text><script>\x1b", full="<b>")
    body = ET.fromstring(canvas.finish().body)
    assert [child.tag for child in body] == ["title"]
    assert "<script>" in "".join(body.itertext())
