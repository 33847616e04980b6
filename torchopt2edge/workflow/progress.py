"""Say how far a long step is: a bar on a terminal, log lines elsewhere, nothing by default."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger("torchopt2edge")
Tick = Callable[[int, int, str], None]


class Progress(Protocol):
    """Opens a task with a title; the tick it yields takes (done, total, what)."""

    def task(self, title: str) -> AbstractContextManager[Tick]:
        """Open a task."""


class LogProgress:
    """A line when a task starts and one when it ends, with its seconds."""

    @contextmanager
    def task(self, title: str) -> Iterator[Tick]:
        """Log the start and the end."""
        log.info("%s …", title)
        started = time.monotonic()
        yield lambda done, total, what: log.debug("%s %d/%d %s", title, done, total, what)
        log.info("%s: %.1f s", title, time.monotonic() - started)


class RichProgress:
    """A bar per task on a terminal, with the time that has passed."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def task(self, title: str) -> Iterator[Tick]:
        """Show a bar that becomes a finished line."""
        from rich import progress

        columns = (
            progress.SpinnerColumn(finished_text="✓"),
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=24),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[what]}", style="dim", markup=False),
        )
        with progress.Progress(*columns, console=self._console) as bar:
            shown = bar.add_task(title, total=None, what="")
            with _heard(lambda record: bar.update(shown, **_place(record))):
                yield lambda done, total, what: bar.update(
                    shown, completed=done, total=total, what=what
                )
            bar.update(shown, completed=1, total=1, what="")


def _place(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a bar shows of a logged line: its text, and how far it says it is."""
    known = {"completed": getattr(record, "done", None), "total": getattr(record, "total", None)}
    told = {key: value for key, value in known.items() if value is not None}
    return {"what": record.getMessage(), **told}


@contextmanager
def _heard(say: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """Pass on what is logged meanwhile, such as the epochs of a training."""
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: say(record)  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
