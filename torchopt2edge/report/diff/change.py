"""What changed in one metric of one candidate between two runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torchopt2edge.stats.rounds import Interval

Outcome = Literal[
    "slower",
    "faster",
    "same",
    "inconclusive",
    "worse",
    "better",
    "larger",
    "smaller",
    "new",
    "gone",
    "failed",
    "fixed",
]
"""What became of a metric, or of a candidate."""

EQUAL = 0.01
"""Within 1 % two latencies or sizes are equal for every practical purpose."""

FAILED_BEFORE = "it failed before too"
"""The note of a candidate that failed in both runs."""


@dataclass(frozen=True)
class Change:
    """The change of one metric of one candidate, or, with ``metric`` "", of the candidate itself.

    Attributes:
        candidate: The candidate's id.
        metric: The metric's name.
        outcome: What became of it.
        before: The earlier value.
        after: The later value.
        effect: (value, low, high) of the change. A ``ratio`` is after over before; that of a
            latency has the control file divided out of both, so it may differ from the two
            values' own. A ``difference`` is after minus before.
        kind: What ``effect`` is.
        p: How often equal files would differ as much, where a test tells.
        note: What a reader must know.
    """

    candidate: str
    metric: str
    outcome: Outcome
    before: float | None = None
    after: float | None = None
    effect: Interval | None = None
    kind: Literal["ratio", "difference"] = "ratio"
    p: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in ``against.json``."""
        return {
            "candidate": self.candidate,
            "metric": self.metric,
            "word": self.outcome,
            "before": self.before,
            "after": self.after,
            "by": self.effect,
            "kind": self.kind,
            "p": self.p,
            "note": self.note,
        }


def is_clear(effect: Interval, p: float | None) -> bool:
    """Tell whether chance is excluded for a difference.

    Args:
        effect: The difference with its interval.
        p: The p-value, None where no test is known.

    Returns:
        Whether p < 0.05; without a test, whether the interval excludes 0.
    """
    return p < 0.05 if p is not None else effect[1] > 0.0 or effect[2] < 0.0
