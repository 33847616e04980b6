"""What quantizing each operator alone costs at the output, drawn; the costliest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.html.blocks import Figure, figure
from torchopt2edge.report.html.facts import decibel, number
from torchopt2edge.report.html.svg.axis import span
from torchopt2edge.report.html.svg.canvas import Canvas
from torchopt2edge.report.html.svg.lanes import Lane, Sheet
from torchopt2edge.report.text.numbers import count, fixed
from torchopt2edge.report.text.row_view import plain

_MOST = 30
_ALONE, _REST = "c0072b2", "cd55e00"
_HEAD = "alone / all but it, dB"


def ladder(key: str, ranking: Sequence[Mapping[str, Any]], whole: object) -> Figure | None:
    """Return the drawing of a model's ranking, None where it holds no number.

    ``whole`` is the SQNR with every operator in int8, when it is known.
    """
    drawn = [one for one in ranking[:_MOST] if number(one.get("only_db")) is not None]
    if not drawn:
        return None
    line = number(whole)
    names = [Lane(f"{plain(one.get('op', '?'))}", _pair(one)) for one in drawn]

    def draw(wide: bool) -> Canvas:
        sheet = Sheet.of(names, wide, 20.0 if wide else 12.0, _HEAD)
        found = [number(one.get(name)) for one in drawn for name in ("only_db", "without_db")]
        values = [value for value in (*found, line) if value is not None]
        axis = span(values, sheet.left, sheet.right, 0.04)
        canvas = sheet.canvas(axis, "SQNR at the output (dB); right is better", _HEAD)
        if line is not None:
            sheet.rule(canvas, axis.at(line), "onset")
        for at, one in enumerate(drawn):
            y = sheet.middle(at)
            alone, rest = number(one.get("only_db")), number(one.get("without_db"))
            canvas.path([(sheet.left, y), (sheet.right, y)], "grid")
            if rest is not None:
                canvas.mark("o", axis.at(rest), y, 4.0, f"mark hollow {_REST}")
            if alone is not None:
                canvas.mark("o", axis.at(alone), y, 4.0, f"mark {_ALONE}")
        return canvas

    said = "; ".join(f"{lane.name} {lane.note}" for lane in names[:10])
    more = f" The {_MOST} costliest of {len(ranking)}." if len(ranking) > _MOST else ""
    whole_said = " Dashed: all in int8." if line is not None else ""
    caption = f"Dot: it alone in int8. Ring: all in int8 but it.{whole_said}{more}"
    return figure(key, "Quantization error of each operator", said, draw, caption)


def cells(ranking: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the ranking as cells; header first."""
    head = ["operator", "kind", "MACs", "dB, it alone in int8", "dB, all in int8 but it"]
    body = [
        [
            plain(one.get("op", "?")),
            plain(one.get("op_type", "")),
            count(number(one.get("macs"))),
            fixed(decibel(one.get("only_db")), 1),
            fixed(decibel(one.get("without_db")), 1),
        ]
        for one in ranking
    ]
    return [head, *body]


def _pair(one: Mapping[str, Any]) -> str:
    values = (fixed(decibel(one.get(name)), 1) or "–" for name in ("only_db", "without_db"))
    return " / ".join(values)
