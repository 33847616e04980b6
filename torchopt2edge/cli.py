"""The commands. The only file that imports hydra and omegaconf."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torchopt2edge
from torchopt2edge.commands import COMMANDS, CONF
from torchopt2edge.errors import ConfigError, EdgeError
from torchopt2edge.terminal import console, log_to, progress, say_interrupted
from torchopt2edge.upkeep import add_commands, render, show

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from torchopt2edge.api import Result, SettingsArgs
    from torchopt2edge.protocols import Device

log = logging.getLogger("torchopt2edge")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 for an error of ours, 2 for a wrong override, 130 for Ctrl-C."""
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
    parser.add_argument("--version", action="version", version=torchopt2edge.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        one = commands.add_parser(
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
        one.set_defaults(run=_configured, command=name)
    add_commands(commands, _on_device)
    for one in {*commands.choices.values(), parser}:
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _configured(given: argparse.Namespace) -> int:
    """Compose the config of a command and run it, or sweep."""
    from omegaconf import OmegaConf

    overrides = list(given.overrides)
    if given.config_dir:
        if not Path(given.config_dir).is_dir():
            raise ConfigError("--config-dir names no folder", artifact=given.config_dir)
        overrides.append(f"hydra.searchpath=[file://{Path(given.config_dir).resolve()}]")
    if given.multirun:
        return _sweep(given.command, overrides)
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
        return config
    except (HydraException, OmegaConfBaseException) as error:
        said = f"{_bare(error)}{_nearest(command, overrides)}"
        console(err=True).print(said, style="red", markup=False, highlight=False)
        return None


def _bare(error: Exception) -> str:
    """Return what was said without where in OmegaConf's tree it was."""
    own = ("full_key:", "object_type=")
    return "\n".join(x for x in str(error).strip().splitlines() if not x.strip().startswith(own))


def _on_device(act: Callable[[Device], int], overrides: Sequence[str]) -> int:
    """Do something with the device that the overrides describe, and nothing else of a config."""
    config = _resolved("bench", overrides)
    return 2 if config is None else act(_make(config.device))


def _compose(command: str, overrides: Sequence[str]) -> DictConfig:
    from hydra import compose, initialize_config_module

    with initialize_config_module(CONF, version_base="1.3"):
        return compose(command, overrides=list(overrides))


def _nearest(command: str, overrides: Sequence[str]) -> str:
    """Add what Hydra leaves out for a wrong key: the nearest of those there are."""
    from omegaconf import OmegaConf

    known = set(_keys(OmegaConf.to_container(_compose(command, []))))
    wrong = [item.split("=")[0] for item in overrides if item[:1] not in "+~"]
    near = {key: difflib.get_close_matches(key, known, 1) for key in wrong if key not in known}
    found = [f"\nDid you mean {match[0]!r}?" for match in near.values() if match]
    return "".join(found)


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Walk the dotted keys of a config, and the groups that choose its parts."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")


def _sweep(command: str, overrides: Sequence[str]) -> int:
    """Hand the jobs to Hydra's launcher; a job that fails does not end the sweep.

    Returns 1 when not one of them measured anything.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from torchopt2edge.report import sweep

    jobs: list[tuple[str, str]] = []
    worked: list[str] = []

    def job(config: DictConfig) -> None:
        runtime = HydraConfig.get()
        folder = str(Path(runtime.runtime.output_dir))
        plain: Any = OmegaConf.create(OmegaConf.to_container(config))
        jobs.append((" ".join(runtime.overrides.task), folder))
        try:
            if _run(command, plain, folder) == 0:
                worked.append(folder)
        except EdgeError as error:
            log.error("%s: %s", jobs[-1][0], error)

    before = sys.argv
    sys.argv = [f"torchopt2edge {command}", *overrides, "-m"]
    try:
        hydra.main(version_base="1.3", config_path=f"pkg://{CONF}", config_name=command)(job)()
    finally:
        sys.argv = before
    sweep.show(console(), jobs)
    return 0 if worked else 1


def _run(command: str, config: DictConfig, out: str | None) -> int:
    if command == "optimize" and config.prune.dry_run:
        return _explain(config)
    fresh = f"outputs/{config.get('name', command)}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(out or config.get("out") or fresh)
    folder.mkdir(parents=True, exist_ok=True)
    log_to(folder)
    _keep_config(config, folder)
    actions: dict[str, Callable[[DictConfig, SettingsArgs], Result]] = {
        "optimize": _optimize,
        "compare": _compare,
        "quantize": partial(_compare, command="quantize"),
        "bench": _bench,
    }
    began = time.time()
    try:
        result = actions[command](config, _settings(config, folder, command))
    except KeyboardInterrupt:
        say_interrupted(folder, began)
        raise
    show(result)
    return 0 if result.worked else 1


def _explain(config: DictConfig) -> int:
    """Say what would be cut, and stop."""
    from torchopt2edge import api

    shown = console()
    for name, found in api.explain_cuts(_make(config.stage), progress=progress()).items():
        shown.print(f"{name}:", markup=False, highlight=False)
        shown.print(found.table())
        for layer, why in found.kept.items():
            shown.print(f"stays whole: {layer}: {why}", markup=False, highlight=False)
    return 0


def _optimize(config: DictConfig, settings: SettingsArgs) -> Result:
    from torchopt2edge import api

    return api.optimize(_make(config.stage), _make(config.data), ship=list(config.ship), **settings)


def _compare(config: DictConfig, settings: SettingsArgs, command: str = "compare") -> Result:
    from torchopt2edge import api
    from torchopt2edge.data import loader
    from torchopt2edge.types import SCHEMES

    verb = api.lower if command == "quantize" else api.compare
    if not config.get("data"):
        model, example = _model(config, None)
        return verb(model, example, **settings)
    data = _make(config.data)
    ranged = any(SCHEMES[name].needs_ranges for name in config.schemes if name in SCHEMES)
    split = loader(data.split("calibration" if ranged else "test"), batch_size=32)
    model, example = _model(config, next(iter(split))[0])
    test = loader(data.split("test"), batch_size=64)
    settings["preprocess"], settings["calibration_seed"] = data.preprocess, data.seed
    return verb(model, example, split if ranged else None, test, **settings)


def _model(config: DictConfig, images: Any) -> tuple[Any, Any]:
    """Return the path of an .onnx, or a module with its checkpoint and an example input."""
    node = {key: value for key, value in config.model.items() if value is not None}
    path = node.pop("path", None)
    if path is not None:
        return str(path), None
    if "_target_" not in node:
        raise ConfigError(
            "there is no model",
            mend="model.path=net.onnx, or model._target_=pkg.fn, or model=mobilenet_v2",
        )
    import torch

    from torchopt2edge.models.artifact import load_checkpoint

    model = _make({**node, "_partial_": False})
    if config.checkpoint is not None:
        load_checkpoint(model, Path(config.checkpoint))
    if images is None:
        images = torch.randn(4, *config.input_shape, generator=torch.Generator().manual_seed(0))
    return model, (images,)


def _bench(config: DictConfig, settings: SettingsArgs) -> Result:
    from torchopt2edge import api

    return api.measure(list(config.artifacts), **settings)


def _make(node: Any) -> Any:
    """Build what a config node describes; a failing import or argument is an error of ours."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, EdgeError):
            raise error.__cause__ from error
        raise ConfigError(
            f"the config describes nothing that can be built: {_cause(error)}",
            mend="check the _target_ and its arguments (--cfg prints the whole config)",
        ) from error


def _cause(error: BaseException) -> str:
    """Return the first line of the innermost cause: Hydra wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0].rstrip('.')}"


def _settings(config: DictConfig, out: Path, command: str) -> SettingsArgs:
    from torchopt2edge.devices.named import named
    from torchopt2edge.quantize.decide import Quantize
    from torchopt2edge.types import Constraints

    device, words = _make(config.device), config.get("devices") or ()
    settings: SettingsArgs = {
        "device": device,
        "devices": [named(word, device) for word in ([words] if isinstance(words, str) else words)],
        "protocol": _make(config.protocol),
        "out": out,
        "constraints": Constraints(**config.constraints),
        "progress": progress(),
        "title": str(config.get("name", command)),
        "environment": {"command": shlex.join(["torchopt2edge", *sys.argv[1:]])},
    }
    if "bench" in config:
        settings["bench"] = _bench_of(config.bench)
    if "task" in config:
        settings["task"] = _make(config.task)
    if "backend" in config:
        settings["backends"] = tuple(_make(config.backend).values())
        settings["schemes"] = tuple(config.schemes)
        settings["baseline"] = bool(config.baseline)
        settings["calibration_samples"] = int(config.calibration_samples)
        settings["evaluate_samples"] = config.get("evaluate_samples")
        how = config.quantize
        settings["quantize"] = Quantize(**{**how, "exclude": tuple(how.exclude)})
    return settings


def _bench_of(node: Any) -> Any:
    from omegaconf import OmegaConf

    from torchopt2edge.bench.setting import Bench

    plain: Any = OmegaConf.to_container(node, resolve=True)
    cores, threads = plain.pop("affinity"), plain.pop("threads")
    return Bench(
        None if threads is None else tuple(threads),
        None if cores is None else tuple(map(tuple, cores)),
        **plain,
    )


def _keep_config(config: DictConfig, folder: Path) -> None:
    from omegaconf import OmegaConf

    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
