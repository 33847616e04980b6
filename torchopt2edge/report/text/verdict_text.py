"""The verdict as sentences, computed from the rows each time and never stored."""

from __future__ import annotations

from collections.abc import Sequence

from torchopt2edge.report.text.numbers import fixed, signed, significant, times, times_interval
from torchopt2edge.report.text.row_view import RowView, is_percent, join_names, metric_title, plain
from torchopt2edge.types import BASELINE, Verdict

_INVALID = "no winner is named: "
_NO_WINNER = {
    "nothing-measured": "nothing was measured",
    "interrupted": "the run was interrupted before a candidate was measured",
    "all-failed": "every candidate failed",
    "only-one-failed": "the only candidate failed",
    "all-rejected": "no candidate meets the constraints",
    "undecided": "the measurements name none",
}


def headline(views: Sequence[RowView], verdict: Verdict) -> str:
    """Return the one sentence to read first.

    Args:
        views: The run's rows.
        verdict: The verdict over them.

    Returns:
        Which file to ship and by how much it wins, that there is a tie, or why there is no winner.
    """
    winner = next((view for view in views if view.winner), None)
    if winner is not None:
        parts = ", ".join([*_lead(winner, views), *_quality_and_size(winner, views)])
        return f"Ship {winner.name}: {parts}." if parts else f"Ship {winner.name}."
    tied = [view for view in views if view.tied]
    if tied:
        return _tie(tied)
    code = no_winner_code(views, verdict)
    reason = _without_prefix(verdict.reasons[0]) if code == "reason" else _NO_WINNER[code]
    return f"No winner: {reason}."


def no_winner_code(views: Sequence[RowView], verdict: Verdict) -> str:
    """Return why a run has neither a winner nor a tie.

    Args:
        views: The run's rows.
        verdict: The verdict over them.

    Returns:
        ``nothing-measured``, ``interrupted``, ``all-failed``, ``only-one-failed``,
        ``all-rejected``, ``reason`` (the verdict's first) or ``undecided``.
    """
    if not views:
        return "nothing-measured"
    candidates = [view for view in views if not (view.reference or view.checks)]
    if candidates and all(view.failed for view in candidates):
        if any(view.row.facts.get("interrupted") for view in candidates):
            return "interrupted"
        return "all-failed" if len(candidates) > 1 else "only-one-failed"
    sound = [view for view in candidates if not view.failed]
    if sound and all(view.rejection for view in sound):
        return "all-rejected"
    return "reason" if verdict.reasons else "undecided"


def reasons(sentence: str, verdict: Verdict) -> list[str]:
    """Return the verdict's reasons that the headline does not hold already.

    Args:
        sentence: The headline.
        verdict: The verdict.

    Returns:
        The other reasons.
    """
    return [reason for reason in verdict.reasons if _without_prefix(reason) not in sentence]


def warnings(views: Sequence[RowView], verdict: Verdict) -> list[str]:
    """Return what to know before trusting the result.

    Args:
        views: The run's rows. The harness explains a flag in the row's ``warnings`` fact; the
            rows' sentences differ in numbers only, so the first row's stands for all.
        verdict: The verdict over them.

    Returns:
        The verdict's warnings, then every other flag once with the candidates that carry it.
    """
    flagged: dict[str, list[RowView]] = {}
    for view in views:
        for flag in view.flags:
            flagged.setdefault(flag, []).append(view)
    sentences = list(verdict.warnings)
    for flag, carriers in flagged.items():
        if any(warning.startswith(flag) for warning in verdict.warnings):
            continue
        sentence = (carriers[0].row.facts.get("warnings") or {}).get(flag)
        names = ", ".join(view.name for view in carriers)
        owner = f" (of {carriers[0].name})" if sentence and len(carriers) > 1 else ""
        sentences.append(f"{flag}: {names}" + (f". {sentence}{owner}" if sentence else ""))
    return sentences


def _without_prefix(reason: str) -> str:
    return plain(reason).rstrip(".").removeprefix(_INVALID)


def _lead(winner: RowView, views: Sequence[RowView]) -> list[str]:
    """Return its lead over the next candidate, or over the reference when it ran alone."""
    others = [v for v in views if v.ratio and not (v.winner or v.rejection or v.failed)]
    rivals = [v for v in others if not (v.reference and v.row.backend == BASELINE)]
    references = [v for v in views if v.reference and v.ratio and not v.winner]
    if rivals:
        return [_compared(min(rivals, key=_by_ratio), "the next, ")]
    return [_compared(references[0], "")] if references else []


def _compared(other: RowView, prefix: str) -> str:
    assert other.ratio is not None
    who = f"{prefix}{_name(other)}"
    if other.ratio[1] > 1:
        return f"{times_interval(other.ratio)} faster than {who}"
    return f"about as fast as {who} at {times_interval(other.ratio)}"


def _by_ratio(view: RowView) -> float:
    return view.ratio[0] if view.ratio else float("inf")


def _name(view: RowView) -> str:
    return "PyTorch" if view.reference and view.row.backend == BASELINE else view.name


def _quality_and_size(view: RowView, views: Sequence[RowView]) -> list[str]:
    """Return the task metric, with its change against the reference, and the size of the file."""
    parts = []
    value, size = view.value(view.metric), view.value("size_mb")
    if value is not None:
        unit = " %" if is_percent(view.metric) else ""
        shown = f"{fixed(value, view.decimals)}{unit} {metric_title(view.metric)}"
        parts.append(f"{shown}{_change(view, views)}")
    if size is not None:
        parts.append(f"{significant(size)} MB")
    return parts


def _change(view: RowView, views: Sequence[RowView]) -> str:
    reference = next((other for other in views if other.reference), None)
    if reference is None or view.change is None:
        return ""
    unit = " points" if is_percent(view.metric) else ""
    return f" ({signed(view.change, view.decimals)}{unit} against {_name(reference)})"


def _tie(tied: Sequence[RowView]) -> str:
    names = join_names([view.name for view in tied])
    sentence = f"Tie: no real difference in latency between {names}"
    ratios = [view.ratio[0] for view in tied if view.ratio]
    if len(ratios) > 1:
        sentence += f" (within {times(max(ratios) / min(ratios))})"
    sizes = {view.name: size for view in tied if (size := view.value("size_mb")) is not None}
    if len(tied) > 1 and len(set(sizes.values())) > 1:
        smallest = min(sizes, key=sizes.__getitem__)
        sentence += f"; the smallest file is {smallest}, {significant(sizes[smallest])} MB"
    return f"{sentence}."
