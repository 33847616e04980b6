"""The figure of the report: what each candidate costs and what it is worth.

Three panels: latency against the task metric, latency with its distribution, file size. An axis
of bars starts at zero; an axis is logarithmic only where the values span more than a factor of
ten, and says so.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torchopt2edge.report.figure import scatter, strip
from torchopt2edge.report.figure.style import (
    FAINT,
    INK,
    MUTED,
    SETTINGS,
    Look,
    literal,
    runtime_name,
)
from torchopt2edge.report.text.row_view import Line, lines
from torchopt2edge.report.text.verdict_text import headline
from torchopt2edge.types import Measurement, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _TOP, _ROW, _FRAME = 12.0, 4.6, 0.34, 1.1  # inches
_DPI = 150


def draw(rows: Sequence[Measurement], verdict: Verdict, *, title: str) -> dict[str, bytes]:
    """Return ``report.png`` (150 dpi) and ``report.svg``, the same figure twice."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with matplotlib.rc_context(SETTINGS):  # type: ignore[arg-type]
        figure = _figure(lines(rows, verdict), title, headline(rows, verdict))
        png, svg = io.BytesIO(), io.BytesIO()
        # The canvases themselves: savefig lays a figure out again before each drawing.
        FigureCanvasAgg(figure).print_png(png)  # type: ignore[no-untyped-call]
        undated = {"Date": None}  # same rows, same bytes
        FigureCanvasSVG(figure).print_svg(svg, metadata=undated)  # type: ignore[no-untyped-call]
    return {"report.png": png.getvalue(), "report.svg": svg.getvalue()}


def _figure(table: Sequence[Line], title: str, said: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bottom = _FRAME + _ROW * max(1, len(table))
    figure = Figure(figsize=(_WIDTH, _TOP + bottom), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    figure.suptitle(literal(title, 110), x=0.008, ha="left", fontsize=13, fontweight="bold")
    upper, lower = figure.subfigures(2, 1, height_ratios=[_TOP, bottom])  # type: ignore[misc]
    wrapped = "\n".join(textwrap.wrap(literal(said, 400), 150))
    upper.suptitle(wrapped, x=0.008, ha="left", fontsize=9.5, color=MUTED)
    look = Look.of(table)
    plane, key = upper.subplots(1, 2, width_ratios=[5, 1])
    latency, size = lower.subplots(1, 2, width_ratios=[2.2, 1], sharey=True)
    label = scatter.draw(plane, table, look)
    _key(key, table, look)
    strip.latency(latency, table, look)
    strip.size(size, table, look)
    if any(line.get("latency_ms") is not None for line in table):
        lower.supxlabel(strip.KEY, x=0.008, ha="left", fontsize=8.5, color=MUTED)
    figure.draw_without_rendering()  # the layout is known only now; labels go into what is free
    figure.set_layout_engine("none")
    label()
    return figure


def _key(axes: Axes, table: Sequence[Line], look: Look) -> None:
    """Say once what colours, markers and signs mean."""
    from matplotlib.lines import Line2D

    def handle(text: str, **style: Any) -> Line2D:
        return Line2D([], [], label=text, **({"linestyle": "none", "color": MUTED} | style))

    sizes = any(line.get("size_mb") is not None for line in table)
    stairs = sum(line.pareto for line in table) > 1
    ring = {"markerfacecolor": "none", "markeredgecolor": INK, "markersize": 10}
    hollow = {"marker": "o", "markerfacecolor": "white", "markeredgecolor": MUTED, "markersize": 6}
    every = [
        *(
            handle(literal(runtime_name(name), 20), marker="o", markersize=7, color=colour)
            for name, colour in look.colours.items()
        ),
        handle(" "),
        *(
            handle(literal(name, 20), marker=marker, markersize=6)
            for name, marker in look.markers.items()
        ),
        handle(" "),
        *([handle("winner", marker="o", **ring)] if any(x.winner for x in table) else []),
        *([handle("tie", marker="o", **ring)] if any(x.tied for x in table) else []),
        *([handle("out of the race", **hollow)] if any(x.out for x in table) else []),
        *([handle("Pareto front", linestyle="-", linewidth=1.4)] if stairs else []),
        handle("95 % interval", linestyle="-", linewidth=1.2, color=FAINT),
        *([handle("area: file size", marker="$\u25cb$", markersize=9)] if sizes else []),
    ]
    axes.axis("off")
    axes.legend(
        handles=every,
        loc="upper left",
        bbox_to_anchor=(-0.12, 1.0),
        frameon=False,
        fontsize=8.5,
        labelspacing=0.45,
        handlelength=1.6,
        borderaxespad=0,
    )
