"""A comparison of two runs as people read it: on a terminal, in a pull request, in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge.report.console import GAP, grid, say
from torchopt2edge.report.diff.compare import Against
from torchopt2edge.report.diff.text import DATA, LIMITS, MARKDOWN, PAGE, cells, headline, winners
from torchopt2edge.report.markdown import fill
from torchopt2edge.report.run_folder import put
from torchopt2edge.report.text.row_view import plain

if TYPE_CHECKING:
    from rich.console import Console

_EXPENDABLE = ("memory MB", "file MB", "latency ms")  # what goes first on a narrow terminal
_CHANGES = ("Δ points", "Δ")
_NAME, _WORDS = 28, 16  # what the first and the last column may ask for


def render_markdown(against: Against) -> str:
    """Return ``against.md``, for a comment on a pull request."""
    return fill(
        "diff/against.md.jinja",
        titles=against.titles,
        headline=headline(against),
        winners=winners(against),
        against=against,
        table=cells(against),
        limits=LIMITS,
    )


def render_console(console: Console, against: Against) -> None:
    """Print the comparison, in plain text where the console is not a terminal."""
    rows, hidden = _fitted(cells(against), console.width)
    last = len(rows[0]) - 1
    console.print(grid(rows, left={0, last}, whole=range(1, last)))
    if hidden:
        say(console, f"not shown at this width: {', '.join(hidden)}", "dim")
    console.print()
    style = "bold red" if against.broken else "bold yellow" if against.strict else "bold green"
    say(console, headline(against), style)
    for said in against.broken:
        say(console, f"  ✗ {plain(said)}", "red")
    for said in against.strict:
        say(console, f"  ? {plain(said)}", "yellow")
    say(console, f"  · {winners(against)}")
    for warning in against.warnings:
        say(console, f"  ! {plain(warning)}", "yellow")


def _fitted(rows: Sequence[Sequence[str]], width: int) -> tuple[list[list[str]], list[str]]:
    """Drop columns that a decision can do without until the table fits; say which."""
    from rich.cells import cell_len

    kept, hidden = [list(row) for row in rows], list[str]()
    beside = [rows[0][at - 1] for at, title in enumerate(rows[0]) if title in _CHANGES]
    for title in (*_EXPENDABLE, *beside):  # the task metric itself; how it changed stays
        widths = [max(map(cell_len, column)) + GAP for column in zip(*kept, strict=True)]
        if sum(widths[1:-1]) + min(widths[0], _NAME) + min(widths[-1], _WORDS) <= width:
            break
        if title in kept[0]:
            at = kept[0].index(title)
            kept = [row[:at] + row[at + 1 :] for row in kept]
            hidden.append(title)
    return kept, hidden


def write(out: Path, against: Against) -> None:
    """Write ``against.json``, ``against.md`` and ``against.html``, each whole or not at all.

    Raises:
        ConfigError: the folder cannot be written.
    """
    from torchopt2edge.report.html.diff import render_html

    put(
        out,
        {
            DATA: against.to_json(),
            MARKDOWN: render_markdown(against),
            PAGE: render_html(against),
        },
    )
