"""Every figure of a run, drawn once for the page and for the files beside ``report.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.figure.bars import AMOUNTS, amount_chart, metric_chart, startup_chart
from torchopt2edge.report.figure.distribution import distribution_chart
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.latency import latency_chart
from torchopt2edge.report.figure.scatter import tradeoff_chart
from torchopt2edge.report.figure.sensitivity import sensitivity_chart
from torchopt2edge.report.figure.style import CandidateStyle
from torchopt2edge.report.figure.timeline import rounds_chart, sustained_chart
from torchopt2edge.report.text.row_view import RowView

MAIN = ("trade-off", "latency", "file-size")
"""The figures that ``report.md`` shows below its table; the others follow further down."""


def run_figures(
    views: Sequence[RowView], decisions: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    """Draw the figures of a run.

    Args:
        views: The run's rows.
        decisions: How its models were quantized.

    Returns:
        The figures by their keys, in reading order, without those that have nothing to show;
        ``sensitivity-N`` is of the N-th decision, from 1.
    """
    style = CandidateStyle.of(views)
    figures = [
        tradeoff_chart(views, style),
        latency_chart(views, style),
        distribution_chart(views, style),
        rounds_chart(views, style),
        sustained_chart(views, style),
        metric_chart(views, style),
        startup_chart(views),
        *(amount_chart(views, style, amount) for amount in AMOUNTS),
        *(sensitivity_chart(sensitivity_key(at), x) for at, x in enumerate(decisions, 1)),
    ]
    return {figure.key: figure for figure in figures if figure is not None}


def sensitivity_key(number: int) -> str:
    """Return the key of a model's sensitivity figure.

    Args:
        number: The position of its decision, from 1.

    Returns:
        The key.
    """
    return f"sensitivity-{number}"
