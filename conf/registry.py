"""The groups of the configuration: their options, and one option by its name, without Hydra.

A group is a folder beside this file and an option one of its yaml files. An interpolation
(``${…}``) needs a composed config: `build` leaves such a field to the default of the class.
"""

from __future__ import annotations

import importlib
from importlib import resources
from typing import Any

from torchopt2edge.errors import ConfigError

PACKAGE = "torchopt2edge.conf"


def groups() -> list[str]:
    """Name the groups; a folder that starts with an underscore holds parts of other options."""
    root = resources.files(PACKAGE)
    return sorted(item.name for item in root.iterdir() if item.is_dir() and item.name[0] != "_")


def options(group: str) -> list[str]:
    """Name the options of a group; none where there is no such group."""
    folder = resources.files(PACKAGE) / group
    names = (item.name for item in folder.iterdir()) if folder.is_dir() else ()
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load(group: str, name: str) -> dict[str, Any]:
    """Return the fields of an option, its ``_target_`` among them.

    Raises:
        ConfigError: there is no such option; the hint lists those there are.
    """
    known = options(group)
    if name not in known:
        raise ConfigError(f"there is no {group} {name!r}", hint=f"one of {', '.join(known)}")
    node = read(f"{group}/{name}")
    # Of a group whose options are combined, such as backend, each file names its own part.
    part: dict[str, Any] = node if "_target_" in node else node.get(name, node)
    return part


def read(name: str) -> dict[str, Any]:
    """Return a yaml of the package as it is written; ``name`` is a command or ``group/option``."""
    import yaml

    node: dict[str, Any] = yaml.safe_load((resources.files(PACKAGE) / f"{name}.yaml").read_text())
    return node


def target(path: str) -> Any:
    """Return the class or function that a ``_target_`` names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def build(group: str, name: str) -> Any:
    """Build what an option describes.

    Raises:
        ConfigError: there is no such option; the hint lists those there are.
    """
    node = load(group, name)
    plain = {key: value for key, value in node.items() if not str(value).startswith("${")}
    return target(plain.pop("_target_"))(**plain)
