"""When each round of a candidate was measured, and how long its inferences took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from torchopt2edge.report.figure.canvas import Point
from torchopt2edge.report.text.facts import finite_number
from torchopt2edge.report.text.row_view import RowView


def round_starts(view: RowView) -> list[float]:
    """Return when each round with samples began.

    Args:
        view: The row.

    Returns:
        Seconds since the run began, or the rounds' numbers from 1 where the seconds are not known.
    """
    rounds = view.row.latency_ns
    began = _began(view)
    starts = began or [float(at) for at in range(1, len(rounds) + 1)]
    return [at for at, each in zip(starts, rounds, strict=True) if each]


def has_clock(view: RowView) -> bool:
    """Tell whether `round_starts` are seconds.

    Args:
        view: The row.

    Returns:
        True for seconds, False for the rounds' numbers.
    """
    return bool(_began(view))


def _began(view: RowView) -> list[float]:
    """Return the seconds at which the rounds began, nothing unless all of them are known."""
    began = view.row.facts.get("began_s")
    if not isinstance(began, list) or len(began) != len(view.row.latency_ns):
        return []
    known = [at for start in began if (at := finite_number(start)) is not None]
    return known if len(known) == len(began) else []


def median_times(view: RowView) -> list[Point]:
    """Return the median of each round over time.

    Args:
        view: The row.

    Returns:
        (start, milliseconds) of each round with samples; nothing for a failed row.
    """
    return _per_round(view, median)


def mean_times(view: RowView) -> list[Point]:
    """Return milliseconds per inference over time, stalls included: the inverse of throughput.

    Args:
        view: The row.

    Returns:
        (start, milliseconds) of each round with samples; nothing for a failed row.
    """
    return _per_round(view, _mean)


def onset_on_axis(view: RowView, seconds: float) -> float | None:
    """Return where a moment of the candidate's own time lies on the axis of `round_starts`.

    Args:
        view: The row.
        seconds: The moment, in seconds of this candidate's timed inferences; others may have run
            between its rounds.

    Returns:
        The position, or None beyond the last round.
    """
    lasted = [sum(each) / 1e9 for each in view.row.latency_ns if each]
    clock = has_clock(view)
    for start, length in zip(round_starts(view), lasted, strict=True):
        if seconds <= length:
            return start + (seconds if clock else 0.0)
        seconds -= length
    return None


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)


def _per_round(view: RowView, of: Callable[[Sequence[int]], float]) -> list[Point]:
    values = [of(each) / 1e6 for each in view.row.latency_ns if each]
    return [] if view.failed else list(zip(round_starts(view), values, strict=True))
