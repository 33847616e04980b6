"""The report for a pull request: verdict first, then the evidence and what limits it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.text import stages as stage
from torchopt2edge.report.text.columns import columns
from torchopt2edge.report.text.method import limits, method
from torchopt2edge.report.text.numbers import count
from torchopt2edge.report.text.quantization import holds, notes, sections
from torchopt2edge.report.text.row_view import Line, lines, metric_title, plain
from torchopt2edge.report.text.verdict_text import headline, reasons, warnings
from torchopt2edge.types import Measurement, Verdict

_SPECIAL = re.compile(r"([\\`*_\[\]#|~$])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escape(text: object) -> str:
    """Return text that Markdown and HTML show as it is, on one line, in a table cell too."""
    shown = "".join(_HTML.get(char, char) for char in plain(text))
    # An entity is shown and is never read as a URL scheme, so no bare link can form either.
    return _SPECIAL.sub(r"\\\1", shown).replace("://", "&#58;//").replace("@", "&#64;")


def fence(text: object) -> str:
    """Return a code block that its own text cannot close."""
    body = "\n".join(plain(part) for part in str(text).splitlines())
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", body)), default=0))
    return f"{ticks}bash\n{body}\n{ticks}"


def fill(template: str, **words: Any) -> str:
    """Return a report in Markdown; names go through the filters ``md`` and ``fence``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Escaping is ours: the text is Markdown, in which HTML's escaping alone is not enough.
    jinja = Environment(
        loader=PackageLoader("torchopt2edge.report", ""),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    jinja.filters.update(md=escape, fence=fence)
    return jinja.get_template(template).render(**words)


def render(rows: Sequence[Measurement], verdict: Verdict, context: Mapping[str, Any]) -> str:
    """Return ``report.md``; ``context`` is what ``context.json`` holds."""
    table = lines(rows, verdict)
    environment = context["environment"]
    said = headline(rows, verdict)
    return fill(
        "report.md.jinja",
        title=context["title"],
        headline=said,
        reasons=reasons(said, verdict),
        table=_result(table),
        stages=_stages(context["stages"], table[0].metric if table else ""),
        method=method(table, environment),
        holds=holds(table),
        notes=notes(table),
        decisions=sections(context["decisions"]),
        failed=[line for line in table if line.failed],
        out=[line for line in table if line.out],
        warnings=[*stage.warnings(context["stages"]), *warnings(table, verdict)],
        limits=limits(table),
        command=environment.get("command"),
    )


def _result(table: Sequence[Line]) -> list[list[str]]:
    """Return the cells of the result table, its header first."""
    sound = [line for line in table if not line.failed]
    kept = columns(sound)
    head = ["candidate", *(column.title for column in kept), "note"]
    body = [
        [f"{line.mark} {line.name}", *(column.cell(line) for column in kept), line.note]
        for line in sound
    ]
    return [head, *body] if body else []


def _stages(stages: Sequence[Mapping[str, Any]], metric: str) -> list[list[str]]:
    """Return the cells of the stages table, without the columns that nothing fills."""
    if not stages:
        return []
    head = ["stage", "time", "parameters", "MACs", "zeros %", metric_title(metric)]
    body = [
        [
            str(one.get("name", "?")),
            stage.cost(one),
            count(stage.number(one, "params")),
            count(stage.number(one, "macs")),
            stage.zeros(one),
            stage.quality_text(one, metric),
        ]
        for one in stages
    ]
    kept = [i for i in range(len(head)) if any(row[i] for row in body)]
    return [[row[i] for i in kept] for row in (head, *body)]
