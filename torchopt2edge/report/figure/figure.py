"""A figure: one chart drawn for a wide page and for a phone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import ClassVar

from torchopt2edge.report.figure.canvas import Canvas, Drawing
from torchopt2edge.report.text.row_view import plain

WIDE_PX, NARROW_PX = 880.0, 332.0
"""How wide a drawing is on a page, and on a phone."""


@dataclass(frozen=True)
class Figure:
    """One chart; a page shows its wide or its narrow drawing, a file holds the wide one.

    Attributes:
        key: Its name in the page's ids and of its file.
        title: What it shows, in few words.
        description: Its content as text, for readers who cannot see it.
        wide: The drawing for a wide page.
        narrow: The drawing for a phone, on which a shrunk wide one cannot be read.
        caption: What its marks mean.
    """

    kind: ClassVar[str] = "figure"
    key: str
    title: str
    description: str
    wide: Drawing
    narrow: Drawing
    caption: str = ""

    @property
    def wide_svg(self) -> str:
        """The wide drawing as an element of a page."""
        return self._inline(self.wide, "wide")

    @property
    def narrow_svg(self) -> str:
        """The narrow drawing as an element of a page."""
        return self._inline(self.narrow, "narrow")

    def _inline(self, drawing: Drawing, form: str) -> str:
        return svg_element(self, drawing, f"{self.key}-{form}", (0.0, 0.0), "")


def svg_element(
    figure: Figure, drawing: Drawing, name: str, margin: tuple[float, float], extra: str
) -> str:
    """Return a drawing as an ``<svg>`` element with its title and description.

    Args:
        figure: The figure that it is of.
        drawing: The drawing.
        name: The prefix of its ids.
        margin: Pixels beside it, and over it.
        extra: Attributes of the element.

    Returns:
        The element.
    """
    side, top = margin
    width, height = drawing.width + 2 * side, drawing.height + top + side
    box = f"{0 - side:g} {0 - top:g} {width:g} {height:g}"
    return (
        f'<svg{extra} role="img" aria-labelledby="{name}-t" aria-describedby="{name}-d" '
        f'viewBox="{box}" width="{width:g}" height="{height:g}">'
        f'<title id="{name}-t">{escape(plain(figure.title))}</title>'
        f'<desc id="{name}-d">{escape(plain(figure.description))}</desc>'
        f"{drawing.body}</svg>"
    )


def draw_figure(
    key: str, title: str, description: str, draw: Callable[[bool], Canvas], caption: str = ""
) -> Figure:
    """Draw a chart in both widths.

    Args:
        key: Its name in the page's ids and of its file.
        title: What it shows, in few words.
        description: Its content as text.
        draw: Draws it; the argument says whether for a wide page.
        caption: What its marks mean.

    Returns:
        The figure.
    """
    return Figure(key, title, description, draw(True).finish(), draw(False).finish(), caption)
