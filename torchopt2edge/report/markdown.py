"""``report.md``, for a pull request: the verdict first, then the evidence and its limits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.run_figures import MAIN, sensitivity_key
from torchopt2edge.report.figure.standalone import file_name
from torchopt2edge.report.run_report import RunReport
from torchopt2edge.report.text import stages as stage_text
from torchopt2edge.report.text.columns import table_columns
from torchopt2edge.report.text.method import limits, method
from torchopt2edge.report.text.numbers import count
from torchopt2edge.report.text.quantization import file_content, file_notes, quantization_texts
from torchopt2edge.report.text.row_view import RowView, metric_title, plain
from torchopt2edge.report.text.verdict_text import reasons, warnings

_SPECIAL = re.compile(r"([\\`*_\[\]#|~$])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escape(text: object) -> str:
    """Return text that Markdown and HTML show as it is, in a table cell too.

    Args:
        text: Any value; its ``str`` is used.

    Returns:
        The text on one line, its special characters escaped.
    """
    shown = "".join(_HTML.get(char, char) for char in plain(text))
    # An entity is shown and is never read as a URL scheme, so no bare link can form either.
    return _SPECIAL.sub(r"\\\1", shown).replace("://", "&#58;//").replace("@", "&#64;")


def fence(text: object) -> str:
    """Return a code block that its own text cannot close.

    Args:
        text: Lines to type into a terminal.

    Returns:
        The block.
    """
    body = "\n".join(plain(line) for line in str(text).splitlines())
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", body)), default=0))
    return f"{ticks}bash\n{body}\n{ticks}"


def picture(figure: Figure) -> str:
    """Return the link that shows a figure's file.

    Args:
        figure: The figure.

    Returns:
        The link, with the figure's title as alternative text.
    """
    return f"![{escape(figure.title)}]({file_name(figure)})"


def fill(template: str, **values: Any) -> str:
    """Fill a template.

    Args:
        template: Its file name; text in it goes through the filters ``md``, ``fence`` and
            ``picture``.
        **values: What it shows.

    Returns:
        The Markdown.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # The escaping is done here: the text is Markdown, in which HTML's escaping is not enough.
    jinja = Environment(
        loader=PackageLoader("torchopt2edge.report", ""),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    jinja.filters.update(md=escape, fence=fence, picture=picture)
    return jinja.get_template(template).render(**values)


def render(report: RunReport) -> str:
    """Return ``report.md``.

    Args:
        report: The run's content.

    Returns:
        The Markdown.
    """
    views, figures = report.views, report.figures
    others = [
        figure
        for key, figure in figures.items()
        if key not in MAIN and not key.startswith("sensitivity")
    ]
    return fill(
        "report.md.jinja",
        title=report.title,
        headline=report.headline,
        reasons=reasons(report.headline, report.verdict),
        table=_result_cells(views),
        main_figures=[figures[key] for key in MAIN if key in figures],
        other_figures=others,
        stages=_stage_cells(report.stages, report.metric),
        method=method(views, report.environment),
        file_content=file_content(views),
        file_notes=file_notes(views),
        models=_models(report),
        failed=[view for view in views if view.failed],
        rejected=[view for view in views if view.rejected],
        warnings=[*stage_text.warnings(report.stages), *warnings(views, report.verdict)],
        limits=limits(views),
        command=report.environment.get("command"),
    )


def _models(report: RunReport) -> list[dict[str, object]]:
    texts = quantization_texts(report.decisions)
    return [
        {"text": text, "figure": report.figures.get(sensitivity_key(at))}
        for at, text in enumerate(texts, 1)
    ]


def _result_cells(views: Sequence[RowView]) -> list[list[str]]:
    """Return the cells of the result table, its header first."""
    sound = [view for view in views if not view.failed]
    columns = table_columns(sound)
    head = ["#", "candidate", *(column.title for column in columns), "note"]
    body = [
        [
            str(view.number),
            f"{view.mark} {view.name}",
            *(column.cell(view) for column in columns),
            view.note,
        ]
        for view in sound
    ]
    return [head, *body] if body else []


def _stage_cells(stages: Sequence[Mapping[str, Any]], metric: str) -> list[list[str]]:
    """Return the cells of the stages table, without empty columns."""
    if not stages:
        return []
    head = ["stage", "time", "parameters", "MACs", "zeros %", metric_title(metric)]
    body = [
        [
            str(stage.get("name", "?")),
            stage_text.time_text(stage),
            count(stage_text.number(stage, "params")),
            count(stage_text.number(stage, "macs")),
            stage_text.zeros(stage),
            stage_text.quality_text(stage, metric),
        ]
        for stage in stages
    ]
    kept = [at for at in range(len(head)) if any(cells[at] for cells in body)]
    return [[cells[at] for at in kept] for cells in (head, *body)]
