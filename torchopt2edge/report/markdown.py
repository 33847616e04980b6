"""The report for a pull request: verdict first, then the evidence and what limits it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.column import columns
from torchopt2edge.report.line import Line, is_share, lines, metric_title, plain
from torchopt2edge.report.number import count, duration
from torchopt2edge.report.quantization import holds, notes, sections
from torchopt2edge.report.words import headline, reasons
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
        method=_method(table, environment),
        holds=holds(table),
        notes=notes(table),
        decisions=sections(context["decisions"]),
        failed=[line for line in table if line.failed],
        out=[line for line in table if line.out],
        warnings=[*_of_stages(context["stages"]), *_warnings(table, verdict)],
        limits=_limits(table),
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


def _warnings(table: Sequence[Line], verdict: Verdict) -> list[str]:
    """Return the verdict's warnings, then every other flag once with the rows that carry it.

    The harness gives a sentence for a flag in the row's facts; the rows' sentences differ in
    their numbers only, so the first row's stands for all.
    """
    flagged: dict[str, list[Line]] = {}
    for line in table:
        for flag in line.flags:
            flagged.setdefault(flag, []).append(line)
    said = list(verdict.warnings)
    for flag, found in flagged.items():
        if any(warning.startswith(flag) for warning in verdict.warnings):
            continue
        sentence = (found[0].row.facts.get("warnings") or {}).get(flag)
        names = ", ".join(line.name for line in found)
        of = f" (of {found[0].name})" if sentence and len(found) > 1 else ""
        said.append(f"{flag}: {names}" + (f". {sentence}{of}" if sentence else ""))
    return said


def _stages(stages: Sequence[Mapping[str, Any]], metric: str) -> list[list[str]]:
    """Return the cells of the stages table, without the columns that nothing fills."""
    if not stages:
        return []
    head = ["stage", "time", "parameters", "MACs", "zeros %", metric_title(metric)]
    body = [
        [
            str(stage.get("name", "?")),
            _cost(stage),
            count(_number(stage, "params")),
            count(_number(stage, "macs")),
            _zeros(stage),
            _value_of(stage, metric),
        ]
        for stage in stages
    ]
    kept = [i for i in range(len(head)) if any(row[i] for row in body)]
    return [[row[i] for i in kept] for row in (head, *body)]


def _zeros(stage: Mapping[str, Any]) -> str:
    share = _number(stage, "zeros")
    return "" if share is None else f"{100 * share:.1f}"


def _of_stages(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what stages warn of: a teacher that was no help."""
    facts = {str(stage.get("name", "?")): stage.get("facts") or {} for stage in stages}
    return [f"{name}: {one['warning']}" for name, one in facts.items() if one.get("warning")]


def _cost(stage: Mapping[str, Any]) -> str:
    seconds = _number(stage, "seconds")
    return "kept from before" if stage.get("cached") else duration(seconds)


def _value_of(stage: Mapping[str, Any], metric: str) -> str:
    """Return the task metric of a stage's net; a stage may name the split it was taken on."""
    if not metric:
        return ""
    names = (metric, f"{metric}_test", f"{metric}_val")
    known = [value for name in names if (value := _number(stage, name)) is not None]
    return f"{known[0]:.4g}{' %' if is_share(metric) else ''}" if known else ""


def _number(stage: Mapping[str, Any], name: str) -> float | None:
    """Return a number the stage or its facts hold; a text in its place is not one."""
    value = stage.get(name, (stage.get("facts") or {}).get(name))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _method(table: Sequence[Line], environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (what, how) of the measurement, from the receipts and the environment."""
    sound = [line for line in table if not line.failed]
    receipts = [line.row.facts for line in sound]
    said = [
        ("device", _distinct(line.row.device for line in sound)),
        ("protocol", _distinct(line.row.protocol for line in sound)),
        (
            "rounds",
            _span([line.get("rounds") or len(line.row.latency_ns) or None for line in sound]),
        ),
        ("timed inferences", _span([line.get("samples") for line in sound])),
        ("threads", _distinct(facts.get("threads") for facts in receipts)),
        ("runtimes", _distinct(_runtime(facts) for facts in receipts)),
        ("samples of the task metric", _distinct(facts.get("n_eval") for facts in receipts)),
    ]
    known = {what for what, _ in said}
    said += [
        (str(key).replace("_", " "), _value(value))
        for key, value in environment.items()
        if key not in known and key != "command"
    ]
    return [(what, how) for what, how in said if how]


def _runtime(facts: Mapping[str, Any]) -> str:
    return f"{facts.get('runtime') or ''} {facts.get('runtime_version') or ''}".strip()


def _distinct(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value not in (None, "")))


def _span(values: Sequence[float | None]) -> str:
    known = [round(value) for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return f"{low}" if low == high else f"{low} to {high}"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, Mapping) for item in value)
        return ("; " if nested else ", ").join(map(_value, value))
    return "" if value is None else str(value)


def _limits(table: Sequence[Line]) -> list[str]:
    """Return what this report cannot tell; each one only where it holds."""
    said = [
        "A latency holds for this device, these runtime versions and this number of threads. A "
        "desktop or server processor is not a phone: the order of the candidates may differ "
        "there, so measure on the device that you ship to."
    ]
    if table and table[0].metric:
        said.append(
            "The intervals of the task metric come from the samples of this evaluation set; they "
            "say nothing about data from elsewhere."
        )
    said.append(
        "The latency is of one inference after another with the inputs already in memory: the "
        "camera, the decoding and the preparation of the image are outside the clock."
    )
    return said
