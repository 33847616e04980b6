"""Prints and writes a comparison of two runs: a terminal, a pull request, a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge.report.console import GAP, grid, say
from torchopt2edge.report.diff.compare import RunDiff
from torchopt2edge.report.diff.figures import diff_figures
from torchopt2edge.report.diff.text import DATA, LIMITS, MARKDOWN, PAGE, cells, headline, winners
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.standalone import figure_files
from torchopt2edge.report.markdown import fill
from torchopt2edge.report.run_folder import put
from torchopt2edge.report.text.row_view import plain

if TYPE_CHECKING:
    from rich.console import Console

_HIDDEN_FIRST = ("memory MB", "file MB", "latency ms")  # on a narrow terminal
_DIFFERENCES = ("Δ points", "Δ")
_NAME, _WHAT = 28, 16  # the least that the first and the last column need


def render_markdown(diff: RunDiff, figures: Mapping[str, Figure]) -> str:
    """Return ``against.md``, for a comment on a pull request.

    Args:
        diff: The comparison.
        figures: Its figures by their keys.

    Returns:
        The Markdown.
    """
    return fill(
        "diff/against.md.jinja",
        diff=diff,
        headline=headline(diff),
        winners=winners(diff),
        table=cells(diff),
        figures=list(figures.values()),
        limits=LIMITS,
    )


def render_console(console: Console, diff: RunDiff) -> None:
    """Print the comparison, in plain text where the console is not a terminal.

    Args:
        console: Where to print.
        diff: The comparison.
    """
    rows, hidden = _fit(cells(diff), console.width)
    last = len(rows[0]) - 1
    console.print(grid(rows, left={0, last}, whole=range(1, last)))
    if hidden:
        say(console, f"not shown at this width: {', '.join(hidden)}", "dim")
    console.print()
    say_outcome(console, headline(diff), diff.broken, diff.strict)
    say(console, f"  · {winners(diff)}")
    for warning in diff.warnings:
        say(console, f"  ! {plain(warning)}", "yellow")


def say_outcome(
    console: Console, text: str, broken: Sequence[str], open_points: Sequence[str]
) -> None:
    """Print the headline of a comparison, what broke, and what is not proven.

    Args:
        console: Where to print.
        text: The headline.
        broken: Sentences on what became worse.
        open_points: Sentences on what could not be decided.
    """
    style = "bold red" if broken else "bold yellow" if open_points else "bold green"
    say(console, text, style)
    for sentence in broken:
        say(console, f"  ✗ {plain(sentence)}", "red")
    for sentence in open_points:
        say(console, f"  ? {plain(sentence)}", "yellow")


def _fit(rows: Sequence[Sequence[str]], width: int) -> tuple[list[list[str]], list[str]]:
    """Drop columns that a decision does not need until the table fits; return the hidden ones."""
    from rich.cells import cell_len

    kept, hidden = [list(row) for row in rows], list[str]()
    # Beside a difference the metric itself can go.
    metrics = [rows[0][at - 1] for at, title in enumerate(rows[0]) if title in _DIFFERENCES]
    for title in (*_HIDDEN_FIRST, *metrics):
        widths = [max(map(cell_len, column)) + GAP for column in zip(*kept, strict=True)]
        if sum(widths[1:-1]) + min(widths[0], _NAME) + min(widths[-1], _WHAT) <= width:
            break
        if title in kept[0]:
            at = kept[0].index(title)
            kept = [row[:at] + row[at + 1 :] for row in kept]
            hidden.append(title)
    return kept, hidden


def write(out: Path, diff: RunDiff) -> None:
    """Write ``against.json``, ``against.md``, ``against.html`` and the figures.

    Args:
        out: The folder, made when absent; each file appears whole or not at all.
        diff: The comparison.

    Raises:
        ConfigError: The folder cannot be written.
    """
    from torchopt2edge.report.html.diff import render_html

    figures = diff_figures(diff)
    put(
        out,
        {
            DATA: diff.to_json(),
            **figure_files(figures.values()),
            MARKDOWN: render_markdown(diff, figures),
            PAGE: render_html(diff, figures),
        },
    )
