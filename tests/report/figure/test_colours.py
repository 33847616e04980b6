"""The colours of the style sheet: text at 4.5:1 against the paper, marks at 3:1."""

from __future__ import annotations

import re

import pytest

from torchopt2edge.report.figure.bars import PHASES
from torchopt2edge.report.figure.standalone import figure_style
from torchopt2edge.report.figure.style import OTHER_COLOURS, RUNTIME_COLOURS

STYLE = figure_style()
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))
    for part in STYLE.split("@media screen and (prefers-color-scheme: dark)", 1)
)
MARKS = ("blue", "vermillion", "grey", "green", "purple", "orange", "sky", "axis")
TEXTS = ("ink", "muted", "link")


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_stand_out(theme: dict[str, str]) -> None:
    assert {*MARKS, *TEXTS} <= set(theme)
    for paper in ("paper", "soft", "chosen-paper"):
        assert min(contrast(theme[text], theme[paper]) for text in TEXTS) >= 4.5
    assert contrast(theme["warn"], theme["warn-paper"]) >= 4.5
    assert contrast(theme["ink"], theme["warn-paper"]) >= 4.5
    assert min(contrast(theme[mark], theme["paper"]) for mark in MARKS) >= 3.0


def test_every_colour_class_is_in_the_style_sheet() -> None:
    phases = [f"phase-{at}" for at in range(len(PHASES))]
    for name in (*RUNTIME_COLOURS.values(), *OTHER_COLOURS, *phases, "plain"):
        assert f".{name} {{ --c: var(--" in STYLE
