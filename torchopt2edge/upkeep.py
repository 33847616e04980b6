"""The commands that look after the installation: converter install, converter info, doctor."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchopt2edge.terminal import console


def add_commands(commands: Any) -> None:
    """Add them to the command line's subparsers."""
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
    doctor = commands.add_parser("doctor", help="what is missing, and the command that mends it")
    doctor.set_defaults(run=_doctor)
    for one in (install, info):
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")


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


def _doctor(given: argparse.Namespace) -> int:
    from torchopt2edge import doctor

    checks = doctor.examine()
    doctor.render(console(), checks)
    return 1 if doctor.worst(checks) == "fail" else 0
