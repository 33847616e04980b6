"""The commands that a config drives: what each does, its groups, and its help."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torchopt2edge.conf.registry import options
from torchopt2edge.errors import ConfigError


@dataclass(frozen=True)
class Command:
    """A command as its help shows it.

    Args:
        summary: what it does, in one line.
        groups: the groups of configs that it takes options of.
        examples: command lines, without the program's name.
        optional: the groups that may be left out.
    """

    summary: str
    groups: tuple[str, ...]
    examples: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def epilog(self) -> str:
        """Examples, and the options of each group in the package."""
        lines = ["examples:", *(f"  torchopt2edge {example}" for example in self.examples), ""]
        if self.groups:
            lines.append("groups (GROUP=OPTION):")
        return "\n".join([*lines, *map(_group_line, self.groups)])

    def check_groups(self, config: Mapping[str, Any]) -> None:
        """Refuse a config without an option of a group that the command needs.

        Raises:
            ConfigError: names the group and its options.
        """
        for group in self.groups:
            if group not in self.optional and not config.get(group):
                raise ConfigError(
                    f"nothing is chosen for {group!r}",
                    hint=f"{group}=OPTION, of {', '.join(options(group))}",
                )


def add_parsers(actions: Any, run: Callable[[argparse.Namespace], int]) -> None:
    """Add the commands to the command line's subparsers.

    Args:
        actions: what `argparse.ArgumentParser.add_subparsers` returned.
        run: runs a command with its parsed arguments, and returns the exit code.
    """
    for name, command in COMMANDS.items():
        parser = actions.add_parser(
            name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("overrides", nargs="*", help="key=value, as in Hydra")
        parser.add_argument("-m", "--multirun", action="store_true", help="sweep over a,b,c values")
        parser.add_argument("--config-dir", help="a folder with yaml groups of your own")
        parser.add_argument("--cfg", action="store_true", help="print the resolved config and exit")
        parser.set_defaults(run=run, command=name)


def _group_line(group: str) -> str:
    return textwrap.fill(
        f"{group}: {', '.join(options(group))}",
        max(shutil.get_terminal_size().columns - 2, 20),  # the width of argparse itself
        initial_indent="  ",
        subsequent_indent="    ",
    )


COMMANDS = {
    "optimize": Command(
        "the full pipeline: train, distill, prune, export, quantize, measure, choose",
        ("experiment", "data", "task", "stage", "backend", "device", "timing"),
        (
            "optimize",
            "optimize prune.dry_run=true",
            "optimize timing=standard device.threads=2",
            "optimize -m stage.pruned.macs=0.3,0.5,0.7",
        ),
        optional=("experiment",),
    ),
    "compare": Command(
        "quantize, check, score and time a trained model",
        ("model", "data", "task", "backend", "device", "timing"),
        (
            "compare model.path=net.onnx data=image_folder data.root=photos",
            "compare model._target_=mypkg.net checkpoint=net.pth data=digits",
        ),
        optional=("data",),
    ),
    "quantize": Command(
        "write and check the files of a trained model for every runtime, without timing",
        ("model", "data", "task", "backend", "device"),
        (
            "quantize model.path=net.onnx data=image_folder data.root=photos",
            "quantize model=mobilenet_v2 data=digits quantize.sensitivity=true",
        ),
        optional=("data",),
    ),
    "bench": Command(
        "time existing files, in turns",
        ("device", "timing"),
        ("bench 'artifacts=[a.onnx,b.tflite]' timing=standard",),
    ),
    "report": Command(
        "render a finished run again, or compare two runs",
        (),
        ("report run=outputs/digits-…", "report run=before run=after report.max_regression=5%"),
    ),
}
