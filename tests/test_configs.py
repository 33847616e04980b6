"""Every yaml composes, resolves and builds what it names."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from torchopt2edge._moved import KEYWORDS
from torchopt2edge.bench.thread_settings import Bench
from torchopt2edge.cli.config_keys import targets
from torchopt2edge.conf import registry
from torchopt2edge.conf.registry import options
from torchopt2edge.errors import ConfigError
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.types import Constraints

CONF = Path(__file__).parents[1] / "conf"
COMMANDS = ("optimize", "compare", "quantize", "bench")
# What the README asks the user to fill in.
NEEDS = {
    "data/image_folder": ["data.root=photos"],
    "data/cifar10_npz": ["data.test=test.npz"],
    "data/torchvision": ["data.root=sets"],
    "stage/loaded": ["stage.loaded.checkpoint=net.pth", "ship=[loaded]"],
}


def composed(command: str, *overrides: str) -> DictConfig:
    with initialize_config_module("torchopt2edge.conf", version_base="1.3"):
        return compose(command, overrides=list(overrides))


def every() -> list[tuple[str, str]]:
    groups = [group for group in registry.groups() if group not in KEYWORDS]
    return [(group, option) for group in groups for option in options(group)]


def test_the_registry_holds_the_folders() -> None:
    """Read here once more, from the disk."""
    folders = {path.parent.name for path in CONF.glob("[!_]*/*.yaml")}
    assert folders == set(registry.groups())
    assert options("backend") == sorted(path.stem for path in (CONF / "backend").glob("*.yaml"))
    assert options("no_such_group") == []


def test_the_registry_builds_an_option_without_hydra() -> None:
    from torchopt2edge.backends.ort.backend import Ort

    assert registry.build("backend", "ort") == Ort()
    with pytest.raises(ConfigError, match=r"there is no backend 'tensorrt'.*litert, ort"):
        registry.build("backend", "tensorrt")
    with pytest.raises(ConfigError, match="there is no backend"):
        registry.load("backend", "../compare")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes_and_resolves(command: str) -> None:
    config = composed(command)
    assert OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def test_report_takes_a_run() -> None:
    assert composed("report", "run=outputs/x").run == "outputs/x"


@pytest.mark.parametrize(("group", "option"), every())
def test_an_option_builds_what_it_names(group: str, option: str) -> None:
    command = "compare" if group == "model" else "optimize"
    choice = f"[{option}]" if group in ("stage", "backend") else option
    config = composed(command, f"{group}={choice}", *NEEDS.get(f"{group}/{option}", []))
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    if group == "experiment":
        assert config.name == option
        return
    if (group, option) == ("model", "file"):
        assert set(config.model) == {"_target_", "path"}  # the user's to fill in
        return
    built = instantiate(config[group], _convert_="all")
    if group == "model":
        assert isinstance(built, functools.partial)
        return
    for one in built.values() if group in ("stage", "backend") else [built]:
        assert type(one).__module__.startswith(_home(group)), one


# What a yaml may not list: it would be said to those who put something else in its place, or count
# in a store's key, where a function's arguments are those that it is given.
UNLISTED = {
    "torchopt2edge.compression.schedules.Polynomial": {
        "power"
    },  # another one than that of a Linear in its place
    "torchopt2edge.models.espcn.espcn": {"channels"},  # of the stage upscaler
    "torchopt2edge.devices.ssh.Ssh": {"memory"},  # what was seen there is no setting
    "torchopt2edge.devices.adb.Adb": {"memory"},
}
NO_WIDTH = re.compile("efficientnet|resnet|squeezenet")  # families without such members


@pytest.mark.parametrize(("group", "option"), every())
def test_an_option_lists_every_field_of_what_it_builds(group: str, option: str) -> None:
    """So that no setting of ours needs a plus, and ``--cfg`` shows each."""
    choice = f"[{option}]" if group in ("stage", "backend") else option
    config = composed("compare" if group == "model" else "optimize", f"{group}={choice}")
    for name, part in targets(OmegaConf.to_container(config).get(group), group):
        takes = inspect.signature(get_object(part["_target_"])).parameters
        missing = takes.keys() - part.keys() - UNLISTED.get(part["_target_"], set())
        if group == "model" and NO_WIDTH.match(option):
            missing -= {"width"}
        assert not missing, (name, missing)
        assert not {key for key in part if key[0] != "_"} - takes.keys(), name


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_lists_every_field_of_its_settings(command: str) -> None:
    config = composed(command)
    parts = {"constraints": Constraints, "quantize": Quantize, "bench": Bench}
    for name in parts.keys() & config.keys():
        assert set(config[name]) == {one.name for one in dataclasses.fields(parts[name])}


@pytest.mark.parametrize("option", options("data"))
def test_a_data_set_has_the_defaults_of_its_class(option: str) -> None:
    built: Any = instantiate(composed("optimize", f"data={option}").data, _convert_="all")
    for one in dataclasses.fields(built):
        value = getattr(built, one.name)
        assert (tuple(value) if isinstance(value, list) else value) == one.default, one.name


def _home(group: str) -> str:
    """Where the class of an option of a group lives."""
    rooms = {"stage": "stages", "backend": "backends", "device": "devices"}
    return f"torchopt2edge.{rooms.get(group, {'timing': 'bench'}.get(group, group))}"


def test_every_model_has_the_forward_of_an_image_net() -> None:
    """Cheap ones only: the others are the zoo's."""
    import torch

    for option in ("resnet8", "resnet14", "resnet20"):
        made: Any = instantiate(composed("compare", f"model={option}").model, _convert_="all")
        assert made().eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_group_of_the_users_own_repo_is_found(tmp_path: Path) -> None:
    (tmp_path / "timing").mkdir()
    text = (CONF / "timing" / "smoke.yaml").read_text().replace("name: smoke", "name: mine")
    (tmp_path / "timing" / "mine.yaml").write_text(text)
    config = composed("bench", "timing=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert config.timing.name == "mine"


def test_a_folder_of_yaml_may_have_any_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchopt2edge.cli.main import main

    folder = tmp_path / "größe (1), x=2's" / "timing"
    folder.mkdir(parents=True)
    text = (CONF / "timing" / "smoke.yaml").read_text().replace("name: smoke", "name: mine")
    (folder / "mine.yaml").write_text(text)
    assert main(["bench", "--config-dir", str(folder.parent), "timing=mine", "--cfg"]) == 0
    assert "name: mine" in capsys.readouterr().out
