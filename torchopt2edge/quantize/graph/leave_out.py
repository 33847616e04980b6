"""Find the fewest rewrites that must be left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def smallest(names: Sequence[str], holds: Callable[[Sequence[str]], bool]) -> tuple[str, ...]:
    """Return a smallest subset that holds, of a set that does (QuickXplain, Junker 2004).

    Args:
        names: all of them; ``holds(names)`` is true.
        holds: whether a subset suffices; a larger one then does too.
    """

    def search(fixed: tuple[str, ...], grown: bool, rest: tuple[str, ...]) -> tuple[str, ...]:
        if grown and holds(fixed):
            return ()
        if len(rest) == 1:
            return rest
        first, second = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        needed = search(fixed + first, bool(first), second)
        return search(fixed + needed, bool(needed), first) + needed

    return () if holds(()) else search((), False, tuple(names))
