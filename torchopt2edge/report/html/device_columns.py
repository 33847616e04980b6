"""What pages above several devices share: a device a column, and who the devices are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchopt2edge.report.html.blocks import Cell, Grid, Links, Section, filled, grid, section
from torchopt2edge.report.text.row_view import plain


def beside(
    devices: Sequence[str], cells: Mapping[str, Sequence[Cell]], caption: str, first: str | None
) -> Grid:
    """Return the table with a device a column; ``cells`` are each candidate's, ``first`` leads."""
    rows = tuple((Cell(plain(name), head=True), *told) for name, told in cells.items())
    tones = tuple("won" if name == first else "" for name in cells)
    head = ("candidate", *map(plain, devices))
    return Grid("result-table", caption, head, rows, tones=tones, sortable=True)


def machines(
    about: Sequence[Sequence[str]], caption: str, label: str, pages: Mapping[str, str]
) -> Section | None:
    """Return the section that tells of each device, with the page of each (device → address)."""
    told = grid("devices-table", caption, filled(about), 3)
    links = Links(label, tuple((plain(name), page) for name, page in pages.items()))
    return section("devices", "Devices", [told, links if pages else None])
