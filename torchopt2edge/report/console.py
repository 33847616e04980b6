"""The result on a terminal: one table that fits its width, then the verdict."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from torchopt2edge.errors import MEND
from torchopt2edge.report.text.columns import Column, columns
from torchopt2edge.report.text.quantization import notes
from torchopt2edge.report.text.row_view import Line, lines, plain
from torchopt2edge.report.text.verdict_text import headline, reasons
from torchopt2edge.types import Measurement, Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# What goes first when the terminal is narrow; the rest is what a decision needs.
_EXPENDABLE = ("here", "agreement", "sqnr", "memory", "p90")
_NARROWED = ("metric", "latency")
_LAST_TO_GO = ("size", "change", "ratio")
_NOTE = 28  # a note that has less room than this reads better below the table
_NAME = 28  # what the candidate's column may ask for on a narrow terminal
GAP = 2  # between two columns
_MOST_OF_A_NOTE = 160
_LEAST_OF_AN_ERROR = 100  # what happened keeps so much beside a mend of any length
_MOST_REASONS = 6
_MOST_REMARKS = 4  # the report has all of them


def show(console: Console, rows: Sequence[Measurement], verdict: Verdict) -> None:
    """Print the rows and the verdict, in plain text where the console is not a terminal."""
    table = lines(rows, verdict)
    if table:
        kept, hidden, beside = _fit(columns(table), table, console.width)
        console.print(_table(table, kept, beside, _name_width(table, console.width)))
        if not beside:
            _notes(console, table)
        if hidden:
            say(console, f"not shown at this width: {', '.join(hidden)}", "dim")
    console.print()
    said = headline(rows, verdict)
    why = reasons(said, verdict)
    say(console, said, "bold green" if verdict.winner else "bold yellow")
    for reason in why[:_MOST_REASONS]:
        say(console, f"  · {plain(reason)}")
    if len(why) > _MOST_REASONS:
        say(console, f"  · and {len(why) - _MOST_REASONS} more in the report")
    for warning in verdict.warnings:
        say(console, f"  ! {plain(warning)}", "yellow")
    for note in notes(table)[:_MOST_REMARKS]:
        say(console, f"  ! {_clipped(note)}", "yellow")


def grid(
    rows: Sequence[Sequence[str]], left: Container[int] = (0,), whole: Container[int] = ()
) -> Table:
    """Return a table of plain cells, its header first.

    Columns in ``left`` hold text, those in ``whole`` are not broken into lines.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for at, title in enumerate(rows[0]):
        table.add_column(
            Text(title),
            justify="left" if at in left else "right",
            no_wrap=at in whole,
            overflow="fold",
        )
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


def taken(rows: Sequence[Sequence[str]]) -> int:
    """Return the width that a table of plain cells asks for; a long name is folded."""
    widths = [max(map(_width, column)) + GAP for column in zip(*rows, strict=True)]
    return min(widths[0], _NAME) + sum(widths[1:])


def say(console: Console, text: str, style: str = "") -> None:
    """Print text as it is: a name may look like markup."""
    from rich.text import Text

    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


def _fit(
    every: Sequence[Column], table: Sequence[Line], width: int
) -> tuple[list[Column], list[str], bool]:
    """Choose the columns that fit; say what was hidden and whether notes stand in the table.

    A column that a decision can do without makes room for the notes; if those do not fit even
    so, they go below the table and the columns get their room back.
    """
    space = width - _name_width(table, width)
    wanted = min(max(_width(line.note) for line in table), _NOTE) + GAP
    kept, hidden = _shrink(every, table, space - wanted, _EXPENDABLE)
    if _taken(kept, table) <= space - wanted:
        return kept, hidden, wanted > GAP
    return *_shrink(every, table, space, (*_EXPENDABLE, *_NARROWED, *_LAST_TO_GO)), False


def _shrink(
    every: Sequence[Column], table: Sequence[Line], space: int, order: Sequence[str]
) -> tuple[list[Column], list[str]]:
    """Narrow or drop columns in that order until the rest fits into the space."""
    kept, hidden = list(every), []
    for key in order:
        if _taken(kept, table) <= space:
            break
        for column in [column for column in kept if column.key == key]:
            if column.narrow is not None:
                kept[kept.index(column)] = Column(column.key, column.title, column.narrow)
                hidden.append(f"interval of {column.title}")
            else:
                kept.remove(column)
                hidden.append(column.title)
    return kept, hidden


def _taken(kept: Sequence[Column], table: Sequence[Line]) -> int:
    return sum(_column_width(column, table) + GAP for column in kept)


def _name_width(table: Sequence[Line], width: int) -> int:
    """Return the width of the first column; a name longer than a third of the table is folded."""
    return min(max(_width(_label(line)) for line in table), max(28, width // 3))


def _label(line: Line) -> str:
    return f"{line.mark} {line.name}"


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _column_width(column: Column, table: Sequence[Line]) -> int:
    return max(_width(column.title), *(_width(column.cell(line)) for line in table))


def _table(table: Sequence[Line], kept: Sequence[Column], notes: bool, width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    out = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    out.add_column("  candidate", overflow="fold", width=width)
    for column in kept:
        out.add_column(column.title, justify="right", no_wrap=True)
    if notes:
        out.add_column("note", overflow="fold", min_width=min(_NOTE, 10))
    for line in table:
        cells = [_label(line), *(column.cell(line) for column in kept)]
        if notes:
            cells.append(_clipped(line.note))
        out.add_row(*(Text(cell) for cell in cells), style=_style(line))
    return out


def _style(line: Line) -> str:
    if line.failed:
        return "red"
    if line.winner or line.tied:
        return "bold green"
    return "dim" if line.out or line.reference else ""


def _clipped(text: str) -> str:
    """Shorten what happened; what mends it stays whole."""
    what, mend, how = text.partition(MEND)
    room = max(_MOST_OF_A_NOTE - len(mend + how), _LEAST_OF_AN_ERROR)
    return text if len(what) <= room else f"{what[: room - 1]}…{mend}{how}"


def _notes(console: Console, table: Sequence[Line]) -> None:
    for line in table:
        if line.note:
            say(console, f"  {line.name}: {_clipped(line.note)}", "red" if line.failed else "dim")
