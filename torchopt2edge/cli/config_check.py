"""The check of a composed config: names and values, before anything is built or imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.cli.config_keys import targets, unfit
from torchopt2edge.cli.parameters import Find, Parameters, parameters_of
from torchopt2edge.cli.values import fits, in_words
from torchopt2edge.errors import ConfigError, EdgeError
from torchopt2edge.types import SCHEMES

# The parts of a config whose class is always the same one: no ``_target_`` names it.
CLASSES = {
    "bench": "torchopt2edge.bench.thread_settings.Bench",
    "constraints": "torchopt2edge.types.Constraints",
    "quantize": "torchopt2edge.quantize.options.Quantize",
}
_LISTS = {"bench": ("threads", "cores", "affinity"), "quantize": ("exclude",)}


class OverrideError(EdgeError):
    """An override that cannot be used; its text stands alone, and the exit code is 2."""

    def __str__(self) -> str:
        return self.what


def part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a part of `CLASSES` with its ``_target_``; a single value becomes a list of one."""
    node = {"_target_": CLASSES[name], **config[name]}
    lists = {key: listed(node[key]) for key in _LISTS.get(name, ()) if node[key] is not None}
    if "affinity" in lists:
        lists["affinity"] = [listed(cores) for cores in lists["affinity"]]
    return node | lists


def listed(value: Any) -> list[Any]:
    """Return a list; a single value in place of a list (``schemes=int8``) is a list of one."""
    return [value] if isinstance(value, str | int | float) else list(value)


def check_config(config: Mapping[str, Any], find: Find) -> None:
    """Check the fields of every part of a config against what its ``_target_`` takes.

    A word where a number belongs would otherwise be noticed when it is used, which may be after
    the training of a net.

    Args:
        config: composed and resolved, as plain data.
        find: imports what a ``_target_`` names.

    Raises:
        ConfigError: names the key, what is wrong, and what it takes.
    """
    parts = {name: part(config, name) for name in CLASSES if name in config}
    if "model" in config:
        parts["model"] = {key: value for key, value in config["model"].items() if value is not None}
    for name, node in targets({**config, **parts}):
        parameters = parameters_of(node["_target_"], find)
        for message, near, known in unfit(parameters, node, name):
            raise ConfigError(message, hint=near or f"one of {known}")
        check_values(node, parameters, name)
    check_schemes(listed(config.get("schemes") or ()))


def check_values(given: Mapping[str, Any], parameters: Parameters | None, name: str = "") -> None:
    """Check values against the types of the parameters that they are for.

    Raises:
        ConfigError: names the key and the types that it takes.
    """
    types = parameters.types if parameters is not None else {}
    for key, value in given.items():
        if key in types and not fits(value, types[key]):
            full = f"{name}.{key}" if name else key
            shown = "null" if value is None else repr(value)
            raise ConfigError(f"{full} is {shown}", hint=f"{full} takes {in_words(types[key])}")


def check_schemes(names: Sequence[str]) -> None:
    """Check the names of schemes.

    Raises:
        ConfigError: there is no such scheme; the hint lists all.
    """
    for name in names:
        if name not in SCHEMES:
            known = f"schemes=[…] of {', '.join(SCHEMES)}"
            raise ConfigError(f"there is no scheme {name!r}", hint=known)
