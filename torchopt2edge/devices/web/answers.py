"""What a page and a phone's browser say, checked: the one place for requests and their contents.

Whoever knows the page's address may send what he likes to the server of a job; a page is as little
ours as a device. Sizes, counts and times have bounds here; what the runner in the page answers in
its frames is checked as that of any runner (`frames`, `bench.answers`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

LARGEST_ANSWER = 1 << 29
"""Bytes of one answer of a page."""

LONGEST_NOTE = 1 << 16
"""Bytes of one line for the log."""

MOST_CONNECTIONS = 64
"""Connections at a time: a page needs a handful."""

_LATEST_NS = 1 << 62
_MOST_TABS = 1000
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_LENGTH = re.compile(r"\d{1,12}", re.ASCII)
_TAB = re.compile(r"[\w.-]{1,100}", re.ASCII)


def length(text: str | None, most: int) -> int | None:
    """Return how long a request's body is, None where that is not told or beyond ``most``."""
    found = _LENGTH.fullmatch(text or "")
    return int(found[0]) if found and int(found[0]) <= most else None


def number(query: str) -> int:
    """Return which frame is meant (``?3``); 0, which none has, where that is not said."""
    return int(query) if _NUMBER.fullmatch(query) else 0


def nanoseconds(value: object) -> int | None:
    """Return a time of the page's clock, None where it is none."""
    return value if type(value) is int and 0 <= value <= _LATEST_NS else None


def receipt(header: Mapping[str, Any], ours: Mapping[str, Any]) -> Any:
    """Return the page's receipt with what is known here of its browser."""
    given = header.get("receipt")
    return {**given, **ours} if isinstance(given, dict) else given


def tabs(body: bytes, url: str) -> list[str]:
    """Return the ids of the tabs that show a page, out of the list of the developer tools."""
    try:
        listed = json.loads(body)
    except (ValueError, RecursionError):
        return []
    if not isinstance(listed, list):
        return []
    found = [one for one in listed[:_MOST_TABS] if isinstance(one, dict)]
    shown = [one.get("id") for one in found if str(one.get("url", "")).startswith(url)]
    return [one for one in shown if isinstance(one, str) and _TAB.fullmatch(one)]
