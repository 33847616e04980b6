"""The sensitivity plot: what quantizing each operator alone costs at the output."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.figure.style import INK, MUTED, SETTINGS, literal

NAME = "sensitivity.png"
_MOST = 30
_ROW, _FRAME, _WIDTH = 0.24, 1.5, 9.0  # inches


def draw(decisions: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Return ``sensitivity.png`` (150 dpi), nothing when no model's operators were ranked."""
    ranked = [one for one in decisions if one.get("sensitivity")]
    if not ranked:
        return {}
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [min(_MOST, len(one["sensitivity"])) for one in ranked]
    heights = [_FRAME + _ROW * count for count in rows]
    with matplotlib.rc_context(SETTINGS):  # type: ignore[arg-type]
        figure = Figure(figsize=(_WIDTH, sum(heights)), dpi=150, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        every = figure.subplots(len(ranked), 1, height_ratios=heights, squeeze=False)
        for axes, decision in zip(every[:, 0], ranked, strict=True):
            _panel(axes, decision)
        png = io.BytesIO()
        canvas.print_png(png)  # type: ignore[no-untyped-call]
    return {NAME: png.getvalue()}


def _panel(axes: Any, decision: Mapping[str, Any]) -> None:
    """A dot for the operator alone in int8, a ring for all in int8 but it."""
    found = decision["sensitivity"]
    shown = list(reversed(found[:_MOST]))
    places = range(len(shown))
    axes.plot([x["only_db"] for x in shown], places, "o", color="#0072B2", markersize=5)
    axes.plot(
        [x["without_db"] for x in shown], places, "o", mfc="white", mec="#D55E00", markersize=5
    )
    whole = decision.get("ranked_db")
    if whole is not None:
        axes.axvline(whole, color=MUTED, linewidth=1, linestyle="--")
    axes.set_yticks(places, [literal(f"{x['op']}  {x['op_type']}", 40) for x in shown])
    axes.set_xlabel("SQNR at the output, dB (right is better)")
    group = f"{decision['group']}: " if decision.get("group") else ""
    of = f", the {_MOST} costliest of {len(found)}" if len(found) > _MOST else ""
    axes.set_title(literal(f"{group}sensitivity of the operators{of}", 90), color=INK)
    axes.legend(
        ["it alone in int8", "all in int8 but it", *(["all in int8"] if whole is not None else [])],
        frameon=False,
        fontsize=8,
        loc="best",
    )
    axes.grid(axis="x")
