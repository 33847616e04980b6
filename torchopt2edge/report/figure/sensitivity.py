"""What quantizing each operator costs at the model's output, the most sensitive first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchopt2edge.report.figure.axis import Axis, padded
from torchopt2edge.report.figure.canvas import Canvas
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.lanes import DrawLane, Lane, LaneChart
from torchopt2edge.report.figure.legend import LegendEntry
from torchopt2edge.report.text.facts import decibel, finite_number, mappings
from torchopt2edge.report.text.numbers import fixed
from torchopt2edge.report.text.row_view import plain

_MOST = 30
_ALONE, _REST = "mark c-blue", "mark hollow c-vermillion"


def sensitivity_chart(key: str, decision: Mapping[str, Any]) -> Figure | None:
    """Draw the sensitivity of a model's operators.

    Args:
        key: The figure's key.
        decision: How the model was quantized: its ``group``, its ranking ``sensitivity``, and
            the SQNR ``ranked_db`` with all operators in int8.

    Returns:
        The figure, or None where no operator was ranked.
    """
    ranking = mappings(decision.get("sensitivity"))
    ops = [op for op in ranking[:_MOST] if finite_number(op.get("only_db")) is not None]
    if not ops:
        return None
    whole = finite_number(decision.get("ranked_db"))
    values = [finite_number(op.get(name)) for op in ops for name in ("only_db", "without_db")]
    known = [value for value in (*values, whole) if value is not None]
    model = plain(decision.get("group") or "")
    return LaneChart(
        key,
        f"Quantization error of each operator{f' of {model}' if model else ''}",
        [Lane(_name(op), _draw(op), _note(op)) for op in ops],
        lambda left, right: padded(known, left, right, 0.04),
        "SQNR at the output (dB); right is better",
        notes_title="only it / all but it, dB",
        guides=[] if whole is None else [(whole, "dashed")],
        legend=[
            LegendEntry("only it in int8", _ALONE, "circle"),
            LegendEntry("all but it in int8", _REST, "circle"),
        ],
        height=(20.0, 12.0),
        caption=_caption(whole, len(ranking)),
    ).figure()


def _caption(whole: float | None, count: int) -> str:
    parts = [
        "The further left a dot, the more this operator alone costs; the further right a ring, "
        "the more is won by leaving it in float.",
        "" if whole is None else "Dashed: all in int8.",
        f"The {_MOST} most sensitive of {count} operators." if count > _MOST else "",
    ]
    return " ".join(part for part in parts if part)


def _name(op: Mapping[str, Any]) -> str:
    return plain(f"{op.get('op', '?')} {op.get('op_type', '')}")


def _note(op: Mapping[str, Any]) -> str:
    values = (fixed(decibel(op.get(name)), 1) or "–" for name in ("only_db", "without_db"))
    return " / ".join(values)


def _draw(op: Mapping[str, Any]) -> DrawLane:
    marks = [
        (finite_number(op.get("without_db")), _REST),
        (finite_number(op.get("only_db")), _ALONE),
    ]

    def draw(canvas: Canvas, axis: Axis, y: float) -> None:
        canvas.path([(axis.start, y), (axis.end, y)], "grid")
        for value, kind in marks:
            if value is not None:
                canvas.mark("circle", axis.at(value), y, 4.0, kind)

    return draw
