"""How a candidate looks in every chart: the colour names its runtime, the marker its scheme.

The colours are those of Okabe and Ito, which people with any colour vision can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchopt2edge.report.figure.canvas import fit
from torchopt2edge.report.figure.legend import LegendEntry
from torchopt2edge.report.text.row_view import RowView, plain

RUNTIME_COLOURS = {"ort": "c-blue", "litert": "c-vermillion", "torch": "c-grey"}
OTHER_COLOURS = ("c-green", "c-purple", "c-orange", "c-sky")
_SCHEME_MARKERS = {
    "fp32": "circle",
    "fp16": "diamond",
    "int8": "square",
    "int8_dynamic": "triangle-up",
    "int8_io": "triangle-down",
    "int16x8": "plus",
}
_OTHER_MARKERS = (
    "cross",
    "hexagon",
    "triangle-left",
    "triangle-right",
    "thin-diamond",
    "pentagon",
)
_RUNTIME_NAMES = {"ort": "ONNX Runtime", "litert": "LiteRT", "torch": "PyTorch"}


@dataclass(frozen=True)
class CandidateStyle:
    """The colour class of every runtime and the marker of every scheme of a run."""

    colours: Mapping[str, str]
    markers: Mapping[str, str]

    @classmethod
    def of(cls, views: Sequence[RowView]) -> CandidateStyle:
        """Choose colours and markers for a run.

        Args:
            views: Its rows; runtimes and schemes that are not known get theirs in this order.

        Returns:
            The style.
        """
        rows = [view.row for view in views]
        return cls(
            _choose([row.backend for row in rows], RUNTIME_COLOURS, OTHER_COLOURS),
            _choose([row.scheme for row in rows], _SCHEME_MARKERS, _OTHER_MARKERS),
        )

    def colour(self, view: RowView) -> str:
        """Return the colour class of a row's runtime.

        Args:
            view: The row.

        Returns:
            A class of ``figure.css``.
        """
        return self.colours[view.row.backend]

    def marker(self, view: RowView) -> str:
        """Return the marker of a row's scheme.

        Args:
            view: The row.

        Returns:
            A name in `canvas.MARKERS`, or "circle".
        """
        return self.markers[view.row.scheme]

    def legend(self, views: Sequence[RowView]) -> list[LegendEntry]:
        """Return the legend of a chart.

        Args:
            views: The rows that it shows.

        Returns:
            An entry for every runtime and for every scheme among them.
        """
        runtimes = dict.fromkeys(view.row.backend for view in views)
        schemes = dict.fromkeys(view.row.scheme for view in views)
        return [
            *(
                LegendEntry(_short(_runtime(name)), f"bar {self.colours[name]}")
                for name in runtimes
            ),
            *(LegendEntry(_short(name), "mark plain", self.markers[name]) for name in schemes),
        ]


def _choose(
    names: Sequence[str], known: Mapping[str, str], others: Sequence[str]
) -> Mapping[str, str]:
    wanted = list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in known]
    extra = {name: others[i % len(others)] for i, name in enumerate(unknown)}
    return {name: known.get(name) or extra[name] for name in wanted}


def _runtime(backend: str) -> str:
    return _RUNTIME_NAMES.get(backend, plain(backend))


def _short(name: str) -> str:
    return fit(name, 110)
