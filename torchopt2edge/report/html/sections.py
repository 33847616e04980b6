"""The sections of a run's page, top to bottom. One without content is absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.figure.bars import startup_cells
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.run_figures import sensitivity_key
from torchopt2edge.report.figure.scatter import tradeoff_title
from torchopt2edge.report.html.blocks import (
    Block,
    Code,
    Details,
    ItemList,
    Paragraph,
    Section,
    Table,
    item_list,
    section,
    table,
    without_empty_columns,
)
from torchopt2edge.report.html.tables import (
    placement_table,
    profile_table,
    pruned_table,
    pruning_sentence,
    result_table,
    stages_table,
)
from torchopt2edge.report.run_report import RunReport
from torchopt2edge.report.text import stages as stage_text
from torchopt2edge.report.text.facts import mapping, mappings
from torchopt2edge.report.text.method import limits, method, value_text
from torchopt2edge.report.text.quantization import (
    file_content,
    file_notes,
    operator_cells,
    quantization_texts,
)
from torchopt2edge.report.text.row_view import RowView, is_percent, metric_title, plain
from torchopt2edge.report.text.verdict_text import warnings

_LONG = 12  # rows; a longer table is folded
_RENDER = "torchopt2edge report run=FOLDER"


def sections(report: RunReport) -> list[Section | None]:
    """Return the sections of a run's page.

    Args:
        report: The run's content.

    Returns:
        The sections in order; None for one without content.
    """
    views, stages = report.views, report.stages

    def drawn(*keys: str) -> list[Figure | None]:
        return [report.figures.get(key) for key in keys]

    return [
        section("warnings", "Warnings", _warnings(report)),
        section("result", "Result", [result_table(views), *_failed(views)]),
        section("trade-off", tradeoff_title(report.metric), drawn("trade-off")),
        section("latency", "Latency", drawn("latency")),
        section("distribution", "Distribution of the latencies", drawn("distribution")),
        section("rounds", "Rounds over time", drawn("rounds")),
        section("sustained-run", "Sustained speed", drawn("sustained")),
        section("accuracy", _quality_title(report.metric), drawn("accuracy")),
        section("start-up", "Start-up", [*drawn("start-up"), _startup(views)]),
        section("file-size", "File size", drawn("file-size")),
        section("memory", "Memory", drawn("memory")),
        section("energy", "Energy", drawn("energy")),
        section("placement", "Placement", _placement(views)),
        section("operators", "Slowest operators", _profiles(views)),
        section("quantization", "Quantization", _quantization(report)),
        section("pruning", "Pruning", _pruning(stages)),
        section("stages", "Cost and result of each stage", [stages_table(stages, views)]),
        section("environment", "Environment", _environment(views, report.environment)),
        section("reproduce", "How to reproduce", _commands(report.environment)),
        section("limits", "Limits of this report", [item_list(limits(views))]),
    ]


def _warnings(report: RunReport) -> list[Block | None]:
    own = stage_text.warnings(report.stages)
    return [item_list([*own, *warnings(report.views, report.verdict)])]


def _failed(views: Sequence[RowView]) -> list[Block | None]:
    failed = tuple((view.name, f"failed: {view.error}") for view in views if view.failed)
    return [ItemList(failed)] if failed else []


def _quality_title(metric: str) -> str:
    return f"{'Accuracy' if is_percent(metric) else 'Task metric'}: {metric_title(metric)}"


def _startup(views: Sequence[RowView]) -> Table | None:
    cells = startup_cells(views)
    if len(cells) < 2:
        return None
    caption = "The parts of a start, and the latency after it."
    return table("startup-table", caption, without_empty_columns(cells))


def _placement(views: Sequence[RowView]) -> list[Block | None]:
    placement = placement_table(views)
    content = _other_columns(file_content(views), placement.head[1:] if placement else ())
    caption = "What the files hold, read back from each; an empty cell does not apply there."
    left = 2 if content and content[0][1] == "ranges" else 1
    return [
        placement,
        table("content-table", caption, content, left) if content else None,
        item_list(file_notes(views)),
    ]


def _other_columns(cells: Sequence[Sequence[str]], shown: Sequence[str]) -> list[list[str]]:
    """Return the columns that another table does not show, without empty rows."""
    kept = [i for i, title in enumerate(cells[0]) if title not in shown] if cells else []
    rows = [[row[i] for i in kept] for row in cells]
    full = [row for row in rows if any(row[1:])]
    return full if len(full) > 1 else []


def _profiles(views: Sequence[RowView]) -> list[Block | None]:
    """Return a table for each profiled candidate, the winner's open and first."""
    ordered = sorted(views, key=lambda view: (not view.winner, not view.tied, view.number))
    tables = [
        (view, profile)
        for view in ordered
        if not view.failed and (profile := profile_table(view, f"profile-{view.number}"))
    ]
    return [Details(view.name, (each,), open=not i) for i, (view, each) in enumerate(tables)]


def _quantization(report: RunReport) -> list[Block | None]:
    texts = quantization_texts(report.decisions)
    blocks: list[Block | None] = []
    for at, (decision, text) in enumerate(zip(report.decisions, texts, strict=True), 1):
        sentences = (*text.sentences, *(f"Lint: {lint}" for lint in text.lints))
        blocks.append(ItemList(tuple((text.model, sentence) for sentence in sentences)))
        ranking = mappings(decision.get("sensitivity"))
        if not ranking:
            continue
        key = sensitivity_key(at)
        blocks.append(report.figures.get(key))
        model = f" of {text.model}" if text.model else ""
        cells = without_empty_columns(operator_cells(ranking))
        caption = f"Quantization error of each operator{model}"
        blocks.append(_folded(table(f"{key}-table", caption, cells, 2), "operators"))
    return blocks


def _folded(whole: Table, what: str) -> Block:
    """Return the table, folded when it is long."""
    count = len(whole.rows)
    return Details(f"Table of all {count} {what}", (whole,)) if count > _LONG else whole


def _pruning(stages: Sequence[Mapping[str, Any]]) -> list[Block | None]:
    blocks: list[Block | None] = []
    for at, stage in enumerate(stages):
        pruned = pruned_table(stage, f"pruned-{at}")
        kept = mapping(mapping(stage.get("facts")).get("kept"))
        sentence = pruning_sentence(stage) if pruned or kept else ""
        if sentence:
            blocks.append(Paragraph(f"{plain(stage.get('name', '?'))}: {sentence}"))
        if pruned:
            blocks.append(_folded(pruned, "layers that were pruned"))
        if kept:
            reasons = ItemList(tuple((plain(layer), plain(why)) for layer, why in kept.items()))
            blocks.append(Details(f"Layers that were not pruned ({len(kept)})", (reasons,)))
    return blocks


def _environment(views: Sequence[RowView], environment: Mapping[str, Any]) -> list[Block | None]:
    rows = [[what, how] for what, how in method(views, {})]
    known = {what for what, _ in rows}
    for key, value in environment.items():
        name = plain(key).replace("_", " ")
        if key == "command":
            continue
        if isinstance(value, Mapping):
            rows += [
                [f"{name}: {plain(k).replace('_', ' ')}", value_text(v)] for k, v in value.items()
            ]
        elif name not in known:
            rows.append([name, value_text(value)])
    rows = [[what, plain(how)] for what, how in rows if how != ""]
    caption = "How and where it was measured"
    return [table("environment-table", caption, [["what", "how"], *rows], 2)] if rows else []


def _commands(environment: Mapping[str, Any]) -> list[Block | None]:
    command = environment.get("command")
    if not command:
        return []
    text = "\n".join(map(str, command)) if isinstance(command, list | tuple) else str(command)
    return [
        Code("The run", "\n".join(plain(line) for line in text.splitlines())),
        Code("This page again, from the data of the run", _RENDER),
    ]
