"""How a candidate looks in every panel: colour says the runtime, marker says the scheme.

Colours are Okabe and Ito's, which people with any colour vision can tell apart.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from torchopt2edge.report.text.row_view import Line, clip, plain

INK, MUTED, FAINT, RULE = "#1f2328", "#5f6770", "#b8bfc6", "#e3e6e9"
_RUNTIMES = {"ort": "#0072B2", "litert": "#D55E00", "torch": "#4d4d4d"}
_OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SCHEMES = {
    "fp32": "o",
    "fp16": "D",
    "int8": "s",
    "int8_dynamic": "^",
    "int8_io": "v",
    "int16x8": "P",
}
_OTHER_MARKERS = ("X", "h", "<", ">", "d", "p")
_NAMES = {"ort": "ONNX Runtime", "litert": "LiteRT", "torch": "PyTorch"}

# What the report's figure needs, whatever the user's own matplotlib settings are.
SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.usetex": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "torchopt2edge",
}


@dataclass(frozen=True)
class Look:
    """The colour of every runtime and the marker of every scheme in one figure."""

    colours: dict[str, str]
    markers: dict[str, str]

    @classmethod
    def of(cls, table: Sequence[Line]) -> Look:
        """Choose for the runtimes and schemes of a run, in order of appearance."""
        rows = [line.row for line in table]
        return cls(
            _choose([row.backend for row in rows], _RUNTIMES, _OTHERS),
            _choose([row.scheme for row in rows], _SCHEMES, _OTHER_MARKERS),
        )

    def colour(self, line: Line) -> str:
        """Return the colour of a line's runtime."""
        return self.colours[line.row.backend]

    def marker(self, line: Line) -> str:
        """Return the marker of a line's scheme."""
        return self.markers[line.row.scheme]


def _choose(names: Sequence[str], known: dict[str, str], others: Sequence[str]) -> dict[str, str]:
    wanted = list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in known]
    extra = {name: others[i % len(others)] for i, name in enumerate(unknown)}
    return {name: (known | extra)[name] for name in wanted}


def runtime_name(backend: str) -> str:
    """Return a runtime's name as people write it."""
    return _NAMES.get(backend, plain(backend))


def literal(text: str, width: int = 44) -> str:
    """Return text that matplotlib draws as it is: no mathematics, no glyph the font lacks."""
    known = _glyphs()
    shown = "".join(char if ord(char) in known else "□" for char in plain(text))
    return clip(shown, width).replace("$", r"\$")


@functools.cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
