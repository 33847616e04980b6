"""The result on a terminal: one table that fits its width, then the verdict."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from torchopt2edge.errors import HINT, OLD_HINT
from torchopt2edge.report.text.columns import TableColumn, table_columns
from torchopt2edge.report.text.quantization import file_notes
from torchopt2edge.report.text.row_view import RowView, plain, row_views
from torchopt2edge.report.text.verdict_text import headline, reasons
from torchopt2edge.types import Measurement, Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

GAP = 2
"""Columns of white space between two columns of a table."""

# What is hidden first on a narrow terminal; the rest is what a decision needs.
_HIDDEN_FIRST = ("host", "agreement", "sqnr", "memory", "p90")
_NARROWED = ("metric", "latency")
_HIDDEN_LAST = ("size", "change", "ratio")
_NOTE = 28  # a note with less room than this reads better below the table
_NAME = 28  # what the first column may take of a narrow terminal
_MOST_OF_A_NOTE = 160
_LEAST_OF_AN_ERROR = 100  # what happened keeps so much beside a hint of any length
_MOST_REASONS = 6
_MOST_NOTES = 4  # the report has all of them


def show(console: Console, rows: Sequence[Measurement], verdict: Verdict) -> None:
    """Print the rows and the verdict, in plain text where the console is not a terminal.

    Args:
        console: Where to print.
        rows: The run's rows.
        verdict: The verdict over them.
    """
    views = row_views(rows, verdict)
    if views:
        columns, hidden, notes_inside = _fit(table_columns(views), views, console.width)
        width = _name_width(views, console.width)
        console.print(_table(views, columns, notes_inside, width))
        if not notes_inside:
            _print_notes(console, views)
        if hidden:
            say(console, f"not shown at this width: {', '.join(hidden)}", "dim")
    console.print()
    sentence = headline(views, verdict)
    say(console, sentence, "bold green" if verdict.winner else "bold yellow")
    others = reasons(sentence, verdict)
    for reason in others[:_MOST_REASONS]:
        say(console, f"  · {plain(reason)}")
    if len(others) > _MOST_REASONS:
        say(console, f"  · and {len(others) - _MOST_REASONS} more in the report")
    for warning in verdict.warnings:
        say(console, f"  ! {plain(warning)}", "yellow")
    for note in file_notes(views)[:_MOST_NOTES]:
        say(console, f"  ! {_shortened(note)}", "yellow")


def grid(
    cells: Sequence[Sequence[str]], left: Container[int] = (0,), whole: Container[int] = ()
) -> Table:
    """Return a table of plain cells.

    Args:
        cells: The cells, header first.
        left: The columns that hold text; the others are aligned to the right.
        whole: The columns that are not broken into lines.

    Returns:
        The table.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for at, title in enumerate(cells[0]):
        table.add_column(
            Text(title),
            justify="left" if at in left else "right",
            no_wrap=at in whole,
            overflow="fold",
        )
    for row in cells[1:]:
        table.add_row(*map(Text, row))
    return table


def grid_width(cells: Sequence[Sequence[str]]) -> int:
    """Return the width that a table of plain cells needs.

    Args:
        cells: The cells, header first; a long name in the first column is folded.

    Returns:
        The width in characters.
    """
    widths = [max(map(_width, column)) + GAP for column in zip(*cells, strict=True)]
    return min(widths[0], _NAME) + sum(widths[1:])


def say(console: Console, text: str, style: str = "") -> None:
    """Print text as it is: a name may look like markup.

    Args:
        console: Where to print.
        text: The text.
        style: Its style, as `rich` names them.
    """
    from rich.text import Text

    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


def _fit(
    columns: Sequence[TableColumn], views: Sequence[RowView], width: int
) -> tuple[list[TableColumn], list[str], bool]:
    """Choose the columns that fit; return them, the hidden ones, and whether notes fit inside.

    A column that a decision does not need makes room for the notes; if those do not fit even so,
    they go below the table and the columns get their room back.
    """
    space = width - _name_width(views, width)
    notes = min(max(_width(view.note) for view in views), _NOTE) + GAP
    kept, hidden = _shrink(columns, views, space - notes, _HIDDEN_FIRST)
    if _columns_width(kept, views) <= space - notes:
        return kept, hidden, notes > GAP
    order = (*_HIDDEN_FIRST, *_NARROWED, *_HIDDEN_LAST)
    return *_shrink(columns, views, space, order), False


def _shrink(
    columns: Sequence[TableColumn], views: Sequence[RowView], space: int, order: Sequence[str]
) -> tuple[list[TableColumn], list[str]]:
    """Narrow or drop columns in that order until the rest fits into the space."""
    kept, hidden = list(columns), []
    for key in order:
        if _columns_width(kept, views) <= space:
            break
        for column in [column for column in kept if column.key == key]:
            if column.narrow is not None:
                kept[kept.index(column)] = TableColumn(column.key, column.title, column.narrow)
                hidden.append(f"interval of {column.title}")
            else:
                kept.remove(column)
                hidden.append(column.title)
    return kept, hidden


def _columns_width(columns: Sequence[TableColumn], views: Sequence[RowView]) -> int:
    return sum(
        max(_width(column.title), *(_width(column.cell(view)) for view in views)) + GAP
        for column in columns
    )


def _name_width(views: Sequence[RowView], width: int) -> int:
    """Return the width of the first column; a name longer than a third of the table is folded."""
    return min(max(_width(_label(view)) for view in views), max(28, width // 3))


def _label(view: RowView) -> str:
    return f"{view.mark} {view.name}"


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _table(
    views: Sequence[RowView], columns: Sequence[TableColumn], notes: bool, width: int
) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    table.add_column("  candidate", overflow="fold", width=width)
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    if notes:
        table.add_column("note", overflow="fold", min_width=min(_NOTE, 10))
    for view in views:
        cells = [_label(view), *(column.cell(view) for column in columns)]
        if notes:
            cells.append(_shortened(view.note))
        table.add_row(*(Text(cell) for cell in cells), style=_style(view))
    return table


def _style(view: RowView) -> str:
    if view.failed:
        return "red"
    if view.chosen:
        return "bold green"
    return "dim" if view.rejected or view.reference else ""


def _shortened(text: str) -> str:
    """Shorten what happened; the hint stays whole."""
    what, mark, hint = text.partition(HINT if HINT in text else OLD_HINT)
    room = max(_MOST_OF_A_NOTE - len(mark + hint), _LEAST_OF_AN_ERROR)
    return text if len(what) <= room else f"{what[: room - 1]}…{mark}{hint}"


def _print_notes(console: Console, views: Sequence[RowView]) -> None:
    for view in views:
        if view.note:
            style = "red" if view.failed else "dim"
            say(console, f"  {view.name}: {_shortened(view.note)}", style)
