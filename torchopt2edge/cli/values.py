"""Whether a plain value is of an annotated type, and the type in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_PLAIN: dict[Any, tuple[Any, str]] = {
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a word"),
    bool: (bool, "true or false"),
    NoneType: (NoneType, "null"),
}


def fits(value: Any, kind: Any) -> bool:
    """Return whether a value is of a type.

    What is not plain fits, as does a part with a ``_target_`` of its own: whoever takes it judges.
    """
    origin, args = get_origin(kind), get_args(kind)
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if origin in (tuple, list, Sequence):
        return isinstance(value, list | tuple) and _items_fit(value, args)
    if kind in _PLAIN:
        # True is an int to Python, and no number of epochs.
        return isinstance(value, _PLAIN[kind][0]) and (kind is bool or not isinstance(value, bool))
    return True


def _items_fit(value: Sequence[Any], args: tuple[Any, ...]) -> bool:
    if len(args) == 1 or args[1:] == (...,):
        return all(fits(item, args[0]) for item in value)
    return len(args) == len(value) and all(map(fits, value, args))


def in_words(kind: Any) -> str:
    """Return a type in plain words, as in "a number, or null"."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return ", or ".join(map(in_words, args))
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (tuple, list, Sequence):
        return f"a list of which each is {in_words(args[0])}"
    if kind in _PLAIN:
        return _PLAIN[kind][1]
    return getattr(kind, "__name__", str(kind))
