"""What is said of two runs that are compared: the sentence to read, and the table."""

from __future__ import annotations

from collections.abc import Sequence

from torchopt2edge.report.diff.compare import Against, Change, share
from torchopt2edge.report.text.numbers import fixed, signed, significant, times, times_between
from torchopt2edge.report.text.row_view import is_share, metric_title, plain

MARKDOWN, PAGE, DATA = "against.md", "against.html", "against.json"
LIMITS = (
    "The runs lie apart in time. What is divided out is what the machine does to every file "
    "alike; what it does to one kind of file alone looks like a change of the file.",
    "Each interval and each p stands alone: of twenty files that did not change, one may be "
    "called changed. To be beyond a limit takes the size of the change as well.",
    "Samples that are paired are taken to be the same ones in the same order: the runs keep "
    "their scores, not the samples.",
)
_OF_SIZE = {"larger": "larger file", "smaller": "smaller file"}
_OF_MEMORY = {"larger": "more memory", "smaller": "less memory"}


def headline(against: Against) -> str:
    """Return the one sentence to read: what is beyond the limit, or how many files changed."""
    if against.max_regression is None:
        return f"{counted(against.changes)}."
    return judged(against.max_regression, len(against.broken), len(against.strict))


def judged(limit: float, broken: int, strict: int, where: tuple[str, str] = ("", "")) -> str:
    """Say what became of a limit; ``where`` is said behind it, when it broke and when it held."""
    if broken:
        return f"Regression beyond {share(limit)}{where[0]}: {_many(broken, 'finding')}."
    if strict:
        doubts = _many(strict, "finding")
        return (
            f"No regression beyond {share(limit)} is proven{where[1]}; {doubts} cannot exclude one."
        )
    return f"No regression beyond {share(limit)}{where[1]}."


def counted(changes: Sequence[Change], where: str = "") -> str:
    """Say how many candidates became what, without the full stop."""
    words = [change.word for change in changes if change.metric in ("", "latency_ms")]
    if not words:
        return f"No latency was measured in both runs{where}"
    counts = {word: words.count(word) for word in dict.fromkeys(words)}
    return f"Of {_many(len(words), 'candidate')}{where}: " + ", ".join(
        f"{count} {word}" for word, count in counts.items()
    )


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def heading(titles: Sequence[str]) -> str:
    """Return what stands over a comparison: the runs' titles, the earlier first."""
    return " → ".join(plain(title) or "torchopt2edge" for title in titles)


def winners(against: Against) -> str:
    """Say which winner the runs named."""
    before, after = (plain(name) or "none" for name in against.winners)
    return f"Winner: {after}, as before." if before == after else f"Winner: {before} → {after}."


def cells(against: Against) -> list[list[str]]:
    """Return the table, one candidate a row, without the columns that nothing fills; header first.

    What became of a candidate is said in words in the last column.
    """
    metric = next((c.metric for c in against.changes if c.kind == "difference"), "")
    unit = " %" if is_share(metric) else ""
    titles = ["latency ms", "ratio", f"{metric_title(metric)}{unit}"]
    titles += ["Δ points" if unit else "Δ", "file MB", "memory MB"]
    names = list(dict.fromkeys(change.candidate for change in against.changes))
    body = [_row(against, name, metric) for name in names]
    kept = [i for i in range(len(titles)) if any(row[i + 1] for row in body)]
    head = ["candidate", *(titles[i] for i in kept), "what changed"]
    return [head, *([row[0], *(row[i + 1] for i in kept), row[-1]] for row in body)]


def _row(against: Against, name: str, metric: str) -> list[str]:
    latency, quality = against.of(name, "latency_ms"), against.of(name, metric) if metric else None
    size, memory = against.of(name, "size_mb"), against.of(name, "memory_mb")
    return [
        plain(name),
        _both(latency),
        ratio(latency),
        _both(quality, 2 if is_share(metric) else None),
        difference(quality),
        _both(size),
        _both(memory),
        changed(against, name),
    ]


def _both(change: Change | None, places: int | None = None) -> str:
    if change is None:
        return ""
    first, second = (
        significant(value) if places is None else fixed(value, places)
        for value in (change.before, change.after)
    )
    return first if first == second else f"{first or '?'} → {second or '?'}"


def ratio(change: Change | None) -> str:
    """Return a ratio with its interval: "1.12× (1.08–1.16)"."""
    if change is None or change.by is None:
        return ""
    value, low, high = change.by
    return times_between(change.by) if low < high else times(value)


def difference(change: Change | None) -> str:
    """Return a difference with its interval where one is known: "−0.40 (−0.90 to 0.10)"."""
    if change is None or change.by is None:
        return ""
    value, low, high = change.by
    known = f" ({fixed(low, 2)} to {fixed(high, 2)})" if low > float("-inf") else ""
    return f"{signed(value, 2)}{known}"


def changed(against: Against, name: str) -> str:
    """Return in words what became of a candidate, "" where nothing did."""
    said: list[str] = []
    for one in (change for change in against.changes if change.candidate == name):
        if one.metric == "latency_ms" and name == against.anchor:
            said.append("the anchor")
        elif one.metric in ("", "latency_ms"):
            word = one.word if one.metric else f"{one.word}{': ' if one.note else ''}{one.note}"
            said.append(f"{word} ({one.note})" if one.metric and one.by is None else word)
        elif one.kind == "difference" and one.word in ("worse", "better"):
            said.append(f"{one.word} {metric_title(one.metric)}")
        elif one.metric in ("size_mb", "memory_mb"):
            said.append((_OF_SIZE if one.metric == "size_mb" else _OF_MEMORY).get(one.word, ""))
    return ", ".join(word for word in said if word)
