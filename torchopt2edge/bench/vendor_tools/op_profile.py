"""Reads the table of operators that ``benchmark_model --enable_op_profiling=true`` prints.

There are tables for the initialization, the graph, each subgraph and the inside of the delegate.
Columns are told by their heads, which came and went ("[start]" is gone, "[times called]" new).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.bench.vendor_tools.benchmark_model import NAME
from torchopt2edge.bench.vendor_tools.text import nothing, positive, read

_CELLS = re.compile(r"\t\s*|\s{2,}")
_TITLE = "Top by Computation Time"
_SETUP = "Profiling Info for Benchmark Initialization"
_RUNS = "Operator-wise Profiling Info for Regular"
_DELEGATE = "Delegate internal"
_HEADS = {"type": "[node type]", "name": "[Name]", "ms": "[avg ms]", "share": "[%]"}


def table(text: str, *, delegate: bool = False) -> list[dict[str, Any]]:
    """Return the slowest operators of the timed runs, the slowest first.

    Each is ``{"name", "type", "ms", "share"}``: mean milliseconds per run, and per cent of the
    table's total. ``delegate`` asks for the operators inside the delegate, where a graph that was
    taken over as a whole has its time.

    Raises:
        BenchError: there is no such table.
    """
    lines = [line.text for line in read(text)]
    titled = any(_SETUP in each or _RUNS in each for each in lines)  # 2019: one, without a title
    part: Sequence[str] = _behind(_RUNS, lines) if titled else lines
    if delegate:
        part = _behind(_DELEGATE, part)
    rows = _rows(_behind(_TITLE, part))
    if not rows:
        where = "inside the delegate" if delegate else "of the timed runs"
        hint = "run it with --enable_op_profiling=true, and give the whole output"
        raise nothing(NAME, text, f"it printed no table of operators {where}", hint)
    return rows


def _behind(title: str, lines: Sequence[str]) -> Sequence[str]:
    """Return the lines behind the first that holds the title."""
    at = next((at for at, text in enumerate(lines) if title in text), None)
    return [] if at is None else lines[at + 1 :]


def _rows(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Lines in between that are no rows belong to another stream and are passed over."""
    heads: list[str] = []
    rows: list[dict[str, Any]] = []
    for text in lines:
        if text.startswith("=====") or text.startswith("Number of nodes executed"):
            break
        cells = _CELLS.split(text)
        if set(_HEADS.values()) <= set(cells):
            heads = cells
        elif len(cells) == len(heads) and (row := _row(dict(zip(heads, cells, strict=True)))):
            rows.append(row)
    return rows


def _row(cells: Mapping[str, str]) -> dict[str, Any] | None:
    told = {name: cells[head] for name, head in _HEADS.items()}
    if not re.fullmatch(r"\d+\.?\d*", told["ms"]) or not re.fullmatch(r"\d+\.?\d*%", told["share"]):
        return None
    ms, share = positive(told["ms"]), positive(told["share"].rstrip("%"))
    return {"name": told["name"], "type": told["type"], "ms": ms or 0.0, "share": share or 0.0}
