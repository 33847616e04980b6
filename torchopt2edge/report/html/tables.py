"""The tables of the page that the other reports do not have in this form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.html.blocks import Cell, Grid, filled, grid
from torchopt2edge.report.html.facts import entries, mapping, number
from torchopt2edge.report.text import stages as told
from torchopt2edge.report.text.columns import columns
from torchopt2edge.report.text.numbers import count, fixed, signed, significant
from torchopt2edge.report.text.row_view import Line, is_share, metric_title, plain
from torchopt2edge.types import SCHEMES

_MOST = 10


def result(table: Sequence[Line]) -> Grid | None:
    """Return the result table; how a candidate stands is said in words under its name."""
    sound = [line for line in table if not line.failed]
    if not sound:
        return None
    kept = columns(sound)
    rows = tuple((_name(line), *(Cell(column.cell(line)) for column in kept)) for line in sound)
    keys = [column.key for column in kept]
    head = ("candidate", *(column.title for column in kept))
    return Grid(
        "result-table",
        "Every candidate that was measured. In parentheses: 95 % intervals. Ratio: latency "
        "against the winner's, or the fastest's where there is none.",
        head,
        rows,
        frozenset({0}),
        tuple(_tone(line) for line in sound),
        sortable=True,
        ordered=1 + keys.index("latency") if "latency" in keys else -1,
    )


def _name(line: Line) -> Cell:
    return Cell(line.name, f"{line.number}", standing(line), head=True)


def standing(line: Line) -> str:
    """Return how a candidate stands in the race, in words."""
    words = (
        ("★ winner", line.winner),
        ("= tie", line.tied),
        ("reference", line.reference),
        ("Pareto set", line.pareto),
        (f"○ out: {plain(line.rejected)}", line.out),
    )
    return " · ".join([*(word for word, holds in words if holds), *line.flags])


def _tone(line: Line) -> str:
    return "won" if line.winner or line.tied else "lost" if line.out else ""


def chain(stages: Sequence[Mapping[str, Any]], table: Sequence[Line]) -> Grid | None:
    """Return what each stage cost and bought, and after them what each file did.

    A loss of the task metric is counted from the first stage that has one.
    """
    if not stages:
        return None
    metric = table[0].metric if table else ""
    first = next((x for stage in stages if (x := told.quality(stage, metric)) is not None), None)
    title = f"{metric_title(metric)}{' %' if is_share(metric) else ''}"
    head = ["step", "time", "parameters", "MACs", "zeros %", title, "Δ", "file MB", "latency ms"]
    body = [_stage(stage, metric, first) for stage in stages]
    files = sorted((line for line in table if _ships(line)), key=_lineage)
    body += [_file(line, metric, first) for line in files]
    caption = (
        "The stages in the order in which they ran, then the files made from them. Δ: the task "
        "metric against that of the first stage that has one."
    )
    return grid("chain-table", caption, filled([head, *body]))


def _ships(line: Line) -> bool:
    return not line.failed and line.row.backend != "torch"


def _lineage(line: Line) -> tuple[str, int, str]:
    """Put the files of one model together, from float to integers."""
    known = list(SCHEMES)
    scheme = line.row.scheme
    at = known.index(scheme) if scheme in SCHEMES else len(known)
    return str(line.row.facts.get("group") or ""), at, line.row.backend


def _stage(stage: Mapping[str, Any], metric: str, first: float | None) -> list[str]:
    value = told.quality(stage, metric)
    return [
        plain(stage.get("name", "?")),
        told.cost(stage),
        count(told.number(stage, "params")),
        count(told.number(stage, "macs")),
        told.zeros(stage),
        told.quality_text(stage, metric).removesuffix(" %"),
        "" if value is None or first is None else signed(value - first, 2),
        "",
        "",
    ]


def _file(line: Line, metric: str, first: float | None) -> list[str]:
    value = line.get(metric)
    return [
        line.name,
        "",
        count(number(line.row.facts.get("params"))),
        count(number(line.row.facts.get("macs"))),
        "",
        fixed(value, line.places),
        "" if value is None or first is None else signed(value - first, 2),
        significant(line.get("size_mb")),
        significant(line.get("latency_ms")),
    ]


def pruned(stage: Mapping[str, Any], key: str) -> Grid | None:
    """Return the layers that a stage cut, None when it cut none."""
    cut = mapping(mapping(stage.get("facts")).get("channels"))
    rows = [
        [plain(layer), str(pair[0]), str(pair[1]), fixed(100 * pair[1] / pair[0], 0)]
        for layer, pair in cut.items()
        if isinstance(pair, Sequence) and len(pair) == 2 and pair[0]
    ]
    if not rows:
        return None
    head = ["layer", "channels before", "after", "left %"]
    return grid(key, f"Channels of {plain(stage.get('name', '?'))}", [head, *rows])


def cut_said(stage: Mapping[str, Any]) -> str:
    """Return in a sentence what pruning left of the net and what it gave up."""
    facts = mapping(stage.get("facts"))
    search = mapping(facts.get("search"))
    shares = [
        f"{fixed(100 * share, 1)} % of the {name}"
        for key, name in (("macs_share", "MACs"), ("params_share", "parameters"))
        if (share := number(facts.get(key))) is not None
    ]
    said = [f"{' and '.join(shares)} are left."] if shares else []
    lost, step = number(search.get("importance_lost")), number(search.get("round_to"))
    if lost is not None:
        said.append(f"The channels that went held {fixed(100 * lost, 1)} % of the importance.")
    if step is not None and step > 1:
        said.append(f"Widths are multiples of {fixed(step, 0)}.")
    return " ".join(said)


def profile(line: Line, key: str) -> Grid | None:
    """Return the costliest operators of one candidate, None when nobody profiled it."""
    found = entries(line.row.facts.get("profile"))[:_MOST]
    if not found:
        return None
    rows = tuple(
        (
            Cell(plain(one.get("name", "?")), head=True),
            Cell(plain(one.get("type", ""))),
            Cell(significant(number(one.get("ms")))),
            Cell(fixed(number(one.get("share")), 1), share=number(one.get("share"))),
        )
        for one in found
    )
    caption = f"The costliest operators of {line.name}"
    head = ("operator", "type", "ms", "share %")
    return Grid(key, caption, head, rows, frozenset({0, 1}))


def placement(table: Sequence[Line]) -> Grid | None:
    """Return where the nodes of each file run, None when nobody looked."""
    sound = [x for x in table if not x.failed and mapping(x.row.facts.get("placement"))]
    if not sound:
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
    caption = "Where the nodes of each file run. What falls back leaves the fast path."
    cells = filled([head, *(_placed(line) for line in sound)])
    made = grid("placement-table", caption, cells)
    text = {i for i, title in enumerate(cells[0]) if title in ("candidate", "falls back")}
    return Grid(made.key, made.caption, made.head, made.rows, frozenset(text))


def _placed(line: Line) -> list[str]:
    facts = mapping(line.row.facts.get("placement"))
    shares = [fixed(number(facts.get(name)), 1) for name in ("nodes", "macs")]
    names = ("partitions", "unfused_qdq", "transposes")
    counts = [fixed(number(facts.get(name)), 0) for name in names]
    back = sorted(mapping(facts.get("fallback")).items(), key=lambda item: str(item[0]))
    fallen = ", ".join(f"{plain(number_)} {plain(kind)}" for kind, number_ in back)
    return [line.name, *shares, *counts, fallen or ("none" if "fallback" in facts else "")]
