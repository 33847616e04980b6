"""One row of measurement as a reader sees it: beside the reference and under the verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torchopt2edge.report.text.numbers import decimals
from torchopt2edge.stats.rows import reference_row, task_metric
from torchopt2edge.types import Measurement, Verdict

_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\s]+")
_SHARE = re.compile(r"top-?\d+|(label_)?acc(uracy)?|agreement|exact_match")


def plain(text: object) -> str:
    """Return text on one line, without control or direction characters.

    A name comes from a file or a yaml; it must not move the cursor, ring the bell or hide.
    """
    return _INVISIBLE.sub(" ", str(text)).strip()


def clip(text: str, width: int) -> str:
    """Shorten text in its middle, for names whose ends say most."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


@dataclass(frozen=True)
class Line:
    """One row with what only the other rows and the verdict can say of it.

    ``metric`` is the name of the run's task metric ("" without one); ``change`` its value minus
    the reference's; ``places`` how many decimals both deserve; ``ratio`` the (ratio, low, high)
    of its latency to the winner's; ``number`` its place in the table, from 1.
    """

    row: Measurement
    number: int
    metric: str = ""
    places: int = 1
    change: float | None = None
    ratio: tuple[float, float, float] | None = None
    winner: bool = False
    tied: bool = False
    pareto: bool = False
    reference: bool = False
    rejected: str = ""

    @property
    def name(self) -> str:
        """The candidate's id, fit for one line."""
        return plain(self.row.candidate)

    @property
    def failed(self) -> bool:
        """Whether the row is a failure."""
        return self.row.err is not None

    @property
    def checks(self) -> str:
        """The candidate that this row checks, "" unless it is what a runtime's own tool said."""
        return plain(self.row.facts.get("checks") or "")

    @property
    def flags(self) -> list[str]:
        """The validity flags of the measurement."""
        return [plain(flag) for flag in self.row.facts.get("flags") or ()]

    @property
    def err(self) -> str:
        """What failed, on one line."""
        return plain(self.row.err or "")

    @property
    def note(self) -> str:
        """What a reader must know of this row, in few words."""
        if self.failed:
            return f"failed: {self.err}"
        words = [
            "winner" if self.winner else "",
            "tie" if self.tied else "",
            "reference" if self.reference else "",
            f"out: {plain(self.rejected)}" if self.out else "",
            *self.flags,
        ]
        return ", ".join(word for word in words if word)

    @property
    def mark(self) -> str:
        """One character before the name, so that colour is never the only sign."""
        if self.failed:
            return "✗"
        if self.winner or self.tied:
            return "★" if self.winner else "="
        return "○" if self.out else " "

    def get(self, name: str) -> float | None:
        """Return a metric, None where it was not measured or is not a number."""
        value = self.row.metrics.get(name)
        return None if value is None or math.isnan(value) else float(value)

    @property
    def out(self) -> bool:
        """Whether it was measured, yet may not win; the reference does not run."""
        return bool(self.rejected) and not self.failed and not self.reference


def metric_title(name: str) -> str:
    """Return a task metric's name as people write it ("top-1")."""
    return f"top-{name[3:]}" if re.fullmatch(r"top\d+", name) else plain(name)


def is_share(name: str) -> bool:
    """Whether a metric is in per cent; of one that we do not know nothing is claimed."""
    return _SHARE.fullmatch(name) is not None


def lines(rows: Sequence[Measurement], verdict: Verdict) -> list[Line]:
    """Return the rows in reading order: fastest first, unmeasured next, failures last."""
    metric, base = task_metric(rows), reference_row(rows)
    places = _places(rows, metric)
    ordered = sorted(rows, key=_place)
    return [
        Line(
            row,
            number,
            metric,
            places,
            _change(row, base, metric),
            verdict.ratios.get(row.candidate),
            winner=row.err is None and row.candidate == verdict.winner,
            tied=row.err is None and row.candidate in verdict.tie,
            pareto=row.err is None and row.candidate in verdict.pareto,
            reference=row is base,
            rejected=verdict.rejected.get(row.candidate, ""),
        )
        for number, row in enumerate(ordered, 1)
    ]


def _place(row: Measurement) -> tuple[bool, float]:
    latency = row.metrics.get("latency_ms", math.inf)
    return row.err is not None, math.inf if math.isnan(latency) else latency


def _places(rows: Sequence[Measurement], metric: str) -> int:
    """Return how many decimals the task metric deserves: its samples decide, or its size."""
    if not is_share(metric):
        largest = max((abs(row.metrics.get(metric, 0.0)) for row in rows), default=0.0)
        return decimals(largest, 4)
    counts = [row.facts.get("n_eval") or 0 for row in rows if metric in row.metrics]
    return 2 if min(counts) >= 10_000 else 1


def _change(row: Measurement, base: Measurement | None, metric: str) -> float | None:
    if base is None or row is base or row.err is not None:
        return None
    value, start = row.metrics.get(metric), base.metrics.get(metric)
    return None if value is None or start is None else value - start
