"""A comparison of two runs as people read it: on a terminal, in a pull request, in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge.report.against import Against, Change, share
from torchopt2edge.report.console import GAP, _say, grid
from torchopt2edge.report.folder import put
from torchopt2edge.report.line import is_share, metric_title, plain
from torchopt2edge.report.markdown import fill
from torchopt2edge.report.number import fixed, signed, significant, times, times_between

if TYPE_CHECKING:
    from rich.console import Console

MARKDOWN, PAGE, DATA = "against.md", "against.html", "against.json"
LIMITS = (
    "The runs lie apart in time. What is divided out is what the machine does to every file "
    "alike; what it does to one kind of file alone looks like a change of the file.",
    "Each interval and each p stands alone: of twenty files that did not change, one may be "
    "called changed. To be beyond a limit takes the size of the change as well.",
    "Samples that are paired are taken to be the same ones in the same order: the runs keep "
    "their scores, not the samples.",
)
_EXPENDABLE = ("memory MB", "file MB", "latency ms")  # what goes first on a narrow terminal
_CHANGES = ("Δ points", "Δ")
_NAME, _WORDS = 28, 16  # what the first and the last column may ask for
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


def render_markdown(against: Against) -> str:
    """Return ``against.md``, for a comment on a pull request."""
    return fill(
        "against.md.jinja",
        titles=against.titles,
        headline=headline(against),
        winners=winners(against),
        against=against,
        table=cells(against),
        limits=LIMITS,
    )


def render_console(console: Console, against: Against) -> None:
    """Print the comparison, in plain text where the console is not a terminal."""
    rows, hidden = _fitted(cells(against), console.width)
    last = len(rows[0]) - 1
    console.print(grid(rows, left={0, last}, whole=range(1, last)))
    if hidden:
        _say(console, f"not shown at this width: {', '.join(hidden)}", "dim")
    console.print()
    style = "bold red" if against.broken else "bold yellow" if against.strict else "bold green"
    _say(console, headline(against), style)
    for said in against.broken:
        _say(console, f"  ✗ {plain(said)}", "red")
    for said in against.strict:
        _say(console, f"  ? {plain(said)}", "yellow")
    _say(console, f"  · {winners(against)}")
    for warning in against.warnings:
        _say(console, f"  ! {plain(warning)}", "yellow")


def _fitted(rows: Sequence[Sequence[str]], width: int) -> tuple[list[list[str]], list[str]]:
    """Drop columns that a decision can do without until the table fits; say which."""
    from rich.cells import cell_len

    kept, hidden = [list(row) for row in rows], list[str]()
    beside = [rows[0][at - 1] for at, title in enumerate(rows[0]) if title in _CHANGES]
    for title in (*_EXPENDABLE, *beside):  # the task metric itself; how it changed stays
        widths = [max(map(cell_len, column)) + GAP for column in zip(*kept, strict=True)]
        if sum(widths[1:-1]) + min(widths[0], _NAME) + min(widths[-1], _WORDS) <= width:
            break
        if title in kept[0]:
            at = kept[0].index(title)
            kept = [row[:at] + row[at + 1 :] for row in kept]
            hidden.append(title)
    return kept, hidden


def write(out: Path, against: Against) -> None:
    """Write ``against.json``, ``against.md`` and ``against.html``, each whole or not at all.

    Raises:
        ConfigError: the folder cannot be written.
    """
    from torchopt2edge.report.page.against import render_html

    put(
        out,
        {
            DATA: against.to_json(),
            MARKDOWN: render_markdown(against),
            PAGE: render_html(against),
        },
    )
