"""A small writer of inline SVG: its classes take their colours from the style sheet.

No colour and no font is written here, so light, dark and print need one drawing. Text stays text.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from torchopt2edge.report.text.row_view import plain

FONT = 12.0
_EM = 0.6  # of a sans-serif's average letter; a wide one, as the reader's font is not known
_SLIM, _BROAD = frozenset("fijlrtI .,:;'|()[]/-·"), frozenset("mwMW@%★#&+<=>^~×−→≤≥")
Point = tuple[float, float]


def width_of(text: str, strong: bool = False) -> float:
    """Return about how wide a text is, in pixels; rather too wide than too narrow."""
    return _size(strong) * sum(_letter(char) for char in text)


def fit(text: str, room: float, strong: bool = False) -> str:
    """Return the text, or its ends around an ellipsis, no wider than ``room`` pixels."""
    text = plain(text)
    if width_of(text, strong) <= room:
        return text
    head, tail, used, front = "", "", _size(strong) * _EM * 1.6, True
    letters = list(text)
    while letters:  # from both ends, for names whose ends say most
        char = letters.pop(0 if front else -1)
        used += _size(strong) * _letter(char)
        if used > room:
            break
        head, tail = (head + char, tail) if front else (head, char + tail)
        front = not front
    return f"{head}…{tail}"


def _size(strong: bool) -> float:
    return FONT * (1.12 if strong else 1.0)


def _letter(char: str) -> float:
    if unicodedata.east_asian_width(char) in "WF":
        return 1.05
    return 0.38 if char in _SLIM else 0.92 if char in _BROAD else 0.7 if char.isupper() else _EM


@dataclass
class Canvas:
    """A drawing under construction; y grows downward, the unit is the pixel."""

    width: float
    height: float
    parts: list[str] = field(default_factory=list)

    def path(self, points: Sequence[Point], kind: str, closed: bool = False) -> None:
        """Draw a line through the points, or the area within them."""
        steps = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        self.parts.append(f'<path class="{kind}" d="M{steps}{"Z" if closed else ""}"/>')

    def dashes(self, ends: Sequence[tuple[Point, Point]], kind: str) -> None:
        """Draw separate straight lines as one path."""
        steps = "".join(f"M{_n(a)} {_n(b)}L{_n(c)} {_n(d)}" for (a, b), (c, d) in ends)
        self.parts.append(f'<path class="{kind}" d="{steps}"/>')

    def dots(self, points: Sequence[Point], kind: str) -> None:
        """Draw many equal dots as one path of strokes without length: few bytes a dot."""
        steps = "".join(f"M{_n(x)} {_n(y)}h0" for x, y in points)
        self.parts.append(f'<path class="{kind}" d="{steps}"/>')

    def rect(self, x: float, y: float, size: tuple[float, float], kind: str) -> None:
        """Draw a rectangle of ``size`` (width, height)."""
        width, height = (max(0.0, side) for side in size)
        self.parts.append(
            f'<rect class="{kind}" x="{_n(x)}" y="{_n(y)}" '
            f'width="{_n(width)}" height="{_n(height)}"/>'
        )

    def mark(self, marker: str, x: float, y: float, radius: float, kind: str) -> None:
        """Draw one of matplotlib's markers, by its letter, about as large as a circle."""
        if marker == "o":
            self.parts.append(
                f'<circle class="{kind}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"/>'
            )
            return
        corners = [(x + radius * dx, y + radius * dy) for dx, dy in _outline(marker)]
        self.path(corners, kind, closed=True)

    def text(self, x: float, y: float, text: str, kind: str = "", full: str = "") -> None:
        """Write a text on its base line; ``full`` shows while a pointer rests on it."""
        hint = f"<title>{escape(plain(full))}</title>" if full and full != text else ""
        name = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text{name} x="{_n(x)}" y="{_n(y)}">{hint}{escape(plain(text))}</text>')

    def finish(self, key: str, title: str, says: str) -> str:
        """Return the drawing with its name and what it says, for a reader that cannot see it."""
        size = f"{_n(self.width)} {_n(self.height)}"
        return (
            f'<svg role="img" aria-labelledby="{key}-t" aria-describedby="{key}-d" '
            f'viewBox="0 0 {size}" width="{_n(self.width)}" height="{_n(self.height)}">'
            f'<title id="{key}-t">{escape(plain(title))}</title>'
            f'<desc id="{key}-d">{escape(plain(says))}</desc>'
            f"{''.join(self.parts)}</svg>"
        )


def _n(value: float) -> str:
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def _polygon(corners: int, turn: float, size: float = 1.2) -> list[Point]:
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return [(size * math.sin(angle), -size * math.cos(angle)) for angle in angles]


def _outline(marker: str) -> list[Point]:
    """Return the corners of a marker of radius 1."""
    plus = [(-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4)]
    plus += [(-x, -y) for x, y in plus]
    half = math.pi / 2
    shapes = {
        "s": [(-0.95, -0.95), (0.95, -0.95), (0.95, 0.95), (-0.95, 0.95)],
        "D": _polygon(4, 0.0, 1.3),
        "d": [(0, -1.4), (0.8, 0), (0, 1.4), (-0.8, 0)],
        "^": _polygon(3, 0.0, 1.35),
        "v": _polygon(3, math.pi, 1.35),
        ">": _polygon(3, half, 1.35),
        "<": _polygon(3, -half, 1.35),
        "P": plus,
        "X": [((x - y) * 0.71, (x + y) * 0.71) for x, y in plus],
        "h": _polygon(6, 0.0),
        "p": _polygon(5, 0.0),
    }
    return shapes.get(marker, shapes["s"])
