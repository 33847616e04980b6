"""The sections of the page, top to bottom. One that has nothing to say is absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.figure.style import Look
from torchopt2edge.report.html import tables
from torchopt2edge.report.html.blocks import (
    Block,
    Code,
    Figure,
    Fold,
    Grid,
    Items,
    Prose,
    Section,
    filled,
    grid,
    listed,
    section,
)
from torchopt2edge.report.html.facts import entries, mapping
from torchopt2edge.report.html.svg import bars, distribution, timeline
from torchopt2edge.report.html.svg import scatter as svg_scatter
from torchopt2edge.report.html.svg import sensitivity as svg_sensitivity
from torchopt2edge.report.html.svg.lanes import finite
from torchopt2edge.report.text import quantization, verdict_text
from torchopt2edge.report.text import stages as told
from torchopt2edge.report.text.method import limits, method, value_text
from torchopt2edge.report.text.row_view import Line, is_share, metric_title, plain
from torchopt2edge.types import Verdict

_MANY = 12  # a longer table waits behind a line that opens it
_RENDER = "torchopt2edge report run=FOLDER"


def sections(
    lines: Sequence[Line], verdict: Verdict, context: Mapping[str, Any]
) -> list[Section | None]:
    """Return what the page holds under its headline; ``context`` is ``context.json``'s."""
    look = Look.of(lines)
    stages, decisions = entries(context["stages"]), entries(context["decisions"])
    environment = mapping(context["environment"])
    metric = lines[0].metric if lines else ""
    return [
        section("warnings", "Warnings", _warned(lines, verdict, stages)),
        section("result", "Result", [tables.result(lines), *_failed(lines)]),
        section("trade-off", _plane_title(metric), [svg_scatter.pareto(lines, look)]),
        section("latency", "Latency of every sample", [distribution.distributions(lines, look)]),
        section("rounds", "Round by round", [timeline.traces(lines, look)]),
        section("sustained-run", "Sustained speed", [timeline.sustained(lines, look)]),
        section("accuracy", _quality_title(metric), [bars.quality(lines, look)]),
        section("start-up", "Start-up", _startup(lines)),
        section("file-size", "File size", _amount(lines, look, "size_mb", "MB", "gzip_mb")),
        section("memory", "Memory", _amount(lines, look, "memory_mb", "peak memory (MB)")),
        section("energy", "Energy", _amount(lines, look, "energy_mj", "mJ per inference")),
        section("placement", "Placement", _placement(lines)),
        section("operators", "Costliest operators", _profiles(lines)),
        section("quantization", "Quantization", _quantization(decisions)),
        section("pruning", "Pruning", _pruning(stages)),
        section("stages", "What each stage cost and bought", [tables.chain(stages, lines)]),
        section("environment", "Environment", _environment(lines, environment)),
        section("reproduce", "How to reproduce", _commands(environment)),
        section("limits", "What this cannot tell", [listed(limits(lines))]),
    ]


def _warned(
    lines: Sequence[Line], verdict: Verdict, stages: Sequence[Mapping[str, Any]]
) -> list[Block | None]:
    return [listed([*told.warnings(stages), *verdict_text.warnings(lines, verdict)])]


def _failed(lines: Sequence[Line]) -> list[Block | None]:
    failed = tuple((line.name, f"failed: {line.err}") for line in lines if line.failed)
    return [Items(failed)] if failed else []


def _plane_title(metric: str) -> str:
    return f"Latency against {metric_title(metric) or 'file size'}"


def _quality_title(metric: str) -> str:
    return f"{'Accuracy' if is_share(metric) else 'Task metric'}: {metric_title(metric)}"


def _startup(lines: Sequence[Line]) -> list[Block | None]:
    drawn = bars.startup(lines)
    if drawn is None:
        return []
    caption = "What passes before the first answer, and the latency after it."
    return [drawn, grid("startup-table", caption, filled(bars.steady(lines)))]


def _amount(
    lines: Sequence[Line], look: Look, key: str, title: str, inner: str = ""
) -> list[Figure]:
    known = [line for line in lines if not line.failed and finite(line, key) is not None]
    return [bars.amounts(lines, look, key, title, inner)] if known else []


def _placement(lines: Sequence[Line]) -> list[Block | None]:
    placed = tables.placement(lines)
    said = placed.head[1:] if placed else ()
    holds = _unsaid(quantization.holds(lines), said)
    caption = "What the files hold, read back from each; an empty cell does not apply there."
    return [
        placed,
        grid("holds-table", caption, holds, 2 if holds[0][1] == "ranges" else 1) if holds else None,
        listed(quantization.notes(lines)),
    ]


def _unsaid(cells: Sequence[Sequence[str]], said: Sequence[str]) -> list[list[str]]:
    """Leave out the columns that another table has, and the rows that nothing is left of."""
    kept = [i for i, title in enumerate(cells[0]) if title not in said] if cells else []
    rows = [[row[i] for i in kept] for row in cells]
    full = [row for row in rows if any(row[1:])]
    return full if len(full) > 1 else []


def _profiles(lines: Sequence[Line]) -> list[Block | None]:
    """Return a table for each profiled candidate, the winner's open and first."""
    ordered = sorted(lines, key=lambda line: (not line.winner, not line.tied, line.number))
    found = [
        (line, made)
        for line in ordered
        if not line.failed and (made := tables.profile(line, f"profile-{line.number}"))
    ]
    return [Fold(line.name, (made,), open=not i) for i, (line, made) in enumerate(found)]


def _quantization(decisions: Sequence[Mapping[str, Any]]) -> list[Block | None]:
    bare = [{**one, "sensitivity": ()} for one in decisions]
    blocks: list[Block | None] = []
    for at, (decision, said) in enumerate(zip(decisions, quantization.sections(bare), strict=True)):
        name = said["title"]
        told = (*said["said"], *(f"Worth knowing: {lint}" for lint in said["lints"]))
        blocks.append(Items(tuple((name, one) for one in told)))
        ranking = entries(decision.get("sensitivity"))
        if not ranking:
            continue
        key = f"sensitivity-{at}"
        blocks.append(svg_sensitivity.ladder(key, ranking, decision.get("ranked_db")))
        of = f" of {name}" if name else ""
        cells = filled(svg_sensitivity.cells(ranking))
        made = grid(f"{key}-table", f"Quantization error of each operator{of}", cells, 2)
        blocks.append(_folded(made, "operators"))
    return blocks


def _folded(made: Grid, what: str) -> Block:
    """Return the table, behind a line when it is long."""
    count = len(made.rows)
    return Fold(f"Table of all {count} {what}", (made,)) if count > _MANY else made


def _pruning(stages: Sequence[Mapping[str, Any]]) -> list[Block | None]:
    blocks: list[Block | None] = []
    for at, stage in enumerate(stages):
        made = tables.pruned(stage, f"pruned-{at}")
        kept = mapping(mapping(stage.get("facts")).get("kept"))
        said = tables.cut_said(stage) if made or kept else ""
        if said:
            blocks.append(Prose(f"{plain(stage.get('name', '?'))}: {said}"))
        if made:
            blocks.append(_folded(made, "layers that were cut"))
        if kept:
            reasons = Items(tuple((plain(layer), plain(why)) for layer, why in kept.items()))
            blocks.append(Fold(f"Layers that stayed whole ({len(kept)})", (reasons,)))
    return blocks


def _environment(lines: Sequence[Line], environment: Mapping[str, Any]) -> list[Block | None]:
    rows = [[what, how] for what, how in method(lines, {})]
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
    return [grid("environment-table", caption, [["what", "how"], *rows], 2)] if rows else []


def _commands(environment: Mapping[str, Any]) -> list[Block | None]:
    command = environment.get("command")
    if not command:
        return []
    text = "\n".join(map(str, command)) if isinstance(command, list | tuple) else str(command)
    return [
        Code("The run", "\n".join(plain(part) for part in text.splitlines())),
        Code("This page again, from the data of the run", _RENDER),
    ]
