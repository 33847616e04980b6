"""A comparison of two runs as text: the sentence to read first, and the table."""

from __future__ import annotations

from collections.abc import Sequence

from torchopt2edge.report.diff.change import Change
from torchopt2edge.report.diff.compare import RunDiff
from torchopt2edge.report.diff.limits import percent
from torchopt2edge.report.text.numbers import fixed, signed, significant, times, times_interval
from torchopt2edge.report.text.row_view import is_percent, metric_title, plain

MARKDOWN, PAGE, DATA = "against.md", "against.html", "against.json"
LIMITS = (
    "The runs lie apart in time. What the machine does to every file alike is divided out; what it "
    "does to one kind of file alone looks like a change of the file.",
    "Each interval and each p stands alone: of twenty files that did not change, one may be "
    "called changed. A limit is broken only where the size of the change is beyond it as well.",
    "Samples that are paired are taken to be the same ones in the same order: the runs keep "
    "their scores, not the samples.",
)
_SIZE = {"larger": "larger file", "smaller": "smaller file"}
_MEMORY = {"larger": "more memory", "smaller": "less memory"}


def headline(diff: RunDiff) -> str:
    """Return the one sentence to read first.

    Args:
        diff: The comparison.

    Returns:
        Whether the limit is broken; without a limit, how many candidates changed.
    """
    if diff.max_regression is None:
        return f"{outcome_counts(diff.changes)}."
    return limit_sentence(diff.max_regression, len(diff.broken), len(diff.strict))


def limit_sentence(
    limit: float, broken: int, strict: int, where: tuple[str, str] = ("", "")
) -> str:
    """Return whether a limit is broken.

    Args:
        limit: The limit as a share.
        broken: How many findings break it.
        strict: How many findings may.
        where: What stands behind the limit when it is broken, and when it is not.

    Returns:
        The sentence.
    """
    if broken:
        return f"Regression beyond {percent(limit)}{where[0]}: {_count(broken, 'finding')}."
    if strict:
        inconclusive = _count(strict, "inconclusive finding")
        return f"No proven regression beyond {percent(limit)}{where[1]}; {inconclusive}."
    return f"No regression beyond {percent(limit)}{where[1]}."


def outcome_counts(changes: Sequence[Change], where: str = "") -> str:
    """Return how many candidates had which outcome.

    Args:
        changes: The changes.
        where: What stands behind the number of candidates.

    Returns:
        A sentence without its full stop.
    """
    outcomes = [change.outcome for change in changes if change.metric in ("", "latency_ms")]
    if not outcomes:
        return f"No latency was measured in both runs{where}"
    counts = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
    listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return f"Of {_count(len(outcomes), 'candidate')}{where}: {listed}"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def heading(titles: Sequence[str]) -> str:
    """Return the title of a comparison.

    Args:
        titles: The runs' titles, the earlier first.

    Returns:
        "before → after".
    """
    return " → ".join(plain(title) or "torchopt2edge" for title in titles)


def winners(diff: RunDiff) -> str:
    """Return which winners the runs named.

    Args:
        diff: The comparison.

    Returns:
        A sentence.
    """
    before, after = (plain(name) or "none" for name in diff.winners)
    return f"Winner: {after}, as before." if before == after else f"Winner: {before} → {after}."


def cells(diff: RunDiff) -> list[list[str]]:
    """Return the table of a comparison.

    Args:
        diff: The comparison.

    Returns:
        Cells, header first, one candidate a row, without empty columns; the last column says in
        words what changed.
    """
    metric = next((c.metric for c in diff.changes if c.kind == "difference"), "")
    unit = " %" if is_percent(metric) else ""
    titles = ["latency ms", "ratio", f"{metric_title(metric)}{unit}"]
    titles += ["Δ points" if unit else "Δ", "file MB", "memory MB"]
    names = list(dict.fromkeys(change.candidate for change in diff.changes))
    body = [_row(diff, name, metric) for name in names]
    kept = [i for i in range(len(titles)) if any(row[i + 1] for row in body)]
    head = ["candidate", *(titles[i] for i in kept), "what changed"]
    return [head, *([row[0], *(row[i + 1] for i in kept), row[-1]] for row in body)]


def _row(diff: RunDiff, name: str, metric: str) -> list[str]:
    latency = diff.change(name, "latency_ms")
    quality = diff.change(name, metric) if metric else None
    return [
        plain(name),
        _before_after(latency),
        ratio(latency),
        _before_after(quality, 2 if is_percent(metric) else None),
        difference(quality),
        _before_after(diff.change(name, "size_mb")),
        _before_after(diff.change(name, "memory_mb")),
        changed(diff, name),
    ]


def _before_after(change: Change | None, places: int | None = None) -> str:
    if change is None:
        return ""
    first, second = (
        significant(value) if places is None else fixed(value, places)
        for value in (change.before, change.after)
    )
    return first if first == second else f"{first or '?'} → {second or '?'}"


def ratio(change: Change | None) -> str:
    """Return a ratio with its interval.

    Args:
        change: The change of a latency, or None.

    Returns:
        "1.12× (1.08–1.16)", "" where it is not known.
    """
    if change is None or change.effect is None:
        return ""
    value, low, high = change.effect
    return times_interval(change.effect) if low < high else times(value)


def difference(change: Change | None) -> str:
    """Return a difference, with its interval where one is known.

    Args:
        change: The change of a task metric, or None.

    Returns:
        "−0.40 (−0.90 to 0.10)", "" where it is not known.
    """
    if change is None or change.effect is None:
        return ""
    value, low, high = change.effect
    ends = f" ({fixed(low, 2)} to {fixed(high, 2)})" if low > float("-inf") else ""
    return f"{signed(value, 2)}{ends}"


def changed(diff: RunDiff, name: str) -> str:
    """Return in words what became of a candidate.

    Args:
        diff: The comparison.
        name: The candidate's id.

    Returns:
        For example "slower, worse top-1"; "" where nothing changed.
    """
    own = [change for change in diff.changes if change.candidate == name]
    return ", ".join(text for change in own if (text := _changed(diff, change)))


def _changed(diff: RunDiff, change: Change) -> str:
    outcome, note = change.outcome, change.note
    if not change.metric:
        return f"{outcome}: {note}" if note else outcome
    if change.metric == "latency_ms":
        if change.candidate == diff.control:
            return "control"
        return f"{outcome} ({note})" if change.effect is None else outcome
    if change.kind == "difference":
        return f"{outcome} {metric_title(change.metric)}" if outcome in ("worse", "better") else ""
    return (_SIZE if change.metric == "size_mb" else _MEMORY).get(outcome, "")
