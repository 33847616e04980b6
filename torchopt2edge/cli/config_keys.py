"""The keys of a composed config: which of them nothing reads, and the nearest right name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torchopt2edge.cli import renamed
from torchopt2edge.cli.commands import COMMANDS
from torchopt2edge.cli.parameters import Find, Parameters, parameters_of
from torchopt2edge.conf import registry


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a line that asks for the nearest of the known words, "" when none is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"\nDid you mean {renamed.KEYS.get(near[0], near[0])!r}?" if near else ""


def paths(node: Any, prefix: str = "") -> Iterator[str]:
    """Walk the dotted keys of a config, those of its parts among them."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from paths(value, f"{prefix}{key}.")


def targets(node: Any, name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Walk the parts of a config that name a ``_target_``: (dotted key, part)."""
    if isinstance(node, Mapping):
        if node.get("_target_"):
            yield name, node
        for key, value in node.items():
            yield from targets(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, value in enumerate(node):
            yield from targets(value, f"{name}[{index}]")


def owner(config: Mapping[str, Any], key: str) -> str:
    """Return the dotted key of the innermost part with a ``_target_`` around a key, else ""."""
    innermost, node, path = "", config, ""
    for name in key.split(".")[:-1]:
        node, path = node[name], f"{path}.{name}".lstrip(".")
        innermost = path if node.get("_target_") else innermost
    return innermost


def unread(command: str, config: Mapping[str, Any], chosen: Mapping[str, Any], find: Find) -> str:
    """Return what is wrong with the keys that overrides added; "" where each of them is read.

    Args:
        command: one of `COMMANDS`.
        config: as it was composed, interpolations left as they are.
        chosen: with those overrides alone that choose options of groups.
        find: imports what a ``_target_`` names.
    """
    for key in _strays(command, config, chosen):
        return _unknown(key, command, chosen)
    parts = dict(targets(config))
    for key in sorted(set(paths(config)) - set(paths(chosen))):
        if part := owner(config, key):
            name = key.removeprefix(f"{part}.").partition(".")[0]
            parameters = parameters_of(parts[part]["_target_"], find)
            for message, near, known in unfit(parameters, [name], part):
                hint = f"Did you mean {near!r}?" if near else f"It takes {known}."
                return f"{message}.\n{hint}"
    return ""


def unfit(
    parameters: Parameters | None, keys: Iterable[str], part: str
) -> Iterator[tuple[str, str, str]]:
    """Walk the keys of a part that its ``_target_`` does not take.

    Yields:
        What is wrong, the nearest key ("" when none is near), the names of all parameters.
    """
    if parameters is None or parameters.any_name:
        return
    known = list(parameters.types)
    for key in keys:
        if key not in known and not key.startswith("_"):
            near = [f"{part}.{name}" for name in difflib.get_close_matches(key, known, 1)]
            message = f"{part}.{key} is no field of {parameters.owner}"
            yield message, "".join(near), ", ".join(known) or "nothing"


_NAMED_BY_USERS = ("shapes",)
"""Keys whose value is a dict with names of the user's own: the inputs of a model."""


def _strays(command: str, config: Mapping[str, Any], chosen: Mapping[str, Any]) -> Iterator[str]:
    """Walk the keys of a config that nothing reads.

    A key is read when the command's own config or a chosen option of a group has it, inside a
    ``_target_``, where an interpolation names it, or below a root that a yaml of the user's own
    brought.
    """
    own, known = _roots(command), set(paths(chosen))
    interpolated = re.findall(r"\$\{(?:[\w.]+:)?([\w.]+)", str(config))
    for root, node in config.items():
        if root in _NAMED_BY_USERS:
            continue
        if root in own:
            added = [key for key in _leaves(node, root) if key not in known]
            yield from (key for key in added if not owner(config, key))
        elif registry.options(root) or root not in chosen:
            # A group that another command has, or a root that no yaml brought.
            keys = iter([root]) if registry.options(root) else _leaves(node, root)
            yield from (
                key for key in keys if not any(_overlap(key, name) for name in interpolated)
            )


def _overlap(first: str, second: str) -> bool:
    """Return whether two dotted keys are equal, or one is inside the other."""
    return f"{first}.".startswith(f"{second}.") or f"{second}.".startswith(f"{first}.")


def _leaves(node: Any, key: str) -> Iterator[str]:
    """Walk the dotted keys that hold no others."""
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}")
    else:
        yield key


def _unknown(key: str, command: str, chosen: Mapping[str, Any]) -> str:
    """Return that a command has no such key, and where it is, or which is the nearest."""
    root, message = key.partition(".")[0], f"There is no key {key!r} here."
    groups = COMMANDS[command].groups
    if root in groups and root not in chosen:
        choice = f"{root}=OPTION, of {', '.join(registry.options(root))}"
        return f"{message}\nNothing is chosen for {root!r}: {choice}"
    option = key.split(".")[1:2]
    combined = root in groups and "_target_" not in chosen[root]
    if combined and set(option) & set(registry.options(root)):
        choice = ",".join([*chosen[root], *option])
        return f"{message}\nIts option is not chosen: '{root}=[{choice}]'"
    if root not in _roots(command):
        others = [name for name in COMMANDS if _has(name, root, key)]
        if others:
            return f"{message}\nThese commands have it: {', '.join(others)}"
    near = did_you_mean(key, {*paths(chosen), *groups, *renamed.KEYS})
    return message + (near or "\n--cfg prints those there are.")


def _has(command: str, root: str, key: str) -> bool:
    return root in COMMANDS[command].groups or key in set(paths(registry.read(command)))


def _roots(command: str) -> set[str]:
    """Return the first parts of the keys that a command has: its own and its groups."""
    node = registry.read(command)
    groups = (group for item in node["defaults"] if isinstance(item, Mapping) for group in item)
    return {*node, *groups, *COMMANDS[command].groups}
