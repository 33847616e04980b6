"""One measurement row with what only the other rows and the verdict can tell about it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torchopt2edge.report.text.numbers import decimals
from torchopt2edge.stats.rows import metric_value, reference_row, task_metric
from torchopt2edge.types import Measurement, Verdict

_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\s]+")
_PERCENT = re.compile(r"top-?\d+|(label_)?acc(uracy)?|agreement|exact_match")
_UNITS = re.compile(r"(latency|p50|p90|p99|energy)(_ms|_mj)")


def plain(text: object) -> str:
    """Return text on one line, without control or direction characters.

    A name comes from a file or a yaml; it must not move the cursor, ring the bell or hide.

    Args:
        text: Any value; its ``str`` is used.

    Returns:
        The text, each run of such characters and of white space replaced by one space.
    """
    return _INVISIBLE.sub(" ", str(text)).strip()


def join_names(names: Sequence[str]) -> str:
    """Return names as a sentence holds them.

    Args:
        names: The names; each is put on one line.

    Returns:
        "a, b and c"; "" for none.
    """
    shown = [plain(name) for name in names]
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else "".join(shown)


@dataclass(frozen=True)
class RowView:
    """One row of a run as the reports show it.

    Attributes:
        row: The measurement.
        number: Its position in the reports' tables, from 1.
        metric: The name of the run's task metric, "" without one.
        decimals: How many decimals the task metric deserves.
        change: The task metric minus the reference's.
        ratio: (ratio, low, high) of its latency to the winner's.
        winner: Whether the verdict names it.
        tied: Whether the verdict counts it in the tie.
        pareto: Whether it is in the Pareto set.
        reference: Whether losses of the task metric are counted from it.
        rejection: Why the verdict rejects it, "" if it does not.
    """

    row: Measurement
    number: int
    metric: str = ""
    decimals: int = 1
    change: float | None = None
    ratio: tuple[float, float, float] | None = None
    winner: bool = False
    tied: bool = False
    pareto: bool = False
    reference: bool = False
    rejection: str = ""

    @property
    def name(self) -> str:
        """The candidate's id, on one line."""
        return plain(self.row.candidate)

    @property
    def failed(self) -> bool:
        """Whether the row is a failure."""
        return self.row.err is not None

    @property
    def error(self) -> str:
        """The error, on one line; "" without one."""
        return plain(self.row.err or "")

    @property
    def checks(self) -> str:
        """The candidate that this row of a vendor tool checks, "" for any other row."""
        return plain(self.row.facts.get("checks") or "")

    @property
    def flags(self) -> list[str]:
        """The validity flags of the measurement."""
        return [plain(flag) for flag in self.row.facts.get("flags") or ()]

    @property
    def rejected(self) -> bool:
        """Whether it was measured and may not win; the reference is no candidate."""
        return bool(self.rejection) and not self.failed and not self.reference

    @property
    def chosen(self) -> bool:
        """Whether it is the winner or in the tie."""
        return self.winner or self.tied

    @property
    def note(self) -> str:
        """The row's role, rejection and flags in few words."""
        if self.failed:
            return f"failed: {self.error}"
        parts = [
            "winner" if self.winner else "",
            "tie" if self.tied else "",
            "reference" if self.reference else "",
            f"rejected: {plain(self.rejection)}" if self.rejected else "",
            *self.flags,
        ]
        return ", ".join(part for part in parts if part)

    @property
    def mark(self) -> str:
        """One character before the name, so that colour is never the only sign."""
        if self.failed:
            return "✗"
        if self.chosen:
            return "★" if self.winner else "="
        return "○" if self.rejected else " "

    def value(self, name: str) -> float | None:
        """Return a metric for a table.

        Args:
            name: The metric's name.

        Returns:
            The value, which may be infinite, or None where it was not measured or is NaN.
        """
        value = self.row.metrics.get(name)
        return None if value is None or math.isnan(value) else float(value)

    def ends(self, name: str) -> tuple[float | None, float | None]:
        """Return the ends of a metric's 95 % interval for a table.

        Args:
            name: The metric's name; the ends of ``latency_ms`` are ``latency_low_ms`` and
                ``latency_high_ms``, those of ``top1`` are ``top1_low`` and ``top1_high``.

        Returns:
            (low, high), each None where it is not known.
        """
        low, high = _end_names(name)
        return self.value(low), self.value(high)

    def finite(self, name: str) -> float | None:
        """Return a metric that can be drawn.

        Args:
            name: The metric's name.

        Returns:
            The value, or None where it was not measured or is not finite.
        """
        return metric_value(self.row, name)

    def finite_ends(self, name: str) -> tuple[float, float] | None:
        """Return the ends of a metric's interval that can be drawn.

        Args:
            name: The metric's name, as in `ends`.

        Returns:
            (low, high), or None where an end is missing or infinite (too few rounds).
        """
        low, high = (self.finite(end) for end in _end_names(name))
        return None if low is None or high is None else (low, high)


def _end_names(name: str) -> tuple[str, str]:
    """Return the names of a metric's interval ends; the harness puts the unit last."""
    match = _UNITS.fullmatch(name)
    if match is None:
        return f"{name}_low", f"{name}_high"
    return f"{match[1]}_low{match[2]}", f"{match[1]}_high{match[2]}"


def metric_title(name: str) -> str:
    """Return a task metric's name as people write it.

    Args:
        name: The metric's name, as in the rows.

    Returns:
        "top-1" for ``top1``; any other name unchanged, on one line.
    """
    return f"top-{name[3:]}" if re.fullmatch(r"top\d+", name) else plain(name)


def is_percent(name: str) -> bool:
    """Tell whether a metric is in per cent.

    Args:
        name: The metric's name.

    Returns:
        True for the known accuracies; False for a name that is not known, so no unit is claimed.
    """
    return _PERCENT.fullmatch(name) is not None


def row_views(rows: Sequence[Measurement], verdict: Verdict) -> list[RowView]:
    """Return the rows in reading order.

    Args:
        rows: The rows of one run.
        verdict: The verdict over them.

    Returns:
        A view per row: fastest first, then those without latency, failures last.
    """
    metric, reference = task_metric(rows), reference_row(rows)
    places = _decimals(rows, metric)
    return [
        RowView(
            row,
            number,
            metric,
            places,
            _change(row, reference, metric),
            verdict.ratios.get(row.candidate),
            winner=row.err is None and row.candidate == verdict.winner,
            tied=row.err is None and row.candidate in verdict.tie,
            pareto=row.err is None and row.candidate in verdict.pareto,
            reference=row is reference,
            rejection=verdict.rejected.get(row.candidate, ""),
        )
        for number, row in enumerate(sorted(rows, key=_order), 1)
    ]


def _order(row: Measurement) -> tuple[bool, float]:
    latency = row.metrics.get("latency_ms", math.inf)
    return row.err is not None, math.inf if math.isnan(latency) else latency


def _decimals(rows: Sequence[Measurement], metric: str) -> int:
    """Return the decimals of the task metric: by the number of samples, or by its size."""
    known = [row for row in rows if metric_value(row, metric) is not None]
    if not is_percent(metric):
        return decimals(max((abs(row.metrics[metric]) for row in known), default=0.0), 4)
    counts = [row.facts.get("n_eval") or 0 for row in known]
    return 2 if min(counts) >= 10_000 else 1


def _change(row: Measurement, reference: Measurement | None, metric: str) -> float | None:
    if reference is None or row is reference or row.err is not None:
        return None
    value, base = metric_value(row, metric), metric_value(reference, metric)
    return None if value is None or base is None else value - base
