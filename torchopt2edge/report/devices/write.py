"""Prints and writes a run on several devices: a terminal, a pull request, a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge.report.console import grid, grid_width, say
from torchopt2edge.report.devices.figures import devices_figures
from torchopt2edge.report.devices.table import LIMITS, DeviceTable, flips, headline, notes
from torchopt2edge.report.devices.text import cells, device_cells, failures
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.standalone import figure_files
from torchopt2edge.report.markdown import fill
from torchopt2edge.report.run_folder import VERDICT, put

if TYPE_CHECKING:
    from rich.console import Console

MARKDOWN, PAGE = "report.md", "report.html"


def render_markdown(table: DeviceTable, figures: Mapping[str, Figure]) -> str:
    """Return ``report.md``, for a comment on a pull request.

    Args:
        table: The run.
        figures: Its figures by their keys.

    Returns:
        The Markdown.
    """
    return fill(
        "devices/side.md.jinja",
        title=table.title or "torchopt2edge",
        headline=headline(table),
        flips=flips(table),
        table=cells(table) if table.candidates else [],
        failures=[f"{what}: {error}" for what, error in failures(table)],
        figures=list(figures.values()),
        devices=device_cells(table),
        reports=[run.folder for run in table.measured],
        notes=notes(table),
        limits=LIMITS,
        command=table.command,
    )


def render_console(console: Console, table: DeviceTable) -> None:
    """Print the devices side by side, in plain text where the console is not a terminal.

    Args:
        console: Where to print.
        table: The run.
    """
    wide = cells(table)
    narrow = grid_width(wide) > console.width
    shown = cells(table, narrow=True) if narrow else wide
    if table.candidates:
        console.print(grid(shown))
        if narrow:
            say(console, "not shown at this width: the intervals", "dim")
        console.print()
    say(console, headline(table), "bold green" if table.common_winner else "bold yellow")
    for sentence in flips(table):
        say(console, f"  · {sentence}")
    for what, error in failures(table):
        say(console, f"  ✗ {what}: {error}", "red")
    for sentence in notes(table):
        say(console, f"  ! {sentence}", "yellow")


def write(out: Path, table: DeviceTable) -> None:
    """Write ``verdict.json``, ``report.md``, ``report.html`` and the figure.

    Args:
        out: The folder, made when absent; each file appears whole or not at all.
        table: The run.

    Raises:
        ConfigError: The folder cannot be written.
    """
    from torchopt2edge.report.html.devices import render_html

    figures = devices_figures(table)
    put(
        out,
        {
            VERDICT: table.to_json(),
            **figure_files(figures.values()),
            MARKDOWN: render_markdown(table, figures),
            PAGE: render_html(table, figures),
        },
    )
