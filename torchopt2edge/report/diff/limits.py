"""Which changes between two runs break a limit, and which may."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from torchopt2edge.errors import ConfigError
from torchopt2edge.report.diff.change import FAILED_BEFORE, Change, is_clear
from torchopt2edge.report.text.numbers import fixed, significant, times, times_interval
from torchopt2edge.report.text.row_view import is_percent, metric_title, plain
from torchopt2edge.stats.rounds import Interval

Code = Literal["fails", "beyond", "maybe-beyond", "gone", "not-compared"]

_SHARE = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*(%?)\s*", re.IGNORECASE)
_ROUNDING = 1e-9
_TITLES = {"latency_ms": "latency", "size_mb": "file size"}


@dataclass(frozen=True)
class Finding:
    """A change that breaks a limit, or one that may.

    Attributes:
        code: ``fails`` (a candidate that did not fail before) and ``beyond`` break the limit;
            ``maybe-beyond`` (chance is not excluded), ``gone`` (a candidate that did not fail
            before) and ``not-compared`` may.
        candidate: The candidate's id.
        metric: The metric's name, "" for the candidate itself.
        text: The sentence.
    """

    code: Code
    candidate: str
    metric: str
    text: str

    @property
    def breaks(self) -> bool:
        """Whether it breaks the limit."""
        return self.code in ("fails", "beyond")


def parse_share(text: str | float) -> float:
    """Read a share.

    Args:
        text: "5%", "5 %" or "0.05".

    Returns:
        The share: 0.05.

    Raises:
        ConfigError: It is none of these; a number of 1 or more without % is refused, since 5 may
            mean 5 % as well as 500 %.
    """
    match = None if isinstance(text, bool) else _SHARE.fullmatch(str(text))
    value = float(match[1]) if match else math.nan
    if match and (match[2] or value < 1.0) and math.isfinite(value):
        return value / 100.0 if match[2] else value
    raise ConfigError(
        f"{text!r} is no share", artifact="report.max_regression", hint="write 5% or 0.05"
    )


def percent(share: float) -> str:
    """Return a share in per cent.

    Args:
        share: The share: 0.05.

    Returns:
        "5 %".
    """
    return f"{100 * share:g} %"


def judge(change: Change, limit: float) -> Finding | None:
    """Hold a change against a limit.

    Args:
        change: The change.
        limit: The share by which a candidate may become slower, larger or worse.

    Returns:
        The finding, or None where the change holds the limit.
    """
    name = plain(change.candidate)

    def finding(code: Code, text: str) -> Finding:
        return Finding(code, change.candidate, change.metric, text)

    if change.outcome == "failed":
        new = change.note != FAILED_BEFORE
        return finding("fails", f"{name} fails now: {change.note}") if new else None
    if change.outcome == "gone":  # of one that failed nothing was known before
        known = not change.note
        return finding("gone", f"{name} is gone, so its change is not known") if known else None
    if change.metric in ("", "memory_mb"):
        return None
    title = f"{name}: {_TITLES.get(change.metric) or metric_title(change.metric)}"
    if change.effect is None:
        return finding("not-compared", f"{title} cannot be compared: {change.note}")
    judged = (_judge_ratio if change.kind == "ratio" else _judge_drop)(
        change, change.effect, limit, title
    )
    return finding(*judged) if judged else None


def _judge_ratio(
    change: Change, effect: Interval, limit: float, title: str
) -> tuple[Code, str] | None:
    value, low, high = effect
    most = 1.0 + limit + _ROUNDING
    unit = f"ms as measured; {change.note}" if change.metric == "latency_ms" else "MB"
    ratio = times_interval(effect) if low < high else times(value)
    values = f"{significant(change.before)} → {significant(change.after)} {unit}"
    sentence = f"{title} is {ratio} of what it was ({values})"
    if value > most and low > 1.0:
        return "beyond", f"{sentence}, beyond {percent(limit)}"
    if high > most and (value > most or change.outcome == "inconclusive"):
        hint = f"which may be beyond {percent(limit)}: measure with more rounds"
        return "maybe-beyond", f"{sentence}, {hint}"
    return None


def _judge_drop(
    change: Change, effect: Interval, limit: float, title: str
) -> tuple[Code, str] | None:
    """Hold a loss against the limit: points of a percentage, else a share of the value."""
    points = is_percent(change.metric)
    most = 100.0 * limit if points else limit * abs(change.before or 0.0)
    lost, least, worst = -effect[0], -effect[2], -effect[1]
    sentence = f"{title} lost {fixed(lost, 2)}{' points' if points else ''}"
    sentence += f" ({fixed(least, 2)} to {fixed(worst, 2)})" if math.isfinite(worst) else ""
    sentence += "" if change.p is None else f", p = {change.p:.2g}"
    edge = f"{fixed(most, 2)} points" if points else fixed(most, 2)
    if lost > most + _ROUNDING and is_clear(effect, change.p):
        return "beyond", f"{sentence}, beyond {edge}"
    if worst > most and (lost > most or change.outcome == "inconclusive"):
        hint = f"which may be beyond {edge}: evaluate on more samples"
        return "maybe-beyond", f"{sentence}, {hint}"
    return None
