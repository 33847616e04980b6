"""The command line: parses the arguments, and runs a command."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge._version import __version__
from torchopt2edge.cli import commands, maintenance
from torchopt2edge.cli.console import console, log_to, never_fail, progress, report_interruption
from torchopt2edge.errors import ConfigError, EdgeError

if TYPE_CHECKING:
    from torchopt2edge.cli.compose import DictConfig
    from torchopt2edge.interfaces import Device
    from torchopt2edge.workflow.result import Result
    from torchopt2edge.workflow.settings import SettingsArgs


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0, 1 for an error of ours, 2 for a wrong override, 130 for Ctrl-C.
    """
    from torchopt2edge.cli.config_check import OverrideError

    never_fail(sys.stdout, sys.stderr)
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except OverrideError as error:
        _print_error(str(error))
        return 2
    except EdgeError as error:
        if arguments.debug:
            raise
        _print_error(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def entry() -> None:
    """Exit with the command's exit code: the console script.

    A module in the working directory can be named in a ``_target_``, as with ``python -m``. The
    directory comes last, so that it hides no installed module.
    """
    sys.path.append(os.getcwd())
    sys.exit(main())


def _print_error(text: str) -> None:
    console(err=True).print(text, style="red", markup=False, highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchopt2edge",
        description="Take a trained PyTorch vision model to phones and boards, on evidence.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    actions = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parsers(actions, _run_configured)
    maintenance.add_commands(actions, _on_device)
    for each in {*actions.choices.values(), parser}:
        each.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _run_configured(arguments: argparse.Namespace) -> int:
    """Compose the config of a command and run it, or sweep."""
    from torchopt2edge.cli import compose

    command, overrides = arguments.command, [*arguments.overrides, *_search(arguments.config_dir)]
    if arguments.multirun:
        if arguments.cfg:
            raise ConfigError("-m makes several configs, and --cfg prints one", hint="leave -m out")
        return _sweep(command, overrides)
    config = compose.compose_config(command, overrides, whole=not arguments.cfg)
    if arguments.cfg:
        sys.stdout.write(compose.as_yaml(config))
        return 0
    if command == "report":
        runs = [text.partition("=")[2] for text in overrides if text.startswith("run=")]
        return maintenance.render(runs, config.report.max_regression, config.out)
    return 0 if _run(command, config) else 1


def _search(folder: str | None) -> list[str]:
    """Return the override that adds a folder of yaml groups to Hydra's search path."""
    if not folder:
        return []
    if not Path(folder).is_dir():
        raise ConfigError("--config-dir names no folder", artifact=folder)
    path = str(Path(folder).resolve()).replace("'", r"\'")
    return [f"hydra.searchpath=['file://{path}']"]


def _on_device(act: Callable[[Device], int], overrides: Sequence[str]) -> int:
    """Build the device that overrides describe, and do something with it."""
    from torchopt2edge.cli import compose

    config = compose.compose_config("bench", overrides)
    compose.check(config)
    return act(compose.build_part(config.device))


def _sweep(command: str, overrides: Sequence[str]) -> int:
    """Run the jobs of a sweep; return 1 when none of them could measure anything."""
    from torchopt2edge.cli import compose
    from torchopt2edge.report.devices import sweep

    for job in compose.jobs_of(overrides):
        compose.compose_config(command, job)
    try:
        jobs, errors, succeeded = compose.sweep(command, overrides, partial(_run, command))
    except OSError as error:
        raise _unwritable(error.filename, "hydra.sweep.dir", error) from error
    lost = {str(folder): str(error) for folder, error in errors.items()}
    sweep.show(console(), [(words, str(folder)) for words, folder in jobs], lost)
    return 0 if succeeded else 1


def _run(command: str, config: DictConfig, out: Path | None = None) -> bool:
    """Run a command in a folder; return whether anything could be measured."""
    from torchopt2edge.cli import build, compose

    commands.COMMANDS[command].check_groups(config)
    compose.check(config)
    build.check_inputs(config)
    if command == "optimize" and config.prune.dry_run:
        return _explain(config)
    default = f"outputs/{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(out or config.out or default)
    settings = build.settings(config, folder)
    _open(folder, compose.as_yaml(config))
    start = time.time()
    try:
        result = _ACTIONS[command](config, settings)
    except KeyboardInterrupt:
        report_interruption(folder, start)
        raise
    maintenance.show(result)
    return bool(result.worked)


def _explain(config: DictConfig) -> bool:
    """Print what would be cut."""
    from torchopt2edge import api
    from torchopt2edge.cli.compose import build_part

    cuts = api.explain_cuts(build_part(config.stage), progress=progress())
    maintenance.show_cuts(cuts)
    return True


def _optimize(config: DictConfig, settings: SettingsArgs) -> Result:
    from torchopt2edge import api
    from torchopt2edge.cli.compose import build_part
    from torchopt2edge.cli.config_check import listed

    data, stages = build_part(config.data), build_part(config.stage)
    return api.optimize(stages, data, ship=listed(config.ship), **settings)


def _compare(config: DictConfig, settings: SettingsArgs, verb: str = "compare") -> Result:
    from torchopt2edge import api
    from torchopt2edge.cli import build
    from torchopt2edge.cli.compose import build_part

    function: Callable[..., Result] = api.quantize if verb == "quantize" else api.compare
    if not config.get("data"):
        model, example = build.model(config, None)
        return function(model, example, **settings)
    from torchopt2edge.data import loader

    data = build_part(config.data)
    # Never test data: the samples that check the files may not be those that score them.
    calibration = loader(data.split("calibration"), batch_size=32)
    first = next(iter(calibration))
    labelled = getattr(data, "labelled", True)
    model, example = build.model(config, first[0] if labelled else first)
    test = loader(data.split("test"), batch_size=64) if labelled else None
    settings["preprocess"], settings["calibration_seed"] = data.preprocess, data.seed
    return function(model, example, calibration, test, **settings)


def _bench(config: DictConfig, settings: SettingsArgs) -> Result:
    from torchopt2edge import api
    from torchopt2edge.cli.config_check import listed

    return api.bench(listed(config.artifacts), **settings)


_ACTIONS: dict[str, Callable[[Any, Any], Result]] = {
    "optimize": _optimize,
    "compare": _compare,
    "quantize": partial(_compare, verb="quantize"),
    "bench": _bench,
}


def _open(folder: Path, config: str) -> None:
    """Make the run's folder, with its log and its config.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log_to(folder)
        (folder / "config.yaml").write_text(config)
    except OSError as error:
        raise _unwritable(folder, "out", error) from error


def _unwritable(folder: object, key: str, error: OSError) -> ConfigError:
    """Return the error of a run's folder that cannot be written; ``key`` chooses another."""
    return ConfigError(
        f"the run's folder cannot be written: {error.strerror}",
        artifact=folder,
        hint=f"{key}=FOLDER, where you can write",
    )
