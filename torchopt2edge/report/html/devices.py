"""``report.html`` above several devices: all of them in one file that makes no request."""

from __future__ import annotations

from collections.abc import Mapping

from torchopt2edge.report.devices.figures import RATIO, RATIO_TITLE
from torchopt2edge.report.devices.table import (
    LIMITS,
    DeviceRun,
    DeviceTable,
    flips,
    headline,
    notes,
)
from torchopt2edge.report.devices.text import device_cells, failures, latency_text
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.html.blocks import (
    Block,
    Cell,
    Code,
    ItemList,
    Paragraph,
    Section,
    item_list,
    section,
)
from torchopt2edge.report.html.device_columns import device_columns, devices_section
from torchopt2edge.report.html.tables import role
from torchopt2edge.report.html.template import fill
from torchopt2edge.report.text.row_view import RowView, plain


def render_html(table: DeviceTable, figures: Mapping[str, Figure]) -> str:
    """Return the page.

    Args:
        table: The run.
        figures: Its figures by their keys.

    Returns:
        The HTML; equal input gives equal text.
    """
    return fill(
        headline(table),
        title=plain(table.title) or "torchopt2edge",
        reasons=flips(table),
        sections=_sections(table, figures),
        footer="The devices as data are in `verdict.json`, beside this file; every sample is in "
        "`rows.jsonl` of each device's folder.",
    )


def _sections(table: DeviceTable, figures: Mapping[str, Figure]) -> list[Section | None]:
    failed = ItemList(tuple(failures(table)))
    reports = {run.device: f"{run.folder}/report.html" for run in table.measured}
    return [
        section("warnings", "Notes", [item_list(notes(table))]),
        section(
            "result",
            "Latency of every file on every device",
            [_table(table), failed if failed.items else None],
        ),
        section("ratio", RATIO_TITLE, [figures.get(RATIO)]),
        devices_section(
            device_cells(table), "The devices and their verdicts", "The report of each", reports
        ),
        section("reproduce", "How to reproduce", [_command(table)]),
        section("limits", "Limits of this report", [item_list(LIMITS)]),
    ]


def _command(table: DeviceTable) -> Block | None:
    return Code("The run", plain(table.command)) if table.command else None


def _table(table: DeviceTable) -> Block | None:
    """Return one candidate a row and one device a column; a file's role is said in words."""
    if not table.candidates:
        return Paragraph("No device measured anything.")
    cells = {
        name: [_cell(run, run.views.get(name)) for run in table.runs] for name in table.candidates
    }
    caption = "Median latency in milliseconds. In parentheses: 95 % intervals."
    return device_columns([run.title for run in table.runs], cells, caption, table.common_winner)


def _cell(run: DeviceRun, view: RowView | None) -> Cell:
    if view is None:
        return Cell("", under="not made there" if run.verdict else "not used")
    if view.failed:
        return Cell("", under="✗ failed")
    rejected = "○ rejected" if view.rejected else ""
    return Cell(latency_text(view), under=rejected or role(view).replace(" · Pareto set", ""))
