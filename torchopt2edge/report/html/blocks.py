"""What a section of the page is made of: plain values that the template knows how to write."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torchopt2edge.report.html.svg.canvas import Canvas
from torchopt2edge.report.text.row_view import plain

_NUMBER = re.compile(r"[+\-\u2212]?(?:\d+(?:\.\d+)?|∞)")
_ENDS = re.compile(r" \([^()]+–[^()]+\)$")
_SIZES = {"k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    kind: ClassVar[str] = "prose"
    text: str


@dataclass(frozen=True)
class Items:
    """A list; an item is what it is about ("" for nothing) and what is said."""

    kind: ClassVar[str] = "items"
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Links:
    """Pages to go on to, each a text and where it leads."""

    kind: ClassVar[str] = "links"
    label: str
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """Text to copy into a terminal."""

    kind: ClassVar[str] = "code"
    label: str
    text: str


@dataclass(frozen=True)
class Cell:
    """One cell: its text, what stands before and under it, and a bar of ``share`` per cent."""

    text: str
    before: str = ""
    under: str = ""
    share: float | None = None
    head: bool = False

    @property
    def value(self) -> str:
        """The number that the cell is sorted by, "" for a text."""
        return sort_value(self.text)

    @property
    def parts(self) -> tuple[str, str]:
        """The value and its interval, "" without one: a phone gives that a line of its own."""
        found = _ENDS.search(self.text)
        return (self.text[: found.start()], found.group()) if found else (self.text, "")


@dataclass(frozen=True)
class Grid:
    """A table; ``left`` columns hold text, ``tones`` says how each row stands in the race."""

    kind: ClassVar[str] = "grid"
    key: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: frozenset[int] = frozenset({0})
    tones: tuple[str, ...] = ()
    sortable: bool = False
    ordered: int = -1


@dataclass(frozen=True)
class Figure:
    """A drawing for a wide page and for a phone; the style sheet shows one of them."""

    kind: ClassVar[str] = "figure"
    wide: str
    narrow: str
    caption: str


@dataclass(frozen=True)
class Fold:
    """Blocks behind a line that opens them."""

    kind: ClassVar[str] = "fold"
    label: str
    blocks: tuple[Block, ...]
    open: bool = False


Block = Prose | Items | Links | Code | Grid | Figure | Fold


@dataclass(frozen=True)
class Section:
    """A heading and what is under it; ``key`` is its anchor."""

    key: str
    title: str
    blocks: tuple[Block, ...]


def sort_value(text: str) -> str:
    """Return the number a cell begins with, "" when it does not: "2.23 M" is 2230000."""
    found = _NUMBER.match(text.strip())
    if found is None:
        return ""
    rest = text.strip()[found.end() :].strip()
    number = found.group().replace("\u2212", "-").replace("∞", "inf")
    return f"{float(number) * _SIZES.get(rest, 1.0):g}"


def section(key: str, title: str, blocks: Sequence[Block | None]) -> Section | None:
    """Return a section of the blocks that there are, None without any."""
    kept = tuple(block for block in blocks if block is not None)
    return Section(key, title, kept) if kept else None


def listed(said: Sequence[str]) -> Items | None:
    """Return a list of sentences, None without any."""
    return Items(tuple(("", plain(one)) for one in said)) if said else None


def grid(key: str, caption: str, cells: Sequence[Sequence[str]], left: int = 1) -> Grid:
    """Return a table of plain cells, its header first; the first ``left`` columns are text."""
    rows = tuple(tuple(Cell(text, head=not i) for i, text in enumerate(r)) for r in cells[1:])
    return Grid(key, caption, tuple(cells[0]), rows, frozenset(range(left)))


def filled(cells: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the cells without the columns that nothing fills; header first."""
    kept = [i for i in range(len(cells[0])) if any(row[i] for row in cells[1:])]
    return [[row[i] for i in kept] for row in cells]


def figure(
    key: str, title: str, says: str, draw: Callable[[bool], Canvas], caption: str = ""
) -> Figure:
    """Draw twice: for a page and for a phone, on which a shrunk drawing cannot be read.

    ``says`` is what the drawing tells, for who cannot see it.
    """
    wide, narrow = (
        draw(is_wide).finish(f"{key}-{'wide' if is_wide else 'narrow'}", title, says)
        for is_wide in (True, False)
    )
    return Figure(wide, narrow, caption)
