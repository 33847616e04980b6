"""Two runs on several devices as people read it: a terminal, a pull request, a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge.report.console import grid, say, taken
from torchopt2edge.report.diff import write as diff_write
from torchopt2edge.report.diff.devices import Across
from torchopt2edge.report.diff.devices_text import LIMITS, about, cells, headline, unsaid
from torchopt2edge.report.diff.text import DATA, MARKDOWN, PAGE, winners
from torchopt2edge.report.markdown import fill
from torchopt2edge.report.run_folder import put
from torchopt2edge.report.text.row_view import plain

if TYPE_CHECKING:
    from rich.console import Console


def render_markdown(across: Across) -> str:
    """Return the ``against.md`` above the devices, for a comment on a pull request."""
    return fill(
        "diff/across.md.jinja",
        titles=across.titles,
        headline=headline(across),
        across=across,
        apart=unsaid(across),
        table=cells(across),
        about=about(across),
        folders=[one.folder for one, _ in across.compared],
        limits=LIMITS,
    )


def render_console(console: Console, across: Across) -> None:
    """Print the comparison, in plain text where the console is not a terminal."""
    wide = cells(across)
    narrow = taken(wide) > console.width
    console.print(grid(cells(across, narrow=True) if narrow else wide))
    if narrow:
        say(console, "not shown at this width: the intervals", "dim")
    console.print()
    style = "bold red" if across.broken else "bold yellow" if across.strict else "bold green"
    say(console, headline(across), style)
    for said in across.broken:
        say(console, f"  ✗ {plain(said)}", "red")
    for said in (*across.strict, *unsaid(across)):
        say(console, f"  ? {plain(said)}", "yellow")
    for one, found in across.compared:
        say(console, f"  · {plain(one.device)}: {winners(found)}")
    for warning in across.warnings:
        say(console, f"  ! {warning}", "yellow")


def write(out: Path, across: Across) -> None:
    """Write ``against.json``, ``against.md`` and ``against.html``, and those of every device.

    A device's lie in its folder under ``out``, each whole or not at all.

    Raises:
        ConfigError: a folder cannot be written.
    """
    from torchopt2edge.report.html.diff_devices import render_html

    for one, found in across.compared:
        diff_write.write(out / one.folder, found)
    put(
        out,
        {
            DATA: across.to_json(),
            MARKDOWN: render_markdown(across),
            PAGE: render_html(across),
        },
    )
