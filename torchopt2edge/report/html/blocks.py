"""The blocks that a section of the page is made of: plain values that the template writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.text.row_view import plain

_NUMBER = re.compile(r"[+\-\u2212]?(?:\d+(?:\.\d+)?|∞)")
_INTERVAL = re.compile(r" \([^()]+–[^()]+\)$")
_SIZES = {"k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class ItemList:
    """A list; an item is its subject ("" for none) and a sentence."""

    kind: ClassVar[str] = "items"
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Links:
    """Links to other pages: each a text and an address."""

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
    """One cell of a table.

    Attributes:
        text: Its text.
        before: A number before it.
        under: A line below it.
        share: Per cent, shown as a bar behind it.
        head: Whether it is the heading of its row.
    """

    text: str
    before: str = ""
    under: str = ""
    share: float | None = None
    head: bool = False

    @property
    def value(self) -> str:
        """The number that it is sorted by, "" for a text."""
        return sort_value(self.text)

    @property
    def parts(self) -> tuple[str, str]:
        """Its value, and its interval or "": a phone shows that on a line of its own."""
        match = _INTERVAL.search(self.text)
        return (self.text[: match.start()], match.group()) if match else (self.text, "")


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        key: The id of its caption.
        caption: What it shows.
        head: Its column headings.
        rows: Its rows of cells.
        left: The columns that hold text.
        row_classes: A class for each row: ``chosen``, ``rejected`` or "".
        sortable: Whether a reader may sort it.
        ordered: The column that it is sorted by, -1 for none.
    """

    kind: ClassVar[str] = "table"
    key: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: frozenset[int] = frozenset({0})
    row_classes: tuple[str, ...] = ()
    sortable: bool = False
    ordered: int = -1


@dataclass(frozen=True)
class Details:
    """Blocks that a click on a label shows."""

    kind: ClassVar[str] = "details"
    label: str
    blocks: tuple[Block, ...]
    open: bool = False


Block = Paragraph | ItemList | Links | Code | Table | Figure | Details


@dataclass(frozen=True)
class Section:
    """A heading and the blocks under it; ``key`` is its anchor."""

    key: str
    title: str
    blocks: tuple[Block, ...]


def sort_value(text: str) -> str:
    """Return the number that a cell is sorted by.

    Args:
        text: The cell's text.

    Returns:
        The number that it begins with ("2.23 M" is 2230000), "" without one.
    """
    match = _NUMBER.match(text.strip())
    if match is None:
        return ""
    unit = text.strip()[match.end() :].strip()
    number = match.group().replace("\u2212", "-").replace("∞", "inf")
    return f"{float(number) * _SIZES.get(unit, 1.0):g}"


def section(key: str, title: str, blocks: Sequence[Block | None]) -> Section | None:
    """Return a section.

    Args:
        key: Its anchor.
        title: Its heading.
        blocks: Its blocks; None is left out.

    Returns:
        The section, or None without any block.
    """
    kept = tuple(block for block in blocks if block is not None)
    return Section(key, title, kept) if kept else None


def item_list(sentences: Sequence[str]) -> ItemList | None:
    """Return a list of sentences.

    Args:
        sentences: The sentences.

    Returns:
        The list, or None without any.
    """
    return ItemList(tuple(("", plain(each)) for each in sentences)) if sentences else None


def table(key: str, caption: str, cells: Sequence[Sequence[str]], left: int = 1) -> Table:
    """Return a table of plain cells.

    Args:
        key: The id of its caption.
        caption: What it shows.
        cells: The cells, header first.
        left: How many columns, from the first, hold text.

    Returns:
        The table.
    """
    rows = tuple(tuple(Cell(text, head=not i) for i, text in enumerate(r)) for r in cells[1:])
    return Table(key, caption, tuple(cells[0]), rows, frozenset(range(left)))


def without_empty_columns(cells: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return cells without the columns that are empty in every row.

    Args:
        cells: The cells, header first.

    Returns:
        The other columns.
    """
    kept = [i for i in range(len(cells[0])) if any(row[i] for row in cells[1:])]
    return [[row[i] for i in kept] for row in cells]
