"""Chatter goes, exceptions stay, and the terminal is given back."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

from torchopt2edge.backends.silence import quiet

PROGRAM = """
import logging, os, sys, warnings
from torchopt2edge.backends.silence import quiet
with quiet():
    os.write(2, b"native\\n")
    print("python", file=sys.stderr)
    warnings.warn("chatter")
    logging.getLogger("library").addHandler(logging.StreamHandler())
    print("stdout stays")
logging.getLogger("library").warning("after")
"""


def test_what_is_printed_on_stderr_goes() -> None:
    """In a process of its own: pytest's stderr is not the file descriptor's."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stderr == "after\n"  # a handler that was made in there still has its stream
    assert done.stdout == "stdout stays\n"


def test_exceptions_pass_and_the_terminal_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    open_before = len(os.listdir("/proc/self/fd"))

    def fail() -> None:
        with quiet():
            os.write(2, b"native\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_warnings_are_heard_again() -> None:
    with quiet():
        pass
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)
