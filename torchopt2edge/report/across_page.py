"""Two runs on several devices as people read it: a terminal, a pull request, a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge.report import against_page
from torchopt2edge.report.across import Across, Beside
from torchopt2edge.report.against import Against
from torchopt2edge.report.against_page import DATA, MARKDOWN, PAGE
from torchopt2edge.report.console import _say, grid, taken
from torchopt2edge.report.folder import put
from torchopt2edge.report.line import plain
from torchopt2edge.report.markdown import fill
from torchopt2edge.report.number import times
from torchopt2edge.report.side import listing

if TYPE_CHECKING:
    from rich.console import Console

LIMITS = (
    "Each device is compared with itself alone; devices that were measured under one name are "
    "taken to be the same one.",
    *against_page.LIMITS,
)


def headline(across: Across) -> str:
    """Return the one sentence to read: on which devices the limit broke, or what changed."""
    compared = [one.device for one, _ in across.compared]
    where = f" on {listing(compared)}"
    if across.max_regression is None:
        changes = [change for _, found in across.compared for change in found.changes]
        return f"{against_page.counted(changes, where)}."
    worse = [one.device for one, found in across.compared if found.broken]
    broke = f" on {listing(worse)} ({len(worse)} of {len(compared)} devices)"
    counts = len(across.broken), len(across.strict)
    return against_page.judged(across.max_regression, *counts, (broke, where))


def cells(across: Across, narrow: bool = False) -> list[list[str]]:
    """Return the ratios of latency, one candidate a row and one device a column; header first.

    Behind a ratio stands in words what else became of the file; ``narrow`` leaves out the 95 %
    intervals.
    """
    head = ["candidate", *(plain(one.device) for one, _ in across.compared)]
    return [
        head,
        *(
            [plain(name), *(_cell(found, name, narrow) for _, found in across.compared)]
            for name in across.candidates
        ),
    ]


def _cell(found: Against, name: str, narrow: bool) -> str:
    return f"{ratio(found, name, narrow)} {against_page.changed(found, name)}".strip()


def ratio(found: Against, name: str, narrow: bool = False) -> str:
    """Return a candidate's latency after over before, "" where it was not compared."""
    change = found.of(name, "latency_ms")
    if narrow and change is not None and change.by is not None:
        return times(change.by[0])
    return against_page.ratio(change)


def about(across: Across) -> list[list[str]]:
    """Return one device a row: what became of its files and of its winner; header first."""
    return [
        ["device", "what changed", "winner"],
        *([plain(one.device), *outcome(one)] for one in across.devices),
    ]


def outcome(one: Beside) -> tuple[str, str]:
    """Return a device's comparison in a sentence, and its winner before and after."""
    if one.against is None:
        return f"It {one.note}", ""
    return against_page.headline(one.against), against_page.winners(one.against)


def render_markdown(across: Across) -> str:
    """Return the ``against.md`` above the devices, for a comment on a pull request."""
    return fill(
        "across.md.jinja",
        titles=across.titles,
        headline=headline(across),
        across=across,
        apart=unsaid(across),
        table=cells(across),
        about=about(across),
        folders=[one.folder for one, _ in across.compared],
        limits=LIMITS,
    )


def unsaid(across: Across) -> list[str]:
    """Return the devices that were not compared and of which ``strict`` says nothing."""
    return [said for said in across.apart if said not in across.strict]


def render_console(console: Console, across: Across) -> None:
    """Print the comparison, in plain text where the console is not a terminal."""
    wide = cells(across)
    narrow = taken(wide) > console.width
    console.print(grid(cells(across, narrow=True) if narrow else wide))
    if narrow:
        _say(console, "not shown at this width: the intervals", "dim")
    console.print()
    style = "bold red" if across.broken else "bold yellow" if across.strict else "bold green"
    _say(console, headline(across), style)
    for said in across.broken:
        _say(console, f"  ✗ {plain(said)}", "red")
    for said in (*across.strict, *unsaid(across)):
        _say(console, f"  ? {plain(said)}", "yellow")
    for one, found in across.compared:
        _say(console, f"  · {plain(one.device)}: {against_page.winners(found)}")
    for warning in across.warnings:
        _say(console, f"  ! {warning}", "yellow")


def write(out: Path, across: Across) -> None:
    """Write ``against.json``, ``against.md`` and ``against.html``, and those of every device.

    A device's lie in its folder under ``out``, each whole or not at all.

    Raises:
        ConfigError: a folder cannot be written.
    """
    from torchopt2edge.report.page.across import render_html

    for one, found in across.compared:
        against_page.write(out / one.folder, found)
    put(
        out,
        {
            DATA: across.to_json(),
            MARKDOWN: render_markdown(across),
            PAGE: render_html(across),
        },
    )
