"""The commands beside a run: converter install and info, doctor, devices, and report's two ways."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.cli import devices
from torchopt2edge.cli.console import console
from torchopt2edge.cli.devices import OnDevice
from torchopt2edge.errors import ConfigError

if TYPE_CHECKING:
    from torchopt2edge.compression.pruning.explain import Explanation
    from torchopt2edge.workflow.result import Result


def add_commands(commands: Any, on_device: OnDevice) -> None:
    """Add them to the command line's subparsers; ``on_device`` acts on what overrides describe."""
    converter = commands.add_parser(
        "converter", help="the sealed onnx2tf/TensorFlow environment: install, info"
    )
    actions = converter.add_subparsers(required=True, metavar="ACTION")
    install = actions.add_parser("install", help="build it (about a minute, once)")
    install.add_argument("--python", help="build it with this interpreter")
    install.set_defaults(run=_converter_install)
    info = actions.add_parser("info", help="where it is and the versions in it")
    info.add_argument("--python", help="an interpreter of yours that has onnx2tf")
    info.set_defaults(run=_converter_info)
    doctor = commands.add_parser("doctor", help="what is missing, and the command that fixes it")
    doctor.add_argument(
        "overrides", nargs="*", help="device=ssh device.host=pi: look there instead"
    )
    doctor.set_defaults(run=partial(_doctor, on_device))
    devices.add_commands(commands, on_device)
    for one in (install, info):
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")


def render(runs: Sequence[str], max_regression: Any, out: str | None) -> int:
    """Render a run again; of two say what changed, and return 1 when the second broke the limit.

    Raises:
        ConfigError: more than two runs, a folder that is none, or a limit that is no share.
    """
    from torchopt2edge import api

    if len(runs) == 1:
        show(api.render(runs[0]))
        return 0
    if len(runs) != 2:
        raise ConfigError(f"{len(runs)} runs cannot be compared", hint="run=BEFORE run=AFTER")
    return _compare(Path(runs[0]), Path(runs[1]), max_regression, out)


def _compare(before: Path, after: Path, max_regression: Any, out: str | None) -> int:
    """Say what changed from one run to the other, on one device or on each of several."""
    from torchopt2edge import report
    from torchopt2edge.report.diff import compare as diff
    from torchopt2edge.report.diff import devices as diff_devices
    from torchopt2edge.report.diff import devices_write as diff_devices_write
    from torchopt2edge.report.diff import text as diff_text
    from torchopt2edge.report.diff import write as diff_write
    from torchopt2edge.report.diff.limits import parse_share

    limit = None if max_regression is None else parse_share(max_regression)
    place, shown = Path(out or after), console()
    found: diff.RunDiff | diff_devices.DevicesDiff
    if diff_devices.holds(before, after):
        found = diff_devices.read(before, after, limit)
        found = replace(found, titles=_told_apart(found.titles, before, after))
        diff_devices_write.write(place, found)
        diff_devices_write.render_console(shown, found)
    else:
        found = diff.compare(report.read(before), report.read(after), limit)
        found = replace(found, titles=_told_apart(found.titles, before, after))
        diff_write.write(place, found)
        diff_write.render_console(shown, found)
    shown.print(f"comparison: {place / diff_text.PAGE}", markup=False, highlight=False)
    return 1 if found.broken else 0


def _told_apart(titles: tuple[str, str], before: Path, after: Path) -> tuple[str, str]:
    """Name runs of one title by their folders."""
    return titles if titles[0] != titles[1] else (before.resolve().name, after.resolve().name)


def show(result: Result) -> None:
    """Print a run's verdict and where its report lies."""
    from torchopt2edge import report
    from torchopt2edge.report.devices import table as device_table
    from torchopt2edge.report.devices import write as device_write

    shown = console()
    if result.devices:
        device_write.render_console(shown, device_table.read(result.out))
    else:
        report.show(shown, result.rows, result.verdict)
    shown.print(f"report: {result.out / 'report.html'}", markup=False, highlight=False)


def show_cuts(found: Mapping[str, Explanation]) -> None:
    """Print what every pruning would cut, and what stays whole and why."""
    shown = console()
    for name, cuts in found.items():
        shown.print(f"{name}:", markup=False, highlight=False)
        shown.print(cuts.table())
        for layer, why in cuts.kept.items():
            shown.print(f"stays whole: {layer}: {why}", markup=False, highlight=False)


def _converter_install(given: argparse.Namespace) -> int:
    from torchopt2edge import converter

    shown = console()
    python = Path(given.python) if given.python else None
    made = converter.install(
        python=python, progress=lambda line: shown.print(line, markup=False, highlight=False)
    )
    shown.print(f"ready: {made.python}", markup=False, highlight=False)
    return 0


def _converter_info(given: argparse.Namespace) -> int:
    from torchopt2edge import converter

    found = converter.find(given.python)
    versions: Mapping[str, str] = converter.versions(found)
    sys.stdout.write(json.dumps({"python": str(found.python), "versions": versions}, indent=1))
    sys.stdout.write("\n")
    return 0


def _doctor(on_device: OnDevice, given: argparse.Namespace) -> int:
    from torchopt2edge.cli import device_doctor, doctor

    if given.overrides:
        return on_device(device_doctor.show, given.overrides)
    checks = doctor.examine()
    doctor.render(console(), checks)
    return 1 if doctor.worst(checks) == "fail" else 0
