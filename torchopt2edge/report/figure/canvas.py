"""A small writer of SVG. Its classes take their colours from ``figure.css``.

No colour and no font is written here, so light, dark and print need one drawing. Text stays text.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from torchopt2edge.report.text.row_view import plain

FONT_PX = 12.0
Point = tuple[float, float]
"""(x, y) in pixels; y grows downward."""

_EM = 0.6  # of an average letter; rather wide, since the reader's font is not known
_THIN, _BROAD = frozenset("fijlrtI .,:;'|()[]/-·"), frozenset("mwMW@%★#&+<=>^~×−→≤≥")


def width_of(text: str, strong: bool = False) -> float:
    """Estimate the width of a text.

    Args:
        text: The text, set in `FONT_PX`.
        strong: Whether it is bold.

    Returns:
        The width in pixels, rather too wide than too narrow.
    """
    return _scale(strong) * sum(_letter(char) for char in text)


def fit(text: str, room: float, strong: bool = False) -> str:
    """Shorten a text in its middle until it fits; the ends of a name tell most.

    Args:
        text: The text.
        room: The width that it may take, in pixels.
        strong: Whether it is bold.

    Returns:
        The text, or its two ends around an ellipsis.
    """
    text = plain(text)
    if width_of(text, strong) <= room:
        return text
    head, tail, used, front = "", "", _scale(strong) * _EM * 1.6, True
    letters = list(text)
    while letters:  # alternately from both ends
        char = letters.pop(0 if front else -1)
        used += _scale(strong) * _letter(char)
        if used > room:
            break
        head, tail = (head + char, tail) if front else (head, char + tail)
        front = not front
    return f"{head}…{tail}"


def _scale(strong: bool) -> float:
    return FONT_PX * (1.12 if strong else 1.0)


def _letter(char: str) -> float:
    if unicodedata.east_asian_width(char) in "WF":
        return 1.05
    return 0.38 if char in _THIN else 0.92 if char in _BROAD else 0.7 if char.isupper() else _EM


@dataclass(frozen=True)
class Drawing:
    """A finished drawing: its size in pixels, and the elements within ``<svg>``."""

    width: float
    height: float
    body: str


@dataclass
class Canvas:
    """A drawing under construction; ``kind`` of every method is its classes in ``figure.css``."""

    width: float
    height: float
    parts: list[str] = field(default_factory=list)

    def path(self, points: Sequence[Point], kind: str, closed: bool = False) -> None:
        """Draw a line through points, or the area within them.

        Args:
            points: The corners.
            kind: Its classes.
            closed: Whether the last point is joined with the first.
        """
        steps = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        self.parts.append(f'<path class="{kind}" d="M{steps}{"Z" if closed else ""}"/>')

    def dashes(self, ends: Sequence[tuple[Point, Point]], kind: str) -> None:
        """Draw separate straight lines as one path.

        Args:
            ends: The two ends of each line.
            kind: Their classes.
        """
        steps = "".join(f"M{_n(a)} {_n(b)}L{_n(c)} {_n(d)}" for (a, b), (c, d) in ends)
        self.parts.append(f'<path class="{kind}" d="{steps}"/>')

    def dots(self, points: Sequence[Point], kind: str) -> None:
        """Draw many equal dots as one path of strokes without length, in few bytes.

        Args:
            points: The dots' centres.
            kind: Their classes.
        """
        steps = "".join(f"M{_n(x)} {_n(y)}h0" for x, y in points)
        self.parts.append(f'<path class="{kind}" d="{steps}"/>')

    def rect(self, x: float, y: float, size: tuple[float, float], kind: str) -> None:
        """Draw a rectangle.

        Args:
            x: Its left edge.
            y: Its upper edge.
            size: Its width and height; a negative one counts as 0.
            kind: Its classes.
        """
        width, height = (max(0.0, length) for length in size)
        self.parts.append(
            f'<rect class="{kind}" x="{_n(x)}" y="{_n(y)}" '
            f'width="{_n(width)}" height="{_n(height)}"/>'
        )

    def mark(self, marker: str, x: float, y: float, radius: float, kind: str) -> None:
        """Draw a marker.

        Args:
            marker: One of `MARKERS`; a circle where the name is not known.
            x: Its centre.
            y: Its centre.
            radius: Of a circle; the other markers look about as large.
            kind: Its classes.
        """
        if marker not in MARKERS:
            circle = f'cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"'
            self.parts.append(f'<circle class="{kind}" {circle}/>')
            return
        corners = [(x + radius * dx, y + radius * dy) for dx, dy in MARKERS[marker]]
        self.path(corners, kind, closed=True)

    def text(self, x: float, y: float, text: str, kind: str = "", full: str = "") -> None:
        """Write a text.

        Args:
            x: Where it begins, or its middle or end by its classes.
            y: Its base line.
            text: The text.
            kind: Its classes.
            full: The whole of a text that was shortened, shown while a pointer rests on it.
        """
        title = f"<title>{escape(plain(full))}</title>" if full and full != text else ""
        name = f' class="{kind}"' if kind else ""
        shown = escape(plain(text))
        self.parts.append(f'<text{name} x="{_n(x)}" y="{_n(y)}">{title}{shown}</text>')

    def finish(self) -> Drawing:
        """Return the finished drawing."""
        return Drawing(self.width, self.height, "".join(self.parts))


def _n(value: float) -> str:
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def _polygon(corners: int, turn: float, size: float = 1.2) -> list[Point]:
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return [(size * math.sin(angle), -size * math.cos(angle)) for angle in angles]


_HALF_PLUS = [(-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4)]
_PLUS = [*_HALF_PLUS, *((-x, -y) for x, y in _HALF_PLUS)]
MARKERS: dict[str, list[Point]] = {
    "square": [(-0.95, -0.95), (0.95, -0.95), (0.95, 0.95), (-0.95, 0.95)],
    "diamond": _polygon(4, 0.0, 1.3),
    "thin-diamond": [(0, -1.4), (0.8, 0), (0, 1.4), (-0.8, 0)],
    "triangle-up": _polygon(3, 0.0, 1.35),
    "triangle-down": _polygon(3, math.pi, 1.35),
    "triangle-right": _polygon(3, math.pi / 2, 1.35),
    "triangle-left": _polygon(3, -math.pi / 2, 1.35),
    "plus": _PLUS,
    "cross": [((x - y) * 0.71, (x + y) * 0.71) for x, y in _PLUS],
    "hexagon": _polygon(6, 0.0),
    "pentagon": _polygon(5, 0.0),
}
"""The corners of every marker but the circle, for a radius of 1."""
