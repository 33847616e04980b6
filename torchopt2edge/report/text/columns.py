"""The columns of the result table, shared by the terminal and the Markdown report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torchopt2edge.report.text.numbers import fixed, interval, signed, significant, spread, times
from torchopt2edge.report.text.row_view import Line, is_share, metric_title

Cell = Callable[[Line], str]


@dataclass(frozen=True)
class Column:
    """One column: its name, its cell for a line, and a narrower cell where there is one."""

    key: str
    title: str
    cell: Cell
    narrow: Cell | None = None


def columns(table: Sequence[Line]) -> list[Column]:
    """Return the columns in which at least one line has something to say."""
    metric = table[0].metric if table else ""
    every = [*_task(metric), *_latency(), *_cost(), *_likeness()]
    return [column for column in every if any(column.cell(line) for line in table)]


def _task(metric: str) -> list[Column]:
    if not metric:
        return []

    def wide(line: Line) -> str:
        ends = line.get(f"{metric}_low"), line.get(f"{metric}_high")
        return spread(line.get(metric), *ends, line.places)

    return [
        Column(
            "metric",
            f"{metric_title(metric)}{' %' if is_share(metric) else ''}",
            wide,
            lambda line: fixed(line.get(metric), line.places),
        ),
        Column(
            "change",
            "Δ points" if is_share(metric) else "Δ",
            lambda line: signed(line.change, line.places),
        ),
    ]


def _latency() -> list[Column]:
    def wide(line: Line) -> str:
        ends = line.get("latency_low_ms"), line.get("latency_high_ms")
        return interval(line.get("latency_ms"), *ends)

    return [
        Column("latency", "latency ms", wide, lambda line: significant(line.get("latency_ms"))),
        Column("ratio", "ratio", lambda line: times(line.ratio[0]) if line.ratio else ""),
        Column("p90", "p90 ms", lambda line: significant(line.get("p90_ms"))),
    ]


def _cost() -> list[Column]:
    return [
        Column("size", "file MB", lambda line: significant(line.get("size_mb"))),
        Column("gzip", "gzip MB", lambda line: significant(line.get("gzip_mb"))),
        Column("zeros", "zeros %", _zeros),
        Column("memory", "memory MB", lambda line: significant(line.get("memory_mb"))),
    ]


def _zeros(line: Line) -> str:
    """Return the share of zero weights where somebody has made them zero."""
    share = line.row.facts.get("zeros")
    return fixed(float(share), 1) if isinstance(share, int | float) and share >= 5 else ""


def _likeness() -> list[Column]:
    return [
        Column("sqnr", "SQNR dB", lambda line: fixed(line.get("sqnr_db"), 1)),
        Column("agreement", "agree %", lambda line: fixed(line.get("agreement"), 1)),
        Column("here", "as here %", _as_here),
    ]


def _as_here(line: Line) -> str:
    """Return on how much of the samples another machine answered as this one does."""
    share = line.row.facts.get("host_agreement")
    return fixed(float(share), 1) if isinstance(share, int | float) else ""
