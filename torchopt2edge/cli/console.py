"""The console of a command, its progress bars and its log."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from torchopt2edge.workflow.progress import Progress

log = logging.getLogger("torchopt2edge")


def never_fail(*streams: TextIO) -> None:
    """Let streams write ``?`` for a character that their encoding lacks, instead of failing."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def console(err: bool = False) -> Console:
    """Return a console on stdout, or one on stderr, which does not wrap lines."""
    from rich.console import Console

    return Console(stderr=err, soft_wrap=err)


def progress() -> Progress:
    """Return progress bars when stderr is a terminal, else log lines."""
    from torchopt2edge.workflow.progress import LogProgress, RichProgress

    stderr = console(err=True)
    return RichProgress(stderr) if stderr.is_terminal else LogProgress()


def log_to(folder: Path) -> None:
    """Write the log into the run's folder; on a terminal print only warnings and errors."""
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    printed = logging.StreamHandler(sys.stderr)
    printed.setLevel(logging.WARNING if sys.stderr.isatty() else logging.INFO)
    printed.setFormatter(logging.Formatter("%(message)s"))
    file = logging.FileHandler(folder / "run.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(printed)
    log.addHandler(file)


def report_interruption(folder: Path, start: float) -> None:
    """After Ctrl-C, name the report of what was measured, if one was written since ``start``."""
    page = folder / "report.html"
    written = page.is_file() and page.stat().st_mtime >= start
    result = f"what was measured until then: {page}" if written else "nothing was measured"
    console(err=True).print(f"interrupted; {result}", markup=False, highlight=False)
