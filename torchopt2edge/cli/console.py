"""What a command shows and keeps: the console, progress, log lines."""

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
    """Let a stream show ``?`` for a sign that its encoding lacks, in place of an exception."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def console(err: bool = False) -> Console:
    """Return a console on stdout, or on stderr where lines are not broken."""
    from rich.console import Console

    return Console(stderr=err, soft_wrap=err)


def progress() -> Progress:
    """Return bars when stderr is a terminal, log lines when it is not."""
    from torchopt2edge.workflow.progress import LogProgress, RichProgress

    shown = console(err=True)
    return RichProgress(shown) if shown.is_terminal else LogProgress()


def log_to(folder: Path) -> None:
    """Write every line into the run's folder; on a terminal show only what needs attention."""
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    shown = logging.StreamHandler(sys.stderr)
    shown.setLevel(logging.WARNING if sys.stderr.isatty() else logging.INFO)
    shown.setFormatter(logging.Formatter("%(message)s"))
    kept = logging.FileHandler(folder / "run.log")
    kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(shown)
    log.addHandler(kept)


def say_interrupted(folder: Path, began: float) -> None:
    """After Ctrl-C: name the report of what was measured since ``began``, if one was written."""
    page = folder / "report.html"
    left = page.is_file() and page.stat().st_mtime >= began
    said = f"what was measured until then: {page}" if left else "nothing was measured"
    console(err=True).print(f"interrupted; {said}", markup=False, highlight=False)
