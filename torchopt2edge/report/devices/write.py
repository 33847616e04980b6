"""Several devices side by side as people read it: on a terminal, in a pull request, in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge.report.console import grid, say, taken
from torchopt2edge.report.devices.table import LIMITS, Side, flips, headline, notes
from torchopt2edge.report.devices.text import about, cells, failures
from torchopt2edge.report.markdown import fill
from torchopt2edge.report.run_folder import VERDICT, put

if TYPE_CHECKING:
    from rich.console import Console

MARKDOWN, PAGE = "report.md", "report.html"


def render_markdown(side: Side) -> str:
    """Return ``report.md``, for a comment on a pull request."""
    return fill(
        "devices/side.md.jinja",
        title=side.title or "torchopt2edge",
        headline=headline(side),
        flips=flips(side),
        table=cells(side) if side.candidates else [],
        failures=[f"{what}: {why}" for what, why in failures(side)],
        about=about(side),
        reports=[column.folder for column in side.used],
        notes=notes(side),
        limits=LIMITS,
        command=side.command,
    )


def render_console(console: Console, side: Side) -> None:
    """Print the devices side by side, in plain text where the console is not a terminal."""
    wide = cells(side)
    narrow = taken(wide) > console.width
    shown = cells(side, narrow=True) if narrow else wide
    if side.candidates:
        console.print(grid(shown))
        if narrow:
            say(console, "not shown at this width: the intervals", "dim")
        console.print()
    say(console, headline(side), "bold green" if side.pick else "bold yellow")
    for said in flips(side):
        say(console, f"  · {said}")
    for what, why in failures(side):
        say(console, f"  ✗ {what}: {why}", "red")
    for said in notes(side):
        say(console, f"  ! {said}", "yellow")


def write(out: Path, side: Side) -> None:
    """Write ``verdict.json``, ``report.md`` and ``report.html``, each whole or not at all.

    Raises:
        ConfigError: the folder cannot be written.
    """
    from torchopt2edge.report.html.devices import render_html

    put(
        out,
        {
            VERDICT: side.to_json(),
            MARKDOWN: render_markdown(side),
            PAGE: render_html(side),
        },
    )
