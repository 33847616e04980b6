"""The columns of the result table, shared by the terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torchopt2edge.report.text.numbers import (
    fixed,
    fixed_interval,
    interval,
    signed,
    significant,
    times,
)
from torchopt2edge.report.text.row_view import RowView, is_percent, metric_title

CellText = Callable[[RowView], str]


@dataclass(frozen=True)
class TableColumn:
    """One column of the result table.

    Attributes:
        key: What the code calls it.
        title: Its heading.
        cell: Returns the text of its cell in a row.
        narrow: Returns a shorter text for a narrow terminal, None where there is none.
    """

    key: str
    title: str
    cell: CellText
    narrow: CellText | None = None


def table_columns(views: Sequence[RowView]) -> list[TableColumn]:
    """Return the columns of the result table.

    Args:
        views: The rows to show.

    Returns:
        The columns in which at least one row has a value.
    """
    metric = views[0].metric if views else ""
    columns = [*_task_columns(metric), *_latency_columns(), *_cost_columns(), *_parity_columns()]
    return [column for column in columns if any(column.cell(view) for view in views)]


def _task_columns(metric: str) -> list[TableColumn]:
    if not metric:
        return []
    percent = is_percent(metric)
    return [
        TableColumn(
            "metric",
            f"{metric_title(metric)}{' %' if percent else ''}",
            lambda view: fixed_interval(view.value(metric), *view.ends(metric), view.decimals),
            lambda view: fixed(view.value(metric), view.decimals),
        ),
        TableColumn(
            "change",
            "Δ points" if percent else "Δ",
            lambda view: signed(view.change, view.decimals),
        ),
    ]


def _latency_columns() -> list[TableColumn]:
    return [
        TableColumn("latency", "latency ms", _latency, _number("latency_ms")),
        TableColumn("ratio", "ratio", lambda view: times(view.ratio[0]) if view.ratio else ""),
        TableColumn("p90", "p90 ms", _number("p90_ms")),
    ]


def _latency(view: RowView) -> str:
    return interval(view.value("latency_ms"), *view.ends("latency_ms"))


def _number(metric: str) -> CellText:
    return lambda view: significant(view.value(metric))


def _cost_columns() -> list[TableColumn]:
    return [
        TableColumn("size", "file MB", _number("size_mb")),
        TableColumn("gzip", "gzip MB", _number("gzip_mb")),
        TableColumn("zeros", "zeros %", _zeros),
        TableColumn("memory", "memory MB", _number("memory_mb")),
    ]


def _zeros(view: RowView) -> str:
    """Return the share of zero weights where it shows that a model was made sparse."""
    share = view.row.facts.get("zeros")
    return fixed(float(share), 1) if isinstance(share, int | float) and share >= 5 else ""


def _parity_columns() -> list[TableColumn]:
    return [
        TableColumn("sqnr", "SQNR dB", lambda view: fixed(view.value("sqnr_db"), 1)),
        TableColumn("agreement", "agree %", lambda view: fixed(view.value("agreement"), 1)),
        TableColumn("host", "as host %", _host_agreement),
    ]


def _host_agreement(view: RowView) -> str:
    """Return on how many of the samples another machine gives the same answer as this one."""
    share = view.row.facts.get("host_agreement")
    return fixed(float(share), 1) if isinstance(share, int | float) else ""
