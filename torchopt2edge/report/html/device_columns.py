"""What the pages above several devices share: a table with a column per device, and the devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchopt2edge.report.html.blocks import (
    Cell,
    Links,
    Section,
    Table,
    section,
    table,
    without_empty_columns,
)
from torchopt2edge.report.text.row_view import plain


def device_columns(
    devices: Sequence[str], cells: Mapping[str, Sequence[Cell]], caption: str, first: str | None
) -> Table:
    """Return a table with one column per device.

    Args:
        devices: The columns' headings.
        cells: The cells of each candidate.
        caption: What the table shows.
        first: The candidate whose row stands out, None for none.

    Returns:
        The table.
    """
    rows = tuple((Cell(plain(name), head=True), *each) for name, each in cells.items())
    row_classes = tuple("chosen" if name == first else "" for name in cells)
    head = ("candidate", *map(plain, devices))
    return Table("result-table", caption, head, rows, row_classes=row_classes, sortable=True)


def devices_section(
    cells: Sequence[Sequence[str]], caption: str, label: str, pages: Mapping[str, str]
) -> Section | None:
    """Return the section on the devices.

    Args:
        cells: One device a row, header first.
        caption: What the table shows.
        label: What stands before the links.
        pages: The address of each device's own page.

    Returns:
        The section.
    """
    about = table("devices-table", caption, without_empty_columns(cells), 3)
    links = Links(label, tuple((plain(name), page) for name, page in pages.items()))
    return section("devices", "Devices", [about, links if pages else None])
