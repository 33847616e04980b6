"""The commands beside a run (converter, doctor, devices), and the console output of a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.cli.console import console
from torchopt2edge.errors import ConfigError, contained

if TYPE_CHECKING:
    from torchopt2edge.compression.pruning.explain import Explanation
    from torchopt2edge.interfaces import Device
    from torchopt2edge.workflow.result import Result

OnDevice = Callable[["Callable[[Device], int]", Sequence[str]], int]
"""Builds the device that overrides describe and calls a function with it; returns the exit code."""


def add_commands(commands: Any, on_device: OnDevice) -> None:
    """Add the commands to the command line's subparsers.

    Args:
        commands: what `argparse.ArgumentParser.add_subparsers` returned.
        on_device: calls a function with the device that overrides describe.
    """
    converter = commands.add_parser(
        "converter", help="the sealed onnx2tf/TensorFlow environment: install, info"
    )
    actions = converter.add_subparsers(required=True, metavar="ACTION")
    install = actions.add_parser("install", help="build it (about a minute, once)")
    install.add_argument("--python", help="build it with this interpreter")
    install.set_defaults(run=_converter_install)
    info = actions.add_parser("info", help="its path and the versions in it")
    info.add_argument("--python", help="an interpreter of yours that has onnx2tf")
    info.set_defaults(run=_converter_info)
    doctor = commands.add_parser("doctor", help="what is missing, and the command that fixes it")
    doctor.add_argument("overrides", nargs="*", help="device=ssh device.host=pi: check it there")
    doctor.set_defaults(run=partial(_doctor, on_device))
    clean = _add_devices(commands, on_device)
    for parser in (install, info, clean):
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_devices(commands: Any, on_device: OnDevice) -> argparse.ArgumentParser:
    devices = commands.add_parser("devices", help="the devices in reach, and how to name each")
    devices.add_argument("--connect", action="store_true", help="ask the hosts of ~/.ssh/config")
    devices.add_argument("--json", action="store_true", help="print the facts as JSON")
    devices.set_defaults(run=_devices)
    actions = devices.add_subparsers(metavar="ACTION")
    clean: argparse.ArgumentParser = actions.add_parser("clean", help="remove our files there")
    clean.add_argument("overrides", nargs="*", help="device=ssh device.host=pi")
    clean.set_defaults(run=partial(_devices_clean, on_device))
    return clean


def render(runs: Sequence[str], max_regression: Any, out: str | None) -> int:
    """Render a run again, or compare two.

    Args:
        runs: the folder of one run, or of the one before and the one after.
        max_regression: the share by which the second may be worse, such as ``5%``; None: any.
        out: where the comparison goes; None: into the second run's folder.

    Returns:
        1 when the second run is worse than ``max_regression`` allows, else 0.

    Raises:
        ConfigError: more than two runs, a folder that holds none, or a limit that is no share.
    """
    from torchopt2edge import api

    if len(runs) not in (1, 2):
        raise ConfigError(f"{len(runs)} runs cannot be compared", hint="run=BEFORE run=AFTER")
    # Whoever edited a folder may have left anything in it.
    with contained("a file of the run holds what no run writes", ConfigError, artifact=runs[0]):
        if len(runs) == 2:
            return _compare(Path(runs[0]), Path(runs[1]), max_regression, out)
        show(api.render(runs[0]))
        return 0


def _compare(before: Path, after: Path, max_regression: Any, out: str | None) -> int:
    """Print and write how two runs differ, on one device or on each of several."""
    from torchopt2edge import report
    from torchopt2edge.report.diff import compare as diff
    from torchopt2edge.report.diff import devices as diff_devices
    from torchopt2edge.report.diff import devices_write as diff_devices_write
    from torchopt2edge.report.diff import text as diff_text
    from torchopt2edge.report.diff import write as diff_write
    from torchopt2edge.report.diff.limits import parse_share

    limit = None if max_regression is None else parse_share(max_regression)
    folder, stdout = Path(out or after), console()
    difference: diff.RunDiff | diff_devices.DevicesDiff
    if diff_devices.holds(before, after):
        difference = diff_devices.read(before, after, limit)
        difference = replace(difference, titles=_distinct(difference.titles, before, after))
        diff_devices_write.write(folder, difference)
        diff_devices_write.render_console(stdout, difference)
    else:
        difference = diff.compare(report.read(before), report.read(after), limit)
        difference = replace(difference, titles=_distinct(difference.titles, before, after))
        diff_write.write(folder, difference)
        diff_write.render_console(stdout, difference)
    stdout.print(f"comparison: {folder / diff_text.PAGE}", markup=False, highlight=False)
    return 1 if difference.broken else 0


def _distinct(titles: tuple[str, str], before: Path, after: Path) -> tuple[str, str]:
    """Return the titles of two runs, or the names of their folders where the titles are equal."""
    return titles if titles[0] != titles[1] else (before.resolve().name, after.resolve().name)


def show(result: Result) -> None:
    """Print a run's verdict and the path of its report."""
    from torchopt2edge import report
    from torchopt2edge.report.devices import table as device_table
    from torchopt2edge.report.devices import write as device_write

    stdout = console()
    if result.devices:
        device_write.render_console(stdout, device_table.read(result.out))
    else:
        report.show(stdout, result.rows, result.verdict)
    stdout.print(f"report: {result.out / 'report.html'}", markup=False, highlight=False)


def show_cuts(explanations: Mapping[str, Explanation]) -> None:
    """Print what each pruning stage would cut, and which layers it leaves whole and why."""
    stdout = console()
    for stage, explanation in explanations.items():
        stdout.print(f"{stage}:", markup=False, highlight=False)
        stdout.print(explanation.table())
        for layer, reason in explanation.kept.items():
            stdout.print(f"not cut: {layer}: {reason}", markup=False, highlight=False)


def _converter_install(arguments: argparse.Namespace) -> int:
    from torchopt2edge import converter

    stdout = console()
    python = Path(arguments.python) if arguments.python else None
    environment = converter.install(
        python=python, progress=lambda line: stdout.print(line, markup=False, highlight=False)
    )
    stdout.print(f"ready: {environment.python}", markup=False, highlight=False)
    return 0


def _converter_info(arguments: argparse.Namespace) -> int:
    from torchopt2edge import converter

    environment = converter.find(arguments.python)
    versions: Mapping[str, str] = converter.versions(environment)
    facts = {"python": str(environment.python), "versions": versions}
    sys.stdout.write(f"{json.dumps(facts, indent=1)}\n")
    return 0


def _doctor(on_device: OnDevice, arguments: argparse.Namespace) -> int:
    from torchopt2edge.cli import device_doctor, doctor

    if arguments.overrides:
        return on_device(device_doctor.show, arguments.overrides)
    checks = doctor.examine()
    doctor.render(console(), checks)
    return 1 if doctor.worst(checks) == "fail" else 0


def _devices(arguments: argparse.Namespace) -> int:
    from torchopt2edge.cli import devices

    devices.show(arguments.connect, arguments.json)
    return 0


def _devices_clean(on_device: OnDevice, arguments: argparse.Namespace) -> int:
    from torchopt2edge.cli import devices

    return on_device(devices.show_clean, arguments.overrides)
