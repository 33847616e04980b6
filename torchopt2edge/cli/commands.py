"""The commands that a config drives: what each does, and the keys that it has."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torchopt2edge.cli.config_check import inside, nearest
from torchopt2edge.conf.registry import options
from torchopt2edge.errors import ConfigError

Plain = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True)
class Command:
    """A command as its help shows it."""

    what: str
    groups: tuple[str, ...]
    examples: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def more(self) -> str:
        """Examples, and the options of each group, as they lie in the package."""
        lines = ["examples:", *(f"  torchopt2edge {one}" for one in self.examples), ""]
        if self.groups:
            lines.append("groups (GROUP=OPTION):")
        return "\n".join([*lines, *map(_line, self.groups)])

    def check_groups(self, config: Mapping[str, Any]) -> None:
        """Refuse a config in which a group that the command cannot do without is empty.

        Raises:
            ConfigError: names the group and its options.
        """
        for group in self.groups:
            if group not in self.optional and not config.get(group):
                raise ConfigError(
                    f"nothing is chosen for {group!r}",
                    hint=f"{group}=OPTION, of {', '.join(options(group))}",
                )


def _line(group: str) -> str:
    width = max(shutil.get_terminal_size().columns - 2, 20)  # what argparse keeps to
    return textwrap.fill(
        f"{group}: {', '.join(options(group))}",
        width,
        initial_indent="  ",
        subsequent_indent="    ",
    )


def add_parsers(actions: Any, run: Callable[[argparse.Namespace], int]) -> None:
    """Add the commands to the command line's subparsers; ``run`` runs them."""
    for name, command in COMMANDS.items():
        one = actions.add_parser(
            name,
            help=command.what,
            description=f"{command.what[0].upper()}{command.what[1:]}.",
            epilog=command.more,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.add_argument("overrides", nargs="*", help="key=value, as in Hydra")
        one.add_argument("-m", "--multirun", action="store_true", help="sweep over a,b,c values")
        one.add_argument("--config-dir", help="a folder with yaml groups of your own")
        one.add_argument("--cfg", action="store_true", help="print the resolved config and stop")
        one.set_defaults(run=run, command=name)


def paths(node: Any, prefix: str = "") -> Iterator[str]:
    """Walk the dotted keys of a config, and the groups that choose its parts."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from paths(value, f"{prefix}{key}.")


def stray(
    command: str, config: Mapping[str, Any], plain: Mapping[str, Any], chosen: Mapping[str, Any]
) -> Iterator[str]:
    """Walk the keys of a config that nobody reads.

    A key is read when the command's own config or a chosen option of a group has it, inside a
    ``_target_``, where an interpolation names it, or below a root that a yaml
    of the user's own brought.

    Args:
        command: one of `COMMANDS`.
        config: as it was composed, interpolations left as they are.
        plain: the command's config without any override.
        chosen: with those alone that choose options of groups.
    """
    own, known = {*plain, *COMMANDS[command].groups}, set(paths(chosen))
    named = re.findall(r"\$\{(?:[\w.]+:)?([\w.]+)", str(config))
    for root, node in config.items():
        if root in own:
            keys = [
                key for key in _ends(node, root) if key not in known and not inside(config, key)
            ]
        elif options(root):  # a group of ours that another command has
            keys = [root]
        else:
            keys = [] if root in chosen else list(_ends(node, root))
        yield from (key for key in keys if root in own or not any(map(partial(_meet, key), named)))


def _meet(one: str, other: str) -> bool:
    """Whether one of two dotted keys holds the other, or is it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _ends(node: Any, key: str) -> Iterator[str]:
    """Walk the dotted keys that hold no others."""
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _ends(value, f"{key}.{name}")
    else:
        yield key


def unknown(key: str, command: str, chosen: Mapping[str, Any], plain: Plain) -> str:
    """Say that a command has no such key, and where it is, or which is the nearest.

    ``chosen`` is the command's config with its options of groups, ``plain`` composes that of any
    command without them.
    """
    root, said = key.partition(".")[0], f"There is no key {key!r} here."
    groups = COMMANDS[command].groups
    if root in groups and root not in chosen:
        choice = f"{root}=OPTION, of {', '.join(options(root))}"
        return f"{said}\nNothing is chosen for {root!r}: {choice}"
    option = key.split(".")[1:2]
    if root in groups and "_target_" not in chosen[root] and set(option) & set(options(root)):
        choice = ",".join([*chosen[root], *option])
        return f"{said}\nIts option is not chosen: '{root}=[{choice}]'"
    if root not in {*plain(command), *groups}:
        others = [
            name
            for name, one in COMMANDS.items()
            if root in one.groups or key in set(paths(plain(name)))
        ]
        if others:
            return f"{said}\nThese commands have it: {', '.join(others)}"
    return said + (nearest(key, {*paths(chosen), *groups}) or "\n--cfg prints those there are.")


def quoted(value: str) -> str:
    """Return a value, or each of a list, in the quotes that Hydra wants around odd signs."""
    if value.startswith("["):
        return f"[{','.join(map(quoted, value.strip('[]').split(',')))}]"
    return f'"{value}"'


def unwritable(folder: object, key: str, error: OSError) -> ConfigError:
    """Return the error of a run's folder that cannot be written; ``key`` chooses another."""
    return ConfigError(
        f"the run's folder cannot be written: {error.strerror}",
        artifact=folder,
        hint=f"{key}=FOLDER, where you can write",
    )


def cause(error: BaseException) -> str:
    """Return the first line of the innermost cause: Hydra wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0].rstrip('.')}"


COMMANDS = {
    "optimize": Command(
        "the whole road: train, distil, prune, export, quantize, measure, choose",
        ("experiment", "data", "task", "stage", "backend", "device", "protocol"),
        (
            "optimize",
            "optimize prune.dry_run=true",
            "optimize protocol=standard device.threads=2",
            "optimize -m stage.pruned.macs=0.3,0.5,0.7",
        ),
        optional=("experiment",),
    ),
    "compare": Command(
        "lower, check, score and time a trained model",
        ("model", "data", "task", "backend", "device", "protocol"),
        (
            "compare model.path=net.onnx data=image_folder data.root=photos",
            "compare model._target_=mypkg.net checkpoint=net.pth data=digits",
        ),
        optional=("data",),
    ),
    "quantize": Command(
        "make a trained model's files for every runtime and check them; time none",
        ("model", "data", "task", "backend", "device"),
        (
            "quantize model.path=net.onnx data=image_folder data.root=photos",
            "quantize model=mobilenet_v2 data=digits quantize.sensitivity=true",
        ),
        optional=("data",),
    ),
    "bench": Command(
        "time files that exist, in turns",
        ("device", "protocol"),
        ("bench 'artifacts=[a.onnx,b.tflite]' protocol=standard",),
    ),
    "report": Command(
        "render a finished run again, or hold a second one against it",
        (),
        ("report run=outputs/digits-…", "report run=before run=after report.max_regression=5%"),
    ),
}
