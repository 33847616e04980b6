"""A command with its messages on a terminal, read as it writes them."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence


class Terminal:
    """The reading end of a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""

    def read_until(self, pattern: str) -> str:
        """Read until the pattern is there and return all that was read so far.

        Raises:
            AssertionError: every writer ended before that.
        """
        while not re.search(pattern, self.text):
            try:
                self.text += os.read(self._descriptor, 1 << 16).decode(errors="replace")
            except OSError:  # no writer is left
                raise AssertionError(f"{pattern!r} was not shown: {self.text}") from None
        return self.text


def _as_from_a_shell() -> None:
    """Take Ctrl-C again: whoever runs the tests in the background may have it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def child_on_a_terminal(
    command: Sequence[str],
) -> Iterator[tuple[subprocess.Popen[bytes], Terminal]]:
    """Start a command whose stderr is a terminal 200 columns wide; kill it at the end."""
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "NO_COLOR": "1"}
    child = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=its,
        env=environment,
        preexec_fn=_as_from_a_shell,
    )
    os.close(its)
    try:
        yield child, Terminal(ours)
    finally:
        child.kill()
        child.wait()
        os.close(ours)
