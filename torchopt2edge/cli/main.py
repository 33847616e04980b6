"""The commands. The only file that imports hydra and omegaconf."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge._version import __version__
from torchopt2edge.cli import build, commands
from torchopt2edge.cli.commands import COMMANDS
from torchopt2edge.cli.config_check import (
    check_names,
    check_values,
    listed,
    nearest,
    targets,
    untaken,
)
from torchopt2edge.cli.console import console, log_to, never_fail, progress, say_interrupted
from torchopt2edge.cli.maintenance import add_commands, render, show, show_cuts
from torchopt2edge.conf import registry
from torchopt2edge.errors import ConfigError, EdgeError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from torchopt2edge.interfaces import Device
    from torchopt2edge.workflow.result import Result
    from torchopt2edge.workflow.settings import SettingsArgs

log = logging.getLogger("torchopt2edge")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 for an error of ours, 2 for a wrong override, 130 for Ctrl-C."""
    never_fail(sys.stdout, sys.stderr)
    given = _parser().parse_args(argv)
    try:
        return int(given.run(given))
    except EdgeError as error:
        if given.debug:
            raise
        console(err=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130


def entry() -> None:
    """Leave with the command's exit code: the console script.

    What lies in the working directory can be named in a ``_target_``, as with ``python -m``; last,
    so that it hides nothing.
    """
    sys.path.append(os.getcwd())
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchopt2edge",
        description="Take a trained PyTorch vision model to phones and boards, on evidence.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    actions = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parsers(actions, _configured)
    add_commands(actions, _on_device)
    for one in {*actions.choices.values(), parser}:
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _configured(given: argparse.Namespace) -> int:
    """Compose the config of a command and run it, or sweep."""
    from omegaconf import OmegaConf

    overrides = list(given.overrides)
    if given.config_dir:
        if not Path(given.config_dir).is_dir():
            raise ConfigError("--config-dir names no folder", artifact=given.config_dir)
        place = str(Path(given.config_dir).resolve()).replace("'", r"\'")
        overrides.append(f"hydra.searchpath=['file://{place}']")
    if given.multirun and given.cfg:
        raise ConfigError("-m makes several configs, and --cfg prints one", hint="leave -m out")
    if given.multirun:
        right = all(_resolved(given.command, job) for job in _each_value(overrides))
        return _sweep(given.command, overrides) if right else 2
    config = _resolved(given.command, overrides, whole=not given.cfg)
    if config is None:
        return 2
    if given.cfg:
        sys.stdout.write(OmegaConf.to_yaml(config, resolve=True))
        return 0
    if given.command == "report":
        runs = [one.partition("=")[2] for one in overrides if one.startswith("run=")]
        return render(runs, config.report.max_regression, config.out)
    return _run(given.command, config, None)


def _resolved(command: str, overrides: Sequence[str], whole: bool = True) -> DictConfig | None:
    """Compose and resolve a config; None where an override is wrong, once that was said."""
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = _compose(command, overrides)
        OmegaConf.to_container(config, resolve=True, throw_on_missing=whole)
        said = _unread(command, config, overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # the last: GROUP=null
        said = _told(error, command, overrides)
    if not said:
        return config
    console(err=True).print(said, style="red", markup=False, highlight=False)
    return None


def _told(error: Exception, command: str, overrides: Sequence[str]) -> str:
    """Return what is wrong with an override, without Hydra's insides, and the nearest right one."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    missing = str(getattr(error, "missing_cfg_file", None) or "")
    if isinstance(error, MissingConfigException) and "/" in missing:
        group, _, word = missing.rpartition("/")
        known = error.options or registry.options(group)
        listing = f"Available options in {group!r}: {', '.join(known)}"
        return f"{group!r} has no option {word!r}.\n{listing}{nearest(word, known)}"
    own = ("full_key:", "object_type=", "See https://hydra.cc")
    lines = [x for x in str(error).strip().splitlines() if not x.strip().startswith(own)]
    if isinstance(error, OverrideParseException):
        key, equals, value = error.override.partition("=")
        value = commands.quoted(value)
        quoted = f"A value with signs of its own goes into quotes twice: '{key}={value}'"
        lines.append(quoted if equals and value else "An override is KEY=VALUE")
    elif isinstance(error, ValueError) and not isinstance(error, OmegaConfBaseException):
        wrong = [one for one in overrides if one.partition("=")[2] in ("null", "~")]
        lines = [f"A group takes the name of an option; ~GROUP leaves it out: {', '.join(wrong)}"]
    elif said := _missing(command, overrides):
        return said
    return "\n".join(filter(None, lines))


def _on_device(act: Callable[[Device], int], overrides: Sequence[str]) -> int:
    """Do something with the device that the overrides describe, and nothing else of a config."""
    config = _resolved("bench", overrides)
    return 2 if config is None else act(_make(config.device, "device"))


def _compose(command: str, overrides: Sequence[str]) -> DictConfig:
    from hydra import compose, initialize_config_module

    with initialize_config_module(registry.PACKAGE, version_base="1.3"):
        return compose(command, overrides=list(overrides))


def _chosen(command: str, overrides: Sequence[str]) -> Any:
    """Compose a command's config with the options of groups alone, as plain data."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    with initialize_config_module(registry.PACKAGE, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        ours = [str(one.input_line) for one in parsed if one.is_hydra_override()]
        groups = [
            str(one.input_line)
            for one in parsed
            if loader.get_group_options(one.key_or_group, overrides=ours)
        ]
        return OmegaConf.to_container(compose(command, overrides=[*ours, *groups]))


def _unread(command: str, config: DictConfig, overrides: Sequence[str]) -> str:
    """Return what is wrong with the keys that overrides add; "" where each is read by something."""
    from omegaconf import OmegaConf

    composed: Any = OmegaConf.to_container(config)
    plain, chosen = _chosen(command, []), _chosen(command, overrides)
    for key in commands.stray(command, composed, plain, chosen):
        return commands.unknown(key, command, chosen, lambda one: _chosen(one, []))
    added = sorted(set(commands.paths(composed)) - set(commands.paths(chosen)))
    return untaken(composed, added, _function)


def _missing(command: str, overrides: Sequence[str]) -> str:
    """Return what is wrong with keys that are not there; "" where a plus would make them right."""
    from hydra.errors import HydraException

    try:
        known = set(commands.paths(_chosen(command, overrides)))
        added = [
            one if one[:1] in "+~" or one.partition("=")[0] in known else f"+{one}"
            for one in overrides
        ]
        return _unread(command, _compose(command, added), added)
    except HydraException:  # something else is wrong, and Hydra's own words say what
        return ""


def _function(target: str) -> Callable[..., Any] | None:
    """Return what a ``_target_`` names; None where it cannot be had, which its making will say."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        named: Callable[..., Any] = instantiate({"_target_": target, "_partial_": True}).func
        return named
    except InstantiationException:
        return None


def _each_value(overrides: Sequence[str]) -> Iterator[Sequence[str]]:
    """Walk as many jobs of a sweep as show every value of every key once."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:  # what composes a config says what is wrong
        yield overrides
        return
    values = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [str(one.input_line)]
        for one in parsed
        if not isinstance(one.value(), Glob)  # names only what there is
    ]
    for turn in range(max(map(len, values), default=1)):
        yield [each[turn % len(each)] for each in values]


def _sweep(command: str, overrides: Sequence[str]) -> int:
    """Hand the jobs to Hydra's launcher; a job that fails does not end the sweep.

    Returns 1 when not one of them measured anything.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from torchopt2edge.report.devices import sweep

    jobs: list[tuple[str, str]] = []
    worked: list[str] = []
    lost: dict[str, str] = {}

    def job(config: DictConfig) -> None:
        runtime = HydraConfig.get()
        folder = str(Path(runtime.runtime.output_dir))
        plain: Any = OmegaConf.create(OmegaConf.to_container(config))
        jobs.append((" ".join(runtime.overrides.task), folder))
        try:
            if _run(command, plain, folder) == 0:
                worked.append(folder)
        except EdgeError as error:
            lost[folder] = str(error)
            log.error("%s: %s", jobs[-1][0], error)

    before, shown = sys.argv, os.environ.get("HYDRA_FULL_ERROR", "")
    sys.argv = [f"torchopt2edge {command}", *overrides, "-m"]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints an error and leaves, unheard by us
    try:
        conf = f"pkg://{registry.PACKAGE}"
        hydra.main(version_base="1.3", config_path=conf, config_name=command)(job)()
    except OSError as error:
        raise commands.unwritable(error.filename, "hydra.sweep.dir", error) from error
    finally:
        sys.argv, os.environ["HYDRA_FULL_ERROR"] = before, shown
    sweep.show(console(), jobs, lost)
    return 0 if worked else 1


def _run(command: str, config: DictConfig, out: str | None) -> int:
    COMMANDS[command].check_groups(config)
    if command == "optimize" and config.prune.dry_run:
        return _explain(config)
    fresh = f"outputs/{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(out or config.out or fresh)
    settings = build.settings(config, folder, _make)
    _open(folder, config)
    actions: dict[str, Callable[[DictConfig, SettingsArgs], Result]] = {
        "optimize": _optimize,
        "compare": _compare,
        "quantize": partial(_compare, command="quantize"),
        "bench": _bench,
    }
    began = time.time()
    try:
        result = actions[command](config, settings)
    except KeyboardInterrupt:
        say_interrupted(folder, began)
        raise
    show(result)
    return 0 if result.worked else 1


def _explain(config: DictConfig) -> int:
    """Say what would be cut, and stop."""
    from torchopt2edge import api

    show_cuts(api.explain_cuts(_make(config.stage, "stage"), progress=progress()))
    return 0


def _optimize(config: DictConfig, settings: SettingsArgs) -> Result:
    from torchopt2edge import api

    data = _make(config.data, "data")
    return api.optimize(_make(config.stage, "stage"), data, ship=listed(config.ship), **settings)


def _compare(config: DictConfig, settings: SettingsArgs, command: str = "compare") -> Result:
    from torchopt2edge import api
    from torchopt2edge.data import loader

    verb = api.lower if command == "quantize" else api.compare
    if not config.get("data"):
        model, example = build.model(config, None, _make)
        return verb(model, example, **settings)
    data = _make(config.data, "data")
    # Never test data: what the files are checked on may not be what they are scored on.
    split = loader(data.split("calibration"), batch_size=32)
    model, example = build.model(config, next(iter(split))[0], _make)
    test = loader(data.split("test"), batch_size=64)
    settings["preprocess"], settings["calibration_seed"] = data.preprocess, data.seed
    return verb(model, example, split, test, **settings)


def _bench(config: DictConfig, settings: SettingsArgs) -> Result:
    from torchopt2edge import api

    return api.measure(listed(config.artifacts), **settings)


def _make(node: Any, name: str) -> Any:
    """Build what the config describes under a name; what cannot be built is an error of ours."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    for key, part in targets(node, name):
        if function := _function(part["_target_"]):
            check_names(function, part, key)
    try:
        made = instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, EdgeError):
            raise error.__cause__ from error
        raise ConfigError(
            f"the config describes nothing that can be built: {commands.cause(error)}",
            hint="check the _target_ and its arguments (--cfg prints the whole config)",
        ) from error
    check_values(made, name)
    return made


def _open(folder: Path, config: DictConfig) -> None:
    """Make the run's folder, with its log and its config.

    Raises:
        ConfigError: it cannot be written.
    """
    from omegaconf import OmegaConf

    try:
        folder.mkdir(parents=True, exist_ok=True)
        log_to(folder)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    except OSError as error:
        raise commands.unwritable(folder, "out", error) from error
