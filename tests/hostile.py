"""Strategies for what a hostile device, runner or page sends: real messages that were mutated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("TORCHOPT2EDGE_TEST_EXAMPLES", "40"))
"""Examples of each kind of message; more take longer, and look further."""

NUMBERS = (
    st.sampled_from([0, -1, 1 << 31, 1 << 53, 1 << 63, 1 << 64, 10**400, 1e308, -0.0, 5e-324])
    | st.integers()
    | st.floats()
)
TEXTS = st.text(max_size=40) | st.sampled_from(
    [
        "/etc/passwd",
        "../../x",
        "\x1b[2J",
        "\0",
        "x" * 10_000,
        "²",
        "٣",
        "NaN",
        "0-4000000000",
        "\ud800",
    ]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
"""Anything that JSON can hold, deep and long values among it."""


@st.composite
def mutated(draw: st.DrawFn, message: Mapping[str, Any], depth: int = 2) -> dict[str, Any]:
    """A message with one to three of its values replaced, left out or added."""
    found = dict(message)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from([*message]) if message else TEXTS)
        how = draw(st.sampled_from(["replace", "drop", "add", "inside", "deep"]))
        inner = found.get(name)
        if how == "drop":
            found.pop(name, None)
        elif how == "add":
            found[draw(TEXTS)] = draw(VALUES)
        elif how == "inside" and isinstance(inner, dict) and inner and depth:
            found[name] = draw(mutated(inner, depth - 1))
        elif how == "inside" and isinstance(inner, list):
            found[name] = [*inner, draw(VALUES)]
        elif how == "deep":
            found[name] = nested(draw(st.sampled_from([3, 100, 900])))
        else:
            found[name] = draw(VALUES)
    return found


def nested(depth: int) -> Any:
    """A list in a list in a list …"""
    found: Any = []
    for _ in range(depth):
        found = [found]
    return found


@st.composite
def damaged(draw: st.DrawFn, message: bytes, snippets: tuple[bytes, ...] = ()) -> bytes:
    """Bytes with up to four places cut, doubled, overwritten, or filled with something hostile."""
    found = bytearray(message)
    junk = st.binary(max_size=12) | st.sampled_from(
        [b"\x1e", b"\n", b"\xff", b"\0", b"9" * 5000, b"-", b"1e400", b"/etc/passwd", b"../../../x",
         b"0-4000000000", b"\xc2\xb2", b"\xd9\xa3", *snippets]
    )  # fmt: skip
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(found)))
        end = draw(st.integers(at, min(len(found), at + 30)))
        found[at:end] = draw(junk) * draw(st.sampled_from([1, 1, 1, 50]))
    return bytes(found)
