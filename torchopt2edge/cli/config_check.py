"""What the parts of a config may hold: the fields that a ``_target_`` takes, and their values."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torchopt2edge.errors import ConfigError
from torchopt2edge.types import SCHEMES

Find = Callable[[str], Callable[..., Any] | None]
_PLAIN: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool}
_WORDS = {"int": "a whole number", "float": "a number", "str": "a word", "bool": "true or false"}


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a line that asks for the nearest of the known words, "" when none is near."""
    found = difflib.get_close_matches(word, list(known), 1)
    return f"\nDid you mean {found[0]!r}?" if found else ""


def targets(node: Any, name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Walk the parts of a config that name a ``_target_``: (dotted key, part)."""
    if isinstance(node, Mapping):
        if node.get("_target_"):
            yield name, node
        for key, value in node.items():
            yield from targets(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for at, value in enumerate(node):
            yield from targets(value, f"{name}[{at}]")


def inside(config: Mapping[str, Any], key: str) -> str:
    """Return the dotted key of the innermost part with a ``_target_`` that holds a key; else ""."""
    found, node, at = "", config, ""
    for name in key.split(".")[:-1]:
        node, at = node[name], f"{at}.{name}".lstrip(".")
        found = at if node.get("_target_") else found
    return found


def untaken(config: Mapping[str, Any], keys: Iterable[str], find: Find) -> str:
    """Say which of the dotted keys of a config its ``_target_`` does not take; "" where all are.

    ``find`` returns what a ``_target_`` names.
    """
    parts = dict(targets(config))
    for key in keys:
        owner = inside(config, key)
        name = key.removeprefix(f"{owner}.").partition(".")[0]
        if owner and (target := find(parts[owner]["_target_"])):
            for what, near, known in _unfit(target, [name], owner):
                return f"{what}.\nDid you mean {near!r}?" if near else f"{what}.\nIt takes {known}."
    return ""


def check_names(target: Callable[..., Any], given: Iterable[str], name: str) -> None:
    """Hold the keys of a part of a config against what its ``_target_`` takes.

    Raises:
        ConfigError: names the key that it does not take, and the nearest that it does.
    """
    for what, near, known in _unfit(target, given, name):
        raise ConfigError(what, hint=near or f"one of {known}")


def _unfit(
    target: Callable[..., Any], given: Iterable[str], name: str
) -> Iterator[tuple[str, str, str]]:
    """Walk the keys that are not taken: what is wrong, the nearest key, the names of all."""
    try:
        takes = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # one written in C that does not say
        return
    if any(one.kind is one.VAR_KEYWORD for one in takes):
        return
    known = [one.name for one in takes if one.kind not in (one.POSITIONAL_ONLY, one.VAR_POSITIONAL)]
    for key in given:
        if key not in known and not key.startswith("_"):
            near = [f"{name}.{one}" for one in difflib.get_close_matches(key, known, 1)]
            what = f"{name}.{key} is no field of {getattr(target, '__name__', target)}"
            yield what, "".join(near), ", ".join(known) or "none"


def listed(value: Any) -> list[Any]:
    """Return a list; a lone value where a list belongs (``schemes=int8``) is a list of one."""
    return [value] if isinstance(value, str | int | float) else list(value)


def check_schemes(words: Sequence[str]) -> Sequence[str]:
    """Return the names of schemes.

    Raises:
        ConfigError: one of them is none; names those there are.
    """
    for word in words:
        if word not in SCHEMES:
            raise ConfigError(
                f"there is no scheme {word!r}", hint=f"schemes=[…] of {', '.join(SCHEMES)}"
            )
    return words


def check_values(value: Any, name: str) -> None:
    """Hold the plain fields of what a config describes against their annotations, all the way in.

    A word where a number belongs would otherwise be found when it is used, which may be after
    the training of a net.

    Raises:
        ConfigError: names the key and the types that it takes.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_values(item, f"{name}.{key}" if name else str(key))
    for key, annotation, item in _annotated(value):
        full = f"{name}.{key}" if name else key
        _check(item, annotation, full)
        check_values(item, full)


def _annotated(value: Any) -> Iterator[tuple[str, Any, Any]]:
    """Walk the fields of a dataclass, or the keywords of a partial: name, annotation, value."""
    if is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield one.name, one.type, getattr(value, one.name)
    elif isinstance(value, functools.partial):
        known = inspect.signature(value.func).parameters
        for key, item in value.keywords.items():
            yield key, known[key].annotation if key in known else "", item


def _check(value: Any, annotation: Any, name: str) -> None:
    text = annotation if isinstance(annotation, str) else _text(annotation)
    try:
        node = ast.parse(text, mode="eval").body
    except SyntaxError:  # no annotation, or one that only its own module can read
        return
    if not _fits(value, node):
        shown = "null" if value is None else repr(value)
        raise ConfigError(f"{name} is {shown}", hint=f"{name} takes {_said(node)}")


def _text(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _fits(value: Any, node: ast.expr) -> bool:
    """Whether a value is of an annotation's type; what is not plain fits: its user judges it."""
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _fits(value, left) or _fits(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id=name) if name in _PLAIN:
            # True is an int to Python, and no number of epochs.
            return isinstance(value, _PLAIN[name]) and (
                name == "bool" or not isinstance(value, bool)
            )
        case ast.Subscript(value=ast.Name(id="tuple" | "list" | "Sequence"), slice=items):
            if not isinstance(value, list | tuple):
                return False
            each = _each(items, len(value))
            return len(each) == len(value) and all(map(_fits, value, each))
    return True


def _each(items: ast.expr, count: int) -> list[ast.expr]:
    """Return the annotation of each of ``count`` items."""
    if not isinstance(items, ast.Tuple):
        return [items] * count
    if isinstance(last := items.elts[-1], ast.Constant) and last.value is ...:
        return items.elts[:1] * count
    return items.elts


def _said(node: ast.expr) -> str:
    """Return an annotation in plain words."""
    match node:
        case ast.BinOp(left=left, right=right):
            return f"{_said(left)}, or {_said(right)}"
        case ast.Constant(value=None):
            return "null"
        case ast.Name(id=name) if name in _WORDS:
            return _WORDS[name]
        case ast.Subscript(slice=ast.Tuple(elts=[first, *_])) | ast.Subscript(slice=first):
            return f"a list of which each is {_said(first)}"
    return ast.unparse(node)
