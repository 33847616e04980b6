"""Config keys of the previous release: overrides and yaml files that name them work and warn."""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Iterable, Iterator

from torchopt2edge.conf.registry import options

# Old key, with * for a part of the path -> new name of its last part.
KEYS = {"protocol": "timing", "quantize.calibrator": "observer", "*.meter.protocol": "timing"}
_OVERRIDE = re.compile(r"([+~]*)([^=@]+)(.*)", re.DOTALL)


def overrides(texts: Iterable[str]) -> list[str]:
    """Return overrides with the new names of their keys.

    An option of a group is renamed only where the new group has it: a folder of the user's own may
    have the old name.
    """
    return [_override(text) for text in texts]


def keys(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (old, new) for each dotted key of a config that has an old name, and warn."""
    for path in paths:
        new = _new(path)
        if new != path:
            _warn(path, new)
            yield path, new


def _override(text: str) -> str:
    match = _OVERRIDE.fullmatch(text)
    if match is None:
        return text
    sign, key, rest = match.groups()
    head, _, field = key.partition(".")
    new = f"{_new(head)}.{field}" if field and _new(head) != head else _new(key)
    chosen = [name.strip() for name in rest.removeprefix("=").split(",")]
    if new == key or (not field and not set(chosen) <= set(options(new))):
        return text
    _warn(key, new)
    return f"{sign}{new}{rest}"


def _new(path: str) -> str:
    for pattern, name in KEYS.items():
        if fnmatch.fnmatchcase(path, pattern):
            return ".".join([*path.split(".")[:-1], name])
    return path


def _warn(old: str, new: str) -> None:
    text = f"{old} is now {new}; the old key works until the next release"
    warnings.warn(text, FutureWarning, stacklevel=2)
