"""What every report of a run shows, computed once for the page, Markdown and their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.run_figures import run_figures
from torchopt2edge.report.text.facts import mapping, mappings
from torchopt2edge.report.text.row_view import RowView, row_views
from torchopt2edge.report.text.verdict_text import headline
from torchopt2edge.types import Measurement, Verdict


@dataclass(frozen=True)
class RunReport:
    """A run as its reports show it.

    Attributes:
        verdict: The verdict.
        title: The run's title.
        stages: Its stages, as in ``context.json``.
        environment: How and where it was measured, as in ``context.json``.
        decisions: How its models were quantized, as in ``context.json``.
        views: Its rows in reading order.
        headline: The one sentence to read first.
        figures: Its figures by their keys.
    """

    verdict: Verdict
    title: str
    stages: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    decisions: Sequence[Mapping[str, Any]]
    views: Sequence[RowView]
    headline: str
    figures: Mapping[str, Figure]

    @classmethod
    def of(
        cls, rows: Sequence[Measurement], verdict: Verdict, context: Mapping[str, Any]
    ) -> RunReport:
        """Compute what the reports of a run show.

        Args:
            rows: Its rows.
            verdict: The verdict over them.
            context: What ``context.json`` holds.

        Returns:
            The report's content.
        """
        views = row_views(rows, verdict)
        decisions = mappings(context["decisions"])
        return cls(
            verdict,
            str(context["title"]),
            mappings(context["stages"]),
            mapping(context["environment"]),
            decisions,
            views,
            headline(views, verdict),
            run_figures(views, decisions),
        )

    @property
    def metric(self) -> str:
        """The name of the run's task metric, "" without one."""
        return self.views[0].metric if self.views else ""
