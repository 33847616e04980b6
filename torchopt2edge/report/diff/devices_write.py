"""Prints and writes a comparison of two runs on several devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge.report.console import grid, grid_width, say
from torchopt2edge.report.diff import write as diff_write
from torchopt2edge.report.diff.devices import DevicesDiff
from torchopt2edge.report.diff.devices_text import (
    LIMITS,
    cells,
    device_cells,
    headline,
    other_not_compared,
)
from torchopt2edge.report.diff.figures import devices_diff_figures
from torchopt2edge.report.diff.text import DATA, MARKDOWN, PAGE, winners
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.standalone import figure_files
from torchopt2edge.report.markdown import fill
from torchopt2edge.report.run_folder import put
from torchopt2edge.report.text.row_view import plain

if TYPE_CHECKING:
    from rich.console import Console


def render_markdown(diff: DevicesDiff, figures: Mapping[str, Figure]) -> str:
    """Return the ``against.md`` above the devices, for a comment on a pull request.

    Args:
        diff: The comparison.
        figures: Its figures by their keys.

    Returns:
        The Markdown.
    """
    return fill(
        "diff/across.md.jinja",
        diff=diff,
        headline=headline(diff),
        not_compared=other_not_compared(diff),
        table=cells(diff),
        figures=list(figures.values()),
        devices=device_cells(diff),
        folders=[device.folder for device, _ in diff.compared],
        limits=LIMITS,
    )


def render_console(console: Console, diff: DevicesDiff) -> None:
    """Print the comparison, in plain text where the console is not a terminal.

    Args:
        console: Where to print.
        diff: The comparison.
    """
    wide = cells(diff)
    narrow = grid_width(wide) > console.width
    console.print(grid(cells(diff, narrow=True) if narrow else wide))
    if narrow:
        say(console, "not shown at this width: the intervals", "dim")
    console.print()
    diff_write.say_outcome(console, headline(diff), diff.broken, diff.strict)
    for sentence in other_not_compared(diff):
        say(console, f"  ? {plain(sentence)}", "yellow")
    for device, each in diff.compared:
        say(console, f"  · {plain(device.device)}: {winners(each)}")
    for warning in diff.warnings:
        say(console, f"  ! {warning}", "yellow")


def write(out: Path, diff: DevicesDiff) -> None:
    """Write the comparison above the devices, and that of every device in its own folder.

    Args:
        out: The folder, made when absent; each file appears whole or not at all.
        diff: The comparison.

    Raises:
        ConfigError: A folder cannot be written.
    """
    from torchopt2edge.report.html.diff_devices import render_html

    for device, each in diff.compared:
        diff_write.write(out / device.folder, each)
    figures = devices_diff_figures(diff)
    put(
        out,
        {
            DATA: diff.to_json(),
            **figure_files(figures.values()),
            MARKDOWN: render_markdown(diff, figures),
            PAGE: render_html(diff, figures),
        },
    )
