"""Compose the config of a command once, and build what it describes. Only this file knows Hydra."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.cli import config_check, config_keys, renamed
from torchopt2edge.cli.config_check import OverrideError
from torchopt2edge.conf import registry
from torchopt2edge.errors import ConfigError, EdgeError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig as DictConfig


_LOG = logging.getLogger("torchopt2edge")


def compose_config(command: str, overrides: Sequence[str], whole: bool = True) -> DictConfig:
    """Return the config of a command.

    Args:
        command: the name of a yaml in ``conf/``.
        overrides: ``KEY=VALUE``, as in Hydra.
        whole: whether a mandatory value (``???``) may not be missing.

    Raises:
        OverrideError: an override is wrong; its text names the nearest right one.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        config, values = _with_options(command, renamed.overrides(overrides))
        _rename_keys(config)
        chosen: Any = OmegaConf.to_container(config)
        absent = [text for override in values if (text := _apply(config, override))]
        composed: Any = OmegaConf.to_container(config)
        message = config_keys.unread(command, composed, chosen, find)
        if message or absent:
            raise OverrideError(message or f"There is no such key; to add it, use +{absent[0]}")
        OmegaConf.to_container(config, resolve=True, throw_on_missing=whole)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # the last: GROUP=null
        raise OverrideError(_explained(error, overrides)) from error
    return config


def check(config: DictConfig) -> None:
    """Check names and values of a config.

    Raises:
        ConfigError: names the key.
    """
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(config, resolve=True)
    config_check.check_config(plain, find)


def as_yaml(config: DictConfig) -> str:
    """Return a config as yaml, resolved."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(config, resolve=True)


def build_part(node: Any) -> Any:
    """Build what a part of a config describes.

    Raises:
        ConfigError: it cannot be built.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, EdgeError):
            raise error.__cause__ from error
        raise ConfigError(
            f"the config describes nothing that can be built: {_cause(error)}",
            hint="check the _target_ and its arguments (--cfg prints the whole config)",
        ) from error


def find(target: str) -> Callable[..., Any] | None:
    """Import what a ``_target_`` names; None where that fails, which `build_part` will explain."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        named: Callable[..., Any] = instantiate({"_target_": target, "_partial_": True}).func
        return named
    except InstantiationException:
        return None


def jobs_of(overrides: Sequence[str]) -> Iterator[Sequence[str]]:
    """Walk as many jobs of a sweep as show every value of every key once."""
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    try:
        parsed = _parsed(overrides)
    except HydraException:  # `compose_config` explains it
        yield overrides
        return
    values = [
        [f"{item.get_key_element()}={value}" for value in item.sweep_string_iterator()]
        if item.is_sweep_override()
        else [str(item.input_line)]
        for item in parsed
        if not isinstance(item.value(), Glob)  # it only names options that exist
    ]
    for turn in range(max(map(len, values), default=1)):
        yield [each[turn % len(each)] for each in values]


def sweep(
    command: str,
    overrides: Sequence[str],
    run: Callable[[DictConfig, Path], bool],
) -> tuple[list[tuple[str, Path]], dict[Path, EdgeError], bool]:
    """Hand the jobs of a sweep to Hydra's launcher; a job that fails does not end the sweep.

    Args:
        command: the name of a yaml in ``conf/``.
        overrides: some with several values.
        run: runs one job in a folder, and returns whether anything could be measured.

    Returns:
        Each job's overrides and folder, the errors by folder, and whether any job succeeded.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    jobs: list[tuple[str, Path]] = []
    errors: dict[Path, EdgeError] = {}
    succeeded: list[bool] = []

    def job(config: DictConfig) -> None:
        runtime = HydraConfig.get()
        folder = Path(runtime.runtime.output_dir)
        plain: Any = OmegaConf.create(OmegaConf.to_container(config))
        _rename_keys(plain)
        jobs.append((" ".join(runtime.overrides.task), folder))
        try:
            succeeded.append(run(plain, folder))
        except EdgeError as error:
            errors[folder] = error
            _LOG.error("%s: %s", jobs[-1][0], error)

    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR", "")
    sys.argv = [f"torchopt2edge {command}", *renamed.overrides(overrides), "-m"]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # without it Hydra prints an error and exits
    conf = f"pkg://{registry.PACKAGE}"
    try:
        hydra.main(version_base="1.3", config_path=conf, config_name=command)(job)()
    finally:
        sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, full_error
    return jobs, errors, any(succeeded)


def _with_options(command: str, overrides: Sequence[str]) -> tuple[DictConfig, list[Override]]:
    """Compose a config with the options of its groups; return the other overrides too."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    parsed = _parsed(overrides)
    for override in parsed:
        if override.is_sweep_override():
            text = f"{override.input_line} has several values: -m tries each, [A,B] is a list"
            raise OverrideError(text)
    with initialize_config_module(registry.PACKAGE, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        hydra = [str(item.input_line) for item in parsed if item.is_hydra_override()]
        values = [
            item
            for item in parsed
            if not item.is_hydra_override()
            and not loader.get_group_options(item.key_or_group, overrides=hydra)
        ]
        options = [str(item.input_line) for item in parsed if item not in values]
        return compose(command, overrides=options), values


def _parsed(overrides: Sequence[str]) -> list[Override]:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides(list(overrides))


def _rename_keys(config: DictConfig) -> None:
    """Move what a yaml of the user's own says under an old key to the new one."""
    from omegaconf import OmegaConf, open_dict

    plain: Mapping[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    for old, new in renamed.keys(config_keys.paths(plain)):
        OmegaConf.update(config, new, OmegaConf.select(config, old), merge=True, force_add=True)
        head, _, name = old.rpartition(".")
        node = OmegaConf.select(config, head) if head else config
        with open_dict(node):
            del node[name]


def _apply(config: DictConfig, override: Override) -> str:
    """Apply an override to a composed config; return its text where a plus is missing, else ""."""
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    key, value, text = override.key_or_group, override.value(), str(override.input_line)
    if override.package is not None:
        near = config_keys.did_you_mean(key, registry.groups())
        raise OverrideError(f"There is no group {key!r}.{near}")
    if override.is_delete():
        _delete(config, key, value)
    elif override.is_add() or override.is_force_add():
        there = OmegaConf.select(config, key, throw_on_missing=False) is not None
        if there and override.is_add() and not isinstance(value, dict | list):
            raise OverrideError(f"{key!r} is there already: leave the plus out, {text[1:]}")
        OmegaConf.update(config, key, value, merge=True, force_add=True)
    else:
        try:
            OmegaConf.update(config, key, value, merge=True)
        except (ConfigAttributeError, ConfigKeyError):
            OmegaConf.update(config, key, value, merge=True, force_add=True)
            return text
    return ""


def _delete(config: DictConfig, key: str, value: Any) -> None:
    from omegaconf import DictConfig, OmegaConf, open_dict

    head, _, name = key.rpartition(".")
    node = OmegaConf.select(config, head) if head else config
    if not isinstance(node, DictConfig) or name not in node:
        raise OverrideError(f"~{key} removes nothing: there is no such key")
    if value is not None and value != node[name]:
        raise OverrideError(f"~{key} removes nothing: {key} is {node[name]} and not {value}")
    with open_dict(node):
        del node[name]


def _explained(error: Exception, overrides: Sequence[str]) -> str:
    """Return what is wrong with an override, without Hydra's insides, and the nearest right one."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    missing = str(getattr(error, "missing_cfg_file", None) or "")
    if isinstance(error, MissingConfigException) and "/" in missing:
        group, _, name = missing.rpartition("/")
        known = error.options or registry.options(group)
        listing = f"Available options in {group!r}: {', '.join(known)}"
        near = config_keys.did_you_mean(name, known)
        return f"{group!r} has no option {name!r}.\n{listing}{near}"
    if isinstance(error, ValueError) and not isinstance(error, OmegaConfBaseException):
        wrong = [text for text in overrides if text.partition("=")[2] in ("null", "~")]
        return f"A group takes the name of an option; ~GROUP leaves it out: {', '.join(wrong)}"
    insides = ("full_key:", "object_type=", "See https://hydra.cc")
    lines = [x for x in str(error).strip().splitlines() if not x.strip().startswith(insides)]
    if isinstance(error, OverrideParseException):
        lines.append(_quoting(error.override))
    return "\n".join(filter(None, lines))


def _quoting(override: str) -> str:
    key, equals, value = override.partition("=")
    if not (equals and value):
        return "An override is KEY=VALUE"
    return f"A value with spaces or signs is quoted twice: '{key}={_quoted(value)}'"


def _quoted(value: str) -> str:
    """Return a value, or each of a list, in the quotes that Hydra wants around odd signs."""
    if value.startswith("["):
        return f"[{','.join(map(_quoted, value.strip('[]').split(',')))}]"
    return f'"{value}"'


def _cause(error: BaseException) -> str:
    """Return the first line of the innermost cause: Hydra wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0].rstrip('.')}"
