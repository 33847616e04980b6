"""The lines of a tool's output: marks of log and terminal taken off, half lines left out."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from torchopt2edge.errors import BenchError

# 9.99242e+06 and -nan are both printed; 1,97 is no number of theirs, and above all it is not 1.
NUMBER = r"[-+]?(?:\d++\.?\d*+(?:[eE][-+]?\d++)?+(?!,\d)|nan|inf)"

_TAIL = 5
_WIDTH = 200
_MOST = 2.0**53
_MS = {"s": 1e3, "sec": 1e3, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "ns": 1e-6}
_VALUE = re.compile(rf"({NUMBER})\s*(sec|s|ms|us|µs|ns)\b")
# The second form is a key that was pressed while the tool ran (tensorflow#62775).
_COMMA = re.compile(r"[=:]\s*\d+,\d")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\^\[\[[0-9;]*[A-Za-z~]")
_STAMP = r"(?:\d{4}-)?\d\d-\d\d\s+\d\d:\d\d:\d\d\.\d+"
_MARK = re.compile(
    rf"""\s*(?:
      {_STAMP}\s+\d+\s+\d+\s+(?P<thread>[VDIWEF])\s+[^\s:]+\s*:      # logcat -v threadtime
    | (?:{_STAMP}\s+)?(?P<brief>[VDIWEF])/[^\s(:]+\s*(?:\(\s*\d+\))?:  # logcat -v time, brief, tag
    | (?P<level>VERBOSE|DEBUG|INFO|WARN|WARNING|ERROR|FATAL):
    | \[[\w./-]+\.(?:h|cc|cpp):\d+\]                                 # [benchmark_litert_model.h:92]
    | {_STAMP}:\s+(?P<dated>[IWEF])\s+\S+\]                          # TensorFlow
    | (?P<absl>[IWEF])\d{{4}}\s+\d\d:\d\d:\d\d\.\d+\s+\d+\s+\S+\]    # absl
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Line:
    """One whole line without its marks; ``error`` when the tool wrote it as an error."""

    text: str
    error: bool = False


def read(text: str) -> list[Line]:
    """Return the whole lines of an output, none of them blank.

    What follows the last line break is left out: a number that was cut (``avg=348``) looks like
    a number.
    """
    broken = re.split(r"[\r\n]+", text)[:-1]
    return [line for line in map(_clean, broken) if line.text]


def positive(value: str | float | None) -> float | None:
    """Return a printed number, or None when it says nothing: a time of 0, nan and inf do not."""
    number = math.nan if value is None else float(value)
    return number if 0 < number < math.inf else None


def spread(value: str | float | None) -> float | None:
    """Return a printed standard deviation, which may be 0, or None when it is no number."""
    number = math.nan if value is None else float(value)
    return number if 0 <= number < math.inf else None


def whole(value: str | float | None) -> int | None:
    """Return a printed count, or None when it is 0, negative (a default) or absurd."""
    number = positive(value)
    return None if number is None or number > _MOST else int(number)


def duration(text: str | None) -> float | None:
    """Return the milliseconds of ``0.0559777sec``, ``196 ms`` or ``33 us``.

    A number without a unit is None: it may be the first half of another.
    """
    found = _VALUE.match(text or "")
    number = positive(found[1]) if found else None
    return None if found is None or number is None else number * _MS[found[2]]


def nothing(tool: str, text: str, why: str, hint: str) -> BenchError:
    """Return the error for an output that holds no measurement, with the tool's last lines."""
    if _COMMA.search(text):
        hint = "run the tool with LC_ALL=C, which writes numbers with a point and not with a comma"
    lines = [found for each in re.split(r"[\r\n]+", text) if (found := each.strip())]
    last = " | ".join(each[:_WIDTH] for each in lines[-_TAIL:]) or "nothing at all"
    return BenchError(f"{why}; its last lines: {last}", artifact=tool, hint=hint)


def _clean(raw: str) -> Line:
    text, error = _ESCAPE.sub("", raw), False
    while found := _MARK.match(text):
        text = text[found.end() :]
        error = error or any(mark and mark[0] in "EF" for mark in found.groups())
    return Line(text.strip(), error)
