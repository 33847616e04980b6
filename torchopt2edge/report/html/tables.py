"""The tables of a run's page that the other reports do not have in this form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.html.blocks import Cell, Table, table, without_empty_columns
from torchopt2edge.report.text import stages as stage_text
from torchopt2edge.report.text.columns import table_columns
from torchopt2edge.report.text.facts import finite_number, mapping, mappings
from torchopt2edge.report.text.numbers import count, fixed, signed, significant
from torchopt2edge.report.text.row_view import RowView, is_percent, metric_title, plain
from torchopt2edge.types import BASELINE, SCHEMES

_MOST = 10


def result_table(views: Sequence[RowView]) -> Table | None:
    """Return the result table; a candidate's role stands under its name.

    Args:
        views: The run's rows.

    Returns:
        The table, or None where every row failed.
    """
    sound = [view for view in views if not view.failed]
    if not sound:
        return None
    columns = table_columns(sound)
    keys = [column.key for column in columns]
    return Table(
        "result-table",
        "Every candidate that was measured. In parentheses: 95 % intervals. Ratio: latency "
        "against the winner's, or the fastest's where there is none.",
        ("candidate", *(column.title for column in columns)),
        tuple((_name(view), *(Cell(column.cell(view)) for column in columns)) for view in sound),
        row_classes=tuple(
            "chosen" if v.chosen else "rejected" if v.rejected else "" for v in sound
        ),
        sortable=True,
        ordered=1 + keys.index("latency") if "latency" in keys else -1,
    )


def _name(view: RowView) -> Cell:
    return Cell(view.name, f"{view.number}", role(view), head=True)


def role(view: RowView) -> str:
    """Return a candidate's role in its run.

    Args:
        view: Its row.

    Returns:
        For example "★ winner · Pareto set"; its flags stand last.
    """
    roles = (
        ("★ winner", view.winner),
        ("= tie", view.tied),
        ("reference", view.reference),
        ("Pareto set", view.pareto),
        (f"○ rejected: {plain(view.rejection)}", view.rejected),
    )
    return " · ".join([*(text for text, applies in roles if applies), *view.flags])


def stages_table(stages: Sequence[Mapping[str, Any]], views: Sequence[RowView]) -> Table | None:
    """Return the cost and the result of each stage, and then of each file.

    Args:
        stages: The stages in the order in which they ran.
        views: The run's rows.

    Returns:
        The table, or None without a stage; a change of the task metric is counted from the first
        stage that has one.
    """
    if not stages:
        return None
    metric = views[0].metric if views else ""
    values = (stage_text.quality(stage, metric) for stage in stages)
    first = next((value for value in values if value is not None), None)
    title = f"{metric_title(metric)}{' %' if is_percent(metric) else ''}"
    head = ["step", "time", "parameters", "MACs", "zeros %", title, "Δ", "file MB", "latency ms"]
    files = [view for view in views if not view.failed and view.row.backend != BASELINE]
    body = [_stage_cells(stage, metric, first) for stage in stages]
    body += [_file_cells(view, metric, first) for view in sorted(files, key=_model_then_scheme)]
    caption = (
        "The stages in the order in which they ran, then the files made from them. Δ: the task "
        "metric against that of the first stage that has one."
    )
    return table("stages-table", caption, without_empty_columns([head, *body]))


def _model_then_scheme(view: RowView) -> tuple[str, int, str]:
    """Put the files of one model together, from float to integers."""
    known = list(SCHEMES)
    scheme = view.row.scheme
    at = known.index(scheme) if scheme in SCHEMES else len(known)
    return str(view.row.facts.get("group") or ""), at, view.row.backend


def _stage_cells(stage: Mapping[str, Any], metric: str, first: float | None) -> list[str]:
    value = stage_text.quality(stage, metric)
    return [
        plain(stage.get("name", "?")),
        stage_text.time_text(stage),
        count(stage_text.number(stage, "params")),
        count(stage_text.number(stage, "macs")),
        stage_text.zeros(stage),
        stage_text.quality_text(stage, metric).removesuffix(" %"),
        "" if value is None or first is None else signed(value - first, 2),
        "",
        "",
    ]


def _file_cells(view: RowView, metric: str, first: float | None) -> list[str]:
    value = view.value(metric)
    return [
        view.name,
        "",
        count(finite_number(view.row.facts.get("params"))),
        count(finite_number(view.row.facts.get("macs"))),
        "",
        fixed(value, view.decimals),
        "" if value is None or first is None else signed(value - first, 2),
        significant(view.value("size_mb")),
        significant(view.value("latency_ms")),
    ]


def pruned_table(stage: Mapping[str, Any], key: str) -> Table | None:
    """Return the layers that a stage pruned.

    Args:
        stage: The stage.
        key: The table's key.

    Returns:
        The table, or None where it pruned none.
    """
    channels = mapping(mapping(stage.get("facts")).get("channels"))
    rows = [
        [plain(layer), str(pair[0]), str(pair[1]), fixed(100 * pair[1] / pair[0], 0)]
        for layer, pair in channels.items()
        if isinstance(pair, Sequence) and len(pair) == 2 and pair[0]
    ]
    if not rows:
        return None
    head = ["layer", "channels before", "after", "left %"]
    return table(key, f"Channels of {plain(stage.get('name', '?'))}", [head, *rows])


def pruning_sentence(stage: Mapping[str, Any]) -> str:
    """Return what pruning left of a model, and what it removed.

    Args:
        stage: The stage.

    Returns:
        Sentences, "" where its facts do not tell.
    """
    facts = mapping(stage.get("facts"))
    search = mapping(facts.get("search"))
    shares = [
        f"{fixed(100 * share, 1)} % of the {name}"
        for key, name in (("macs_share", "MACs"), ("params_share", "parameters"))
        if (share := finite_number(facts.get(key))) is not None
    ]
    sentences = [f"{' and '.join(shares)} are left."] if shares else []
    lost, step = finite_number(search.get("importance_lost")), finite_number(search.get("round_to"))
    if lost is not None:
        sentences.append(f"The removed channels held {fixed(100 * lost, 1)} % of the importance.")
    if step is not None and step > 1:
        sentences.append(f"Widths are multiples of {fixed(step, 0)}.")
    return " ".join(sentences)


def profile_table(view: RowView, key: str) -> Table | None:
    """Return the slowest operators of a candidate.

    Args:
        view: Its row.
        key: The table's key.

    Returns:
        The table, or None where it was not profiled.
    """
    ops = mappings(view.row.facts.get("profile"))[:_MOST]
    if not ops:
        return None
    rows = tuple(
        (
            Cell(plain(op.get("name", "?")), head=True),
            Cell(plain(op.get("type", ""))),
            Cell(significant(finite_number(op.get("ms")))),
            Cell(fixed(finite_number(op.get("share")), 1), share=finite_number(op.get("share"))),
        )
        for op in ops
    )
    caption = f"The slowest operators of {view.name}"
    return Table(key, caption, ("operator", "type", "ms", "share %"), rows, frozenset({0, 1}))


def placement_table(views: Sequence[RowView]) -> Table | None:
    """Return where the nodes of each file run.

    Args:
        views: The run's rows.

    Returns:
        The table, or None where it is not known.
    """
    known = [v for v in views if not v.failed and mapping(v.row.facts.get("placement"))]
    if not known:
        return None
    head = [
        "candidate",
        "nodes in the fast path %",
        "MACs in the fast path %",
        "partitions",
        "Q/DQ not fused",
        "transposes",
        "falls back",
    ]
    caption = "Where the nodes of each file run. What falls back runs outside the fast path."
    cells = without_empty_columns([head, *(_placement_cells(view) for view in known)])
    plain_table = table("placement-table", caption, cells)
    text = {i for i, title in enumerate(cells[0]) if title in ("candidate", "falls back")}
    return Table(plain_table.key, caption, plain_table.head, plain_table.rows, frozenset(text))


def _placement_cells(view: RowView) -> list[str]:
    facts = mapping(view.row.facts.get("placement"))
    shares = [fixed(finite_number(facts.get(name)), 1) for name in ("nodes", "macs")]
    names = ("partitions", "unfused_qdq", "transposes")
    counts = [fixed(finite_number(facts.get(name)), 0) for name in names]
    fallback = sorted(mapping(facts.get("fallback")).items(), key=lambda item: str(item[0]))
    ops = ", ".join(f"{plain(number)} {plain(kind)}" for kind, number in fallback)
    return [view.name, *shares, *counts, ops or ("none" if "fallback" in facts else "")]
